"""Average what the middle of the devices changed, coordinate by coordinate. numpy only, pure.

On each coordinate the largest and the smallest changes are left out, and the weighted mean of the
others counts (Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates", ICML 2018, definitions 1 and 2). Only those devices are compared that hold the coordinate:
where one or two hold it, nothing can be left out, and nothing protects it.
"""

import math
from collections.abc import Sequence

import numpy as np

from coordinator.aggregation.changes import Change
from coordinator.aggregation.steps import Step
from slimmable.spec import Indices, WidthSpec
from slimmable.state import Array

MEDIAN = 0.5
CHUNK = 4_000_000  # values that are compared at a time: memory does not grow with the model


def trimmed_mean(spec: WidthSpec, changes: Sequence[Change], trim: float) -> list[Step]:
    """Return each device's step: its change where it is kept, times its share of what is kept.

    Args:
        spec: of the model.
        changes: of a round.
        trim: share of the devices on a coordinate that is left out at either end, rounded up, in
            [0, 0.5]. At least one or two devices are kept; 0.5 is the median.
    """
    steps = [{name: np.zeros_like(one.change[name]) for name in spec.parameters} for one in changes]
    for name in spec.parameters:
        shape = spec.shape(name, 1.0)
        rows = max(1, CHUNK // (len(changes) * max(1, math.prod(shape[1:]))))
        for start in range(0, shape[0] if shape else 1, rows):
            _trim_rows(spec, changes, name, (start, start + rows), trim, steps)
    return [
        Step(one.device, one.width, step, one.window)
        for one, step in zip(changes, steps, strict=True)
    ]


def _trim_rows(
    spec: WidthSpec,
    changes: Sequence[Change],
    name: str,
    rows: tuple[int, int],
    trim: float,
    steps: Sequence[dict[str, Array]],
) -> None:
    """Work out the steps for some rows (indices of the first axis) of one parameter."""
    shape = spec.shape(name, 1.0)
    here = (min(rows[1], shape[0]) - rows[0], *shape[1:]) if shape else ()
    stack = np.full((len(changes), *here), np.nan, np.float32)
    places = [_places(spec.indices(name, *one.place), rows) for one in changes]
    for layer, one, (own, there) in zip(stack, changes, places, strict=True):
        layer[there] = one.change[name][own]
    weight = np.array([one.weight for one in changes]).reshape(-1, *(1,) * len(here))
    share = weight * kept(stack, trim)
    total = share.sum(axis=0)
    share /= np.where(total, total, 1.0)
    for step, layer, part, (own, there) in zip(steps, stack, share, places, strict=True):
        step[name][own] = (layer[there] * part[there]).astype(np.float32)


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
