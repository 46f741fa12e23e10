"""How a round's updates become one change: the front door of this package. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.aggregation.partial_average import Room, averaged_steps, partial_average
from coordinator.aggregation.readers import ChangeReader, readers_of, shortened
from coordinator.aggregation.steps import Step, add
from coordinator.aggregation.trimmed_mean import MEDIAN, trimmed_mean
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.settings import Aggregation
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState

MEAN = Aggregation()


@dataclass(frozen=True)
class Aggregate:
    """The change of a round.

    Attributes:
        change: parameter name -> by how much the full model moves, 0 where nobody holds it.
        steps: each device's share of that, in the order of their ids; empty where nobody asked.
    """

    change: ModelState
    steps: tuple[Step, ...] = ()


def put_together(
    base: Mapping[str, Array],
    spec: WidthSpec,
    changes: Sequence[ChangeReader],
    how: Aggregation = MEAN,
    room: Room | None = None,
) -> Aggregate:
    """Return the change of a round; the order of the changes does not matter.

    Memory does not grow with their number, but for the steps.

    Args:
        base: full state dict that the round started from.
        spec: of the model.
        changes: at least one.
        how: they are put together.
        room: of the steps; without it, none are worked out.

    Raises:
        ValueError: no changes, or a weight that is not above 0.
    """
    if not changes or any(one.weight <= 0 for one in changes):
        raise ValueError("aggregation needs at least one update, each with a weight above 0")
    ordered = admitted(base, spec, changes, how)
    if how.rule == "mean":
        change = partial_average(base, spec, ordered)
        return Aggregate(change, tuple(averaged_steps(base, spec, ordered, room)) if room else ())
    trim = MEDIAN if how.rule == "median" else how.trim
    change, steps = trimmed_mean(base, spec, ordered, trim, room)
    return Aggregate(change, tuple(steps))


def admitted(
    base: Mapping[str, Array],
    spec: WidthSpec,
    changes: Sequence[ChangeReader],
    how: Aggregation = MEAN,
) -> list[ChangeReader]:
    """Return the changes in the order of the device ids, shortened where they are too long."""
    ordered = sorted(changes, key=lambda one: one.device)
    return shortened(base, spec, ordered, how.clip) if how.clip else ordered


def steps_of(
    base: Mapping[str, Array],
    spec: WidthSpec,
    updates: Sequence[DeviceUpdate],
    how: Aggregation = MEAN,
) -> list[Step]:
    """Return each device's share of the change of a round whose updates are in memory.

    The steps are in the order of the device ids.

    Args:
        base: full state dict that the round started from.
        spec: of the model.
        updates: at least one.
        how: they are put together.

    Raises:
        ValueError: no updates, or a weight that is not above 0.
    """
    return list(put_together(base, spec, readers_of(spec, updates), how, in_memory).steps)


def aggregate(
    base: Mapping[str, Array],
    spec: WidthSpec,
    updates: Sequence[DeviceUpdate],
    how: Aggregation = MEAN,
) -> ModelState:
    """Return the full state dict after a round whose updates are in memory; see `steps_of`."""
    return add(base, put_together(base, spec, readers_of(spec, updates), how).change)


def in_memory(shape: tuple[int, ...]) -> Array:
    """Return zeros of a shape; see `coordinator.aggregation.partial_average.Room`."""
    return np.zeros(shape, np.float32)
