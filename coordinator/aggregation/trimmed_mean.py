"""Average what the middle of the devices changed, coordinate by coordinate. numpy only, pure.

On each coordinate the largest and the smallest changes are left out, and the weighted mean of the
others counts (Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates", ICML 2018, definitions 1 and 2). Only those devices are compared that hold the coordinate:
where one or two hold it, nothing can be left out, and nothing protects it.

All devices are compared on some rows at a time, and no more of their updates is decoded.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.aggregation.partial_average import Room
from coordinator.aggregation.readers import ChangeReader
from coordinator.aggregation.steps import Step
from slimmable.spec import Indices, WidthSpec
from slimmable.state import Array, ModelState

MEDIAN = 0.5
CHUNK = 4_000_000  # values that are compared at a time: memory does not grow with the model


def trimmed_mean(
    base: Mapping[str, Array],
    spec: WidthSpec,
    changes: Sequence[ChangeReader],
    trim: float,
    room: Room | None = None,
) -> tuple[ModelState, list[Step]]:
    """Return the change of the full model, and each device's step where there is room for them.

    A device's step is its change where it is kept, times its share of what is kept.

    Args:
        base: full state dict that the round started from.
        spec: of the model.
        changes: of a round.
        trim: share of the devices on a coordinate that is left out at either end, rounded up, in
            [0, 0.5]. At least one or two devices are kept; 0.5 is the median.
        room: of the steps.
    """
    moved = {name: np.zeros(spec.shape(name, 1.0), np.float32) for name in spec.parameters}
    steps = _no_steps(spec, changes, room) if room else []
    for name, full in moved.items():
        shape = full.shape
        rows = max(1, CHUNK // (len(changes) * max(1, math.prod(shape[1:]))))
        own = [step.change[name] for step in steps]
        for start in range(0, shape[0] if shape else 1, rows):
            _trim_rows(base[name], spec, changes, name, (start, start + rows), trim, full, own)
    return moved, steps


def _no_steps(spec: WidthSpec, changes: Sequence[ChangeReader], room: Room) -> list[Step]:
    return [
        Step(
            one.device,
            one.width,
            {name: room(spec.shape(name, one.width)) for name in spec.parameters},
            one.window,
        )
        for one in changes
    ]


def _trim_rows(
    base: Array,
    spec: WidthSpec,
    changes: Sequence[ChangeReader],
    name: str,
    rows: tuple[int, int],
    trim: float,
    moved: Array,
    steps: Sequence[Array],
) -> None:
    """Work out some rows (indices of the first axis) of one parameter, and of the steps."""
    here = moved[slice(*rows)] if moved.shape else moved
    before = base[slice(*rows)] if moved.shape else base
    stack = np.full((len(changes), *here.shape), np.nan, np.float32)
    places = [_places(spec.indices(name, *one.place), rows) for one in changes]
    for at, (one, (own, there)) in enumerate(zip(changes, places, strict=True)):
        stack[at, ...][there] = _read(one, name, own, before[there])  # a view, without axes too
    weight = np.array([one.weight for one in changes]).reshape(-1, *(1,) * here.ndim)
    share = weight * kept(stack, trim)
    total = share.sum(axis=0)
    share /= np.where(total, total, 1.0)
    for at, (layer, part, (own, there)) in enumerate(zip(stack, share, places, strict=True)):
        step = (layer[there] * part[there]).astype(np.float32)
        here[there] += step
        if steps:
            steps[at][own] = step


def _read(one: ChangeReader, name: str, own: slice | tuple[()], received: Array) -> Array:
    """Return some rows of a change, in the shape of what the device had received there."""
    found = np.empty(received.shape, np.float32)
    row = math.prod(received.shape[1:])
    start = own.start * row if isinstance(own, slice) else 0
    flat = np.ascontiguousarray(received).reshape(-1)
    one.into(name, start, start + flat.size, flat, found.reshape(-1))
    return found


def _places(
    indices: tuple[Indices, ...], rows: tuple[int, int]
) -> tuple[slice | tuple[()], tuple[Array, ...] | tuple[()]]:
    """Return where some rows of a slice lie in it, and where in those rows of the full tensor."""
    if not indices:
        return (), ()
    first = np.asarray(indices[0])
    start, stop = np.searchsorted(first, rows)
    return slice(int(start), int(stop)), np.ix_(first[start:stop] - rows[0], *indices[1:])


def kept(stack: Array, trim: float) -> Array:
    """Return which values count, of the same shape; equal ones by their order.

    Args:
        stack: (K, ...) one layer a device, NaN where it does not hold the coordinate.
        trim: see `trimmed_mean`.
    """
    count = (~np.isnan(stack)).sum(axis=0)
    out = np.minimum(np.ceil(trim * count), np.maximum(count - 1, 0) // 2)
    order = np.argsort(stack, axis=0, kind="stable")  # NaN last
    rank = np.empty_like(order)
    ranks = np.arange(len(stack)).reshape(-1, *(1,) * (stack.ndim - 1))
    np.put_along_axis(rank, order, np.broadcast_to(ranks, order.shape), axis=0)
    found: Array = (rank >= out) & (rank < count - out)
    return found
