"""Average updates of different widths, coordinate by coordinate. numpy only, pure.

Each coordinate of the full model moves by the weighted mean of the changes of those devices whose
slice holds it; coordinates that nobody held keep their value (HeteroFL, Diao et al., ICLR 2021,
section 3). The weights a_i are fixed by the grand coalition of the round and never renormalised,
so that a device that changes nothing is worth exactly nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from broker.messages import DropReason
from slimmable.slicing import check_state, coverage, slice_state
from slimmable.spec import SpecError, WidthSpec
from slimmable.state import Array, ModelState

LARGEST_WEIGHT = 1e9


@dataclass(frozen=True)
class DeviceUpdate:
    """What one device trained.

    Attributes:
        device: id.
        width: training width; the shapes of ``state``.
        state: the trained slice.
        weight: relative weight in the average, above 0.
    """

    device: str
    width: float
    state: Mapping[str, Array]
    weight: float = 1.0


@dataclass(frozen=True)
class Step:
    """The share of one device in the change of a round: a_i(coordinate) * delta_i.

    Attributes:
        width: which slice of the full model it covers.
        change: parameter name -> array in the slice's shape.
    """

    device: str
    width: float
    change: Mapping[str, Array]


def inspect_update(
    spec: WidthSpec, width: float, state: Mapping[str, Array]
) -> tuple[DropReason, str] | None:
    """Return why a decoded update cannot be used, or None if it can."""
    try:
        check_state(state, spec, width)
    except SpecError as error:
        return DropReason.WRONG_SHAPE, str(error)
    for name in spec.parameters:
        array = state[name]
        if array.dtype != np.float32:
            return DropReason.WRONG_SHAPE, f"tensor {name!r} is {array.dtype}, expected float32"
        if not np.isfinite(array).all():
            return DropReason.NOT_FINITE, f"tensor {name!r} holds NaN or infinity"
        # Sums and products of such values overflow: one update would break the model for all.
        if array.size and np.abs(array).max() > LARGEST_WEIGHT:
            return DropReason.NOT_FINITE, f"tensor {name!r} holds values above {LARGEST_WEIGHT:g}"
    return None


def steps_of(
    base: Mapping[str, Array], spec: WidthSpec, updates: Sequence[DeviceUpdate]
) -> list[Step]:
    """Return each device's weighted share of the round's change.

    Args:
        base: full state dict that the round started from.
        spec: of the model.
        updates: at least one.

    Raises:
        ValueError: no updates, or a weight that is not above 0.
    """
    if not updates or any(update.weight <= 0 for update in updates):
        raise ValueError("aggregation needs at least one update, each with a weight above 0")
    total = {name: np.zeros(base[name].shape, np.float64) for name in spec.parameters}
    for update in updates:
        for name in spec.parameters:
            total[name][coverage(spec, name, update.width)] += update.weight
    held = {width: slice_state(base, spec, width) for width in {update.width for update in updates}}
    return [
        Step(
            update.device,
            update.width,
            {
                name: (
                    (update.state[name] - held[update.width][name])
                    * (update.weight / total[name][coverage(spec, name, update.width)])
                ).astype(np.float32)
                for name in spec.parameters
            },
        )
        for update in updates
    ]


def combine(base: Mapping[str, Array], spec: WidthSpec, steps: Iterable[Step]) -> ModelState:
    """Return ``base`` plus the given steps; statistics are copied unchanged."""
    state = {name: np.array(array, copy=True) for name, array in base.items()}
    for step in steps:
        for name in spec.parameters:
            state[name][coverage(spec, name, step.width)] += step.change[name]
    return state


def aggregate(
    base: Mapping[str, Array], spec: WidthSpec, updates: Sequence[DeviceUpdate]
) -> ModelState:
    """Return the aggregated full state dict; the order of the updates does not matter."""
    ordered = sorted(updates, key=lambda update: update.device)
    return combine(base, spec, steps_of(base, spec, ordered))
