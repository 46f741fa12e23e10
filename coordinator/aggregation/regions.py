"""Which slices hold which part of a parameter. numpy only, pure.

All coordinates of a region are held by the same slices, so whatever depends on who holds a
coordinate is worked out once for the region. Prefixes lie inside each other, and their regions are
the corners that a wider one adds; windows may overlap in any way.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from slimmable.slicing import Part, index_expression
from slimmable.spec import Indices, WidthSpec
from slimmable.window import Place


def regions(
    spec: WidthSpec, name: str, places: Sequence[Place]
) -> Iterator[tuple[Part, tuple[Place, ...]]]:
    """Yield what selects each region of a full tensor, and the slices that hold it, at least one.

    Args:
        spec: of the model.
        name: of the parameter.
        places: of the slices; the holders of a region are in their order.
    """
    held = [spec.indices(name, *place) for place in places]
    shape = spec.shape(name, 1.0)
    axes = [list(_groups([one[axis] for one in held], length)) for axis, length in enumerate(shape)]
    for groups in product(*axes):
        holders = np.logical_and.reduce([who for _, who in groups], initial=True)
        # Without an axis there is one coordinate, which all hold.
        inside = [place for at, place in enumerate(places) if not shape or holders[at]]
        if inside:
            yield index_expression(tuple(entries for entries, _ in groups)), tuple(inside)


def _groups(held: Sequence[Indices], length: int) -> Iterator[tuple[Indices, np.ndarray]]:
    """Yield the entries of an axis that the same slices hold, and which ones: (slices,) bool."""
    member = np.zeros((len(held), length), np.bool_)
    for row, entries in zip(member, held, strict=True):
        row[entries] = True
    kinds, kind = np.unique(member, axis=1, return_inverse=True)
    for at, who in enumerate(kinds.T):
        if who.any():
            yield np.flatnonzero(kind.reshape(-1) == at), who
