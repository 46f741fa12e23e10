"""How a round's updates become one change: the front door of this package. Pure."""

from collections.abc import Mapping, Sequence

from coordinator.aggregation.changes import Change, changes_of, clipped
from coordinator.aggregation.partial_average import partial_average
from coordinator.aggregation.steps import Step, combine
from coordinator.aggregation.trimmed_mean import MEDIAN, trimmed_mean
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.settings import Aggregation
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState

MEAN = Aggregation()


def steps_of(
    base: Mapping[str, Array],
    spec: WidthSpec,
    updates: Sequence[DeviceUpdate],
    how: Aggregation = MEAN,
) -> list[Step]:
    """Return each device's share of the round's change, in the order of the device ids.

    Args:
        base: full state dict that the round started from.
        spec: of the model.
        updates: at least one.
        how: they are put together.

    Raises:
        ValueError: no updates, or a weight that is not above 0.
    """
    changes = admitted_changes(base, spec, updates, how)
    if how.rule == "mean":
        return partial_average(spec, changes)
    return trimmed_mean(spec, changes, MEDIAN if how.rule == "median" else how.trim)


def admitted_changes(
    base: Mapping[str, Array],
    spec: WidthSpec,
    updates: Sequence[DeviceUpdate],
    how: Aggregation = MEAN,
) -> list[Change]:
    """Return what each update changed, shortened where it is too long; see `steps_of`."""
    changes = changes_of(base, spec, updates)
    return clipped(changes, how.clip) if how.clip else changes


def aggregate(
    base: Mapping[str, Array],
    spec: WidthSpec,
    updates: Sequence[DeviceUpdate],
    how: Aggregation = MEAN,
) -> ModelState:
    """Return the aggregated full state dict; the order of the updates does not matter."""
    return combine(base, spec, steps_of(base, spec, updates, how))
