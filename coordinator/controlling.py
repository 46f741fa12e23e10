"""Take the control variates of a round out of its steps, and renew them. Reads the blob folder.

A device that is corrected moves partly where the server told it to. That part is the server's, like
momentum: it belongs to nobody, and only what a device's own gradients did is credited. And what the
server sent it knows: the mean variate, and to a device that says it did not use its correction that
too, are changes that could be foreseen (`coordinator.contribution.novelty`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from coordinator.aggregation.changes import Change, usual_length
from coordinator.aggregation.control_variates import (
    Asked,
    believed,
    bounded,
    correction,
    mean_variate,
    own_work,
    packed,
    remembered,
    renewed,
    unknown_variate,
    unpacked,
)
from coordinator.aggregation.partial_average import averaged_steps
from coordinator.aggregation.readers import ChangeReader, reader_of, whole
from coordinator.aggregation.rules import in_memory
from coordinator.aggregation.steps import Step
from coordinator.bench import Control, ScoreJob
from journal.blobs import BlobFolder
from journal.events import ControlVariates
from slimmable.slicing import coverage
from slimmable.spec import WidthSpec
from slimmable.state import ModelState, decode_state, encode_state


@dataclass(frozen=True)
class Controlled:
    """The steps of a round, without what the server told devices to do.

    Attributes:
        own: what the devices' own gradients did; rest: what the corrections did. Together they
            are the steps of the round.
        known: changes of the full model that the server could foresee because it sent them to all.
        sent: device -> the same, of that device alone.
        variates: to be recorded; None where there are none.
    """

    own: Sequence[Step]
    rest: Sequence[Step] = ()
    known: Sequence[ModelState] = ()
    sent: Mapping[str, ModelState] = field(default_factory=dict)
    variates: ControlVariates | None = None


def control(
    spec: WidthSpec,
    blobs: BlobFolder,
    base: ModelState,
    readers: Sequence[ChangeReader],
    steps: Sequence[Step],
    job: ScoreJob,
) -> Controlled:
    """Split the steps of a round and renew its control variates; all of it own work without any.

    Args:
        spec: of the model.
        blobs: where the variates are.
        base: full state that the round started from.
        readers: of the changes of the round. All that is controlled is whole in memory.
        steps: by the mean of the updates.
        job: of the round.
    """
    given = job.control
    if given is None:
        return Controlled(steps)
    memory = decode_state(blobs.get(given.fleet)) if given.fleet else {}
    mean = mean_variate(spec, memory)
    asked = {
        update.device: Asked(update.steps, given.rate, update.corrected) for update in job.updates
    }
    ordered = sorted(readers, key=lambda one: one.device)
    changes = [whole(base, spec, one) for one in ordered]
    works, sent = _works(spec, blobs, given, changes, mean, asked)
    stored: dict[str, str] = {}
    for work in bounded(works):  # their own variates are read again: never all at once
        own = _own(spec, blobs, given, work.device)
        after = renewed(spec, own, work, asked[work.device])
        memory = remembered(spec, memory, own, after)
        stored[work.device] = blobs.put(encode_state(packed(after)))
    mine = averaged_steps(base, spec, [reader_of(work) for work in works], in_memory)
    known = [mean] if any(array.any() for array in mean.values()) else []
    return Controlled(
        mine,
        [_less(step, part) for step, part in zip(steps, mine, strict=True)],
        known,
        sent,
        ControlVariates(fleet=blobs.put(encode_state(memory)), devices=stored),
    )


def _works(
    spec: WidthSpec,
    blobs: BlobFolder,
    given: Control,
    changes: Sequence[Change],
    mean: ModelState,
    asked: Mapping[str, Asked],
) -> tuple[list[Change], dict[str, ModelState]]:
    """Return what the devices' own gradients did, and what was sent to those who did not use it."""
    works, sent, usual = [], {}, usual_length(changes)
    for change in changes:
        own = _own(spec, blobs, given, change.device)
        told = correction(spec, mean, own, change.place)
        order = believed(spec, mean, own, change, asked[change.device], usual)
        works.append(own_work(change, told, order))
        if not order.corrected and any(array.any() for array in told.values()):
            sent[change.device] = _widened(spec, change, told)
    return works, sent


def _own(spec: WidthSpec, blobs: BlobFolder, given: Control, device: str) -> ModelState:
    digest = given.devices.get(device)
    return unpacked(spec, decode_state(blobs.get(digest))) if digest else unknown_variate(spec)


def _widened(spec: WidthSpec, change: Change, told: ModelState) -> ModelState:
    """Return a slice of a change in full shapes, 0 outside."""
    found = {name: np.zeros(spec.shape(name, 1.0), np.float32) for name in spec.parameters}
    for name in spec.parameters:
        found[name][coverage(spec, name, *change.place)] = told[name]
    return found


def _less(step: Step, part: Step) -> Step:
    return replace(
        step, change={name: array - part.change[name] for name, array in step.change.items()}
    )
