"""Distil what the devices' networks say into the aggregate of a round.

The teachers are the networks as the devices sent them, each at its own width; the student is the
aggregate, at all widths of the grid (`slimmable.student`). Inputs are recordings that nobody
labelled, or whose labels are not looked at.

Teachers speak one after the other and only what they say is kept: with the mean, one (N, C) array
for all; with the weighted consensus, one for each. Who says NaN or infinity is not heard. Whoever
is heard is trusted: outputs are not checked against anything, so where a device may lie, recordings
should be set aside (`coordinator.settings.Distillation`): what they do not find better is not
taken.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from coordinator.aggregation.changes import Change
from coordinator.bench import Bench
from coordinator.bench_loading import load_server_data
from journal.events import Distilled
from slimmable.ensemble import Lesson, NobodyError, consensus_lesson, mean_lesson
from slimmable.evaluation import calibrate, calibrated_slices, outputs
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState
from slimmable.student import StudentRule, teach

log = logging.getLogger(__name__)

DRAWS = 0xD157  # apart from whatever else is drawn in a round


def distil(
    bench: Bench,
    number: int,
    model: SlimmableModel,
    base: Mapping[str, Array],
    changes: Sequence[Change],
    state: ModelState,
) -> tuple[ModelState, Distilled]:
    """Return the aggregate after it was taught, and how that went.

    It is the aggregate as it was, where no step made it better on the recordings set aside, nobody
    could be heard, or it broke with no such recordings to fall back on.

    Args:
        bench: data, widths and rule.
        number: of the round; with the seed it decides all draws.
        model: of teachers and student.
        base: full state that the round started from.
        changes: what the devices changed of it.
        state: full aggregate.

    Raises:
        SamplesError: the server's recordings cannot be read.
    """
    how, data = bench.distillation, load_server_data(bench)
    assert data.pool is not None
    rng = np.random.default_rng((bench.seed, number, DRAWS))
    # No more inputs than the steps can see.
    count = min(len(data.pool), how.steps * how.batch_size)
    x = data.pool[np.sort(rng.permutation(len(data.pool))[:count])]
    lesson, found = _ensemble(how.rule, changes, teachers_say(model, base, changes, x))
    if lesson is None:
        return state, found
    taught = teach(
        model,
        state,
        x,
        lesson,
        StudentRule(
            how.steps, how.batch_size, how.learning_rate, bench.grid, how.temperature, how.diversity
        ),
        rng,
        _Judge(model, bench.grid, x, data.judges) if data.judges else None,
    )
    if taught.trouble:
        log.warning("distillation in round %d: %s", number, taught.trouble)
    return taught.state, msgspec.structs.replace(
        found,
        steps=taught.steps,
        loss_before=taught.loss_before,
        loss_after=taught.loss_after,
        trouble=taught.trouble,
    )


def teachers_say(
    model: SlimmableModel, base: Mapping[str, Array], changes: Sequence[Change], x: Array
) -> Iterator[tuple[str, Array]]:
    """Yield each device and what its network says, (N, ...), with statistics estimated on ``x``."""
    for one in changes:
        cut = slice_state(base, model.spec, *one.place)
        own = {**cut, **{name: cut[name] + change for name, change in one.change.items()}}
        with np.errstate(all="ignore"):  # what overflows is not heard
            filled = {**own, **calibrate(model, one.width, own, x)}
        yield one.device, outputs(model, one.width, filled, x)


def _ensemble(
    rule: str, changes: Sequence[Change], said: Iterator[tuple[str, Array]]
) -> tuple[Lesson | None, Distilled]:
    """Return what the ensemble says, None where there is nobody in it, and who was heard."""
    left_out: list[str] = []

    def heard() -> Iterator[Array]:
        for device, one in said:
            if np.isfinite(one).all():
                yield one
            else:
                log.warning("distillation: the network of %s says NaN or infinity", device)
                left_out.append(device)

    lesson, trouble = None, ""
    try:
        lesson = mean_lesson(heard()) if rule == "feddf" else consensus_lesson(list(heard()))
    except NobodyError:
        trouble = "no network could be heard"
    return lesson, Distilled(
        rule=rule,
        teachers=len(changes) - len(left_out),
        steps=0,
        left_out=tuple(left_out),
        trouble=trouble,
    )


class _Judge:
    """The loss of a state on recordings that nobody is taught with, averaged over the grid."""

    def __init__(
        self, model: SlimmableModel, grid: Sequence[float], x: Array, samples: Samples
    ) -> None:
        self._model, self._grid, self._x, self._samples = model, grid, x, samples

    def __call__(self, state: ModelState) -> float:
        slices = calibrated_slices(self._model, state, self._grid, self._x)
        losses = [
            self._model.task.balanced_loss(
                outputs(self._model, width, slices[width], self._samples.x), self._samples.y
            )
            for width in self._grid
        ]
        return float(np.mean(losses))
