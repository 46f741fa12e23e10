"""Average changes of different widths, coordinate by coordinate. numpy only, pure.

Each coordinate of the full model moves by the weighted mean of the changes of those devices whose
slice holds it; coordinates that nobody held keep their value (HeteroFL, Diao et al., ICLR 2021,
section 3).

The sum is folded, one piece of one update after the other, so that memory does not grow with the
number of updates. All devices that hold a coordinate hold its whole region, so it is divided
once for the region.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from coordinator.aggregation.readers import ChangeReader, largest_piece, pieces
from coordinator.aggregation.regions import regions
from coordinator.aggregation.steps import Step
from slimmable.slicing import coverage
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState

if TYPE_CHECKING:
    from slimmable.window import Place

Room = Callable[[tuple[int, ...]], Array]
"""Returns an array of zeros, float32, of a shape: in memory, or wherever there is room."""


def partial_average(
    base: Mapping[str, Array], spec: WidthSpec, changes: Sequence[ChangeReader]
) -> ModelState:
    """Return by how much each parameter of the full model moves."""
    heaviest = max(one.weight for one in changes)
    grouped: dict[Place, list[tuple[ChangeReader, np.float32]]] = {}
    for one in changes:  # equal weights are 1 and need no multiplication
        grouped.setdefault(one.place, []).append((one, np.float32(one.weight / heaviest)))
    weights = {
        place: sum(float(weight) for _, weight in members) for place, members in grouped.items()
    }
    scratch = np.empty((3, largest_piece(spec)), np.float32)
    moved = {name: np.zeros(spec.shape(name, 1.0), np.float32) for name in spec.parameters}
    for name, total in moved.items():
        for members in grouped.values():
            _add(base[name], spec, name, members, total, scratch)
        for where, holders in regions(spec, name, tuple(grouped)):
            weight = np.float32(sum(weights[place] for place in holders))
            if weight != 1.0:
                total[where] /= weight
    return moved


def _add(
    base: Array,
    spec: WidthSpec,
    name: str,
    members: Sequence[tuple[ChangeReader, np.float32]],
    total: Array,
    scratch: Array,
) -> None:
    """Add the weighted changes of one parameter by devices with the same slice."""
    place = members[0][0].place
    for piece in pieces(spec, name, place):
        start, stop = piece.start, piece.stop
        received, summed, found = scratch[:, : stop - start]
        piece.of(base, received)
        target = summed
        for one, weight in members:
            one.into(name, start, stop, received, target)
            if weight != 1.0:
                np.multiply(target, weight, out=target)
            if target is found:
                np.add(summed, found, out=summed)
            target = found
        total[piece.where] += summed.reshape(piece.shape)


def averaged_steps(
    base: Mapping[str, Array], spec: WidthSpec, changes: Sequence[ChangeReader], room: Room
) -> list[Step]:
    """Return each device's step: its change times its share of the weight on each coordinate."""
    steps: list[dict[str, Array]] = [{} for _ in changes]
    received, found = np.empty((2, largest_piece(spec)), np.float32)
    for name in spec.parameters:
        total = np.zeros(spec.shape(name, 1.0), np.float64)
        for one in changes:
            total[coverage(spec, name, *one.place)] += one.weight
        for one, step in zip(changes, steps, strict=True):
            step[name] = room(spec.shape(name, one.width))
            flat = step[name].reshape(-1)
            for piece in pieces(spec, name, one.place):
                size = piece.stop - piece.start
                piece.of(base[name], received[:size])
                one.into(name, piece.start, piece.stop, received[:size], found[:size])
                share = (one.weight / total[piece.where]).reshape(-1)
                flat[piece.start : piece.stop] = found[:size] * share
    return [
        Step(one.device, one.width, step, one.window)
        for one, step in zip(changes, steps, strict=True)
    ]
