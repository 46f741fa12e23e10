"""Which channels of each scaling axis a sub-model of some width holds. numpy only, pure.

A width says how many entries of an axis are kept (`slimmable.width.Axis.keep`), a window which:

* prefix: the first ones. Narrower sub-models lie inside wider ones from round to round; all that is
  measured, exported and earned is of this kind.
* rolling (FedRolex: Alam et al., NeurIPS 2022): those from an offset on, wrapping at
  the end of the axis. The offset is the same for all widths and moves by one granule a round, so
  that every entry is trained as often as any other.
* random (federated dropout: Caldas et al., "Expanding the Reach of Federated Learning by Reducing
  Client Resource Requirements", 2018): the first ones of a permutation of the axis.

In one window the narrower sub-models lie inside the wider ones. Kept entries are always in
ascending order: whoever is given the slice sees an ordinary one of that width.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from slimmable.width import Axis

Indices = npt.NDArray[np.intp]


class WindowKind(StrEnum):
    """How the entries of an axis are chosen."""

    PREFIX = "prefix"
    ROLLING = "rolling"
    RANDOM = "random"


@dataclass(frozen=True, order=True)
class Window:
    """What the sub-models of one round hold.

    Attributes:
        kind: how entries are chosen.
        number: of a rolling window, by how many granules it has moved; of a random one, its seed;
            at least 0.
    """

    kind: WindowKind = WindowKind.PREFIX
    number: int = 0

    def __post_init__(self) -> None:
        """Refuse what no window can be.

        Raises:
            ValueError: another kind, or a number below 0.
        """
        object.__setattr__(self, "kind", WindowKind(self.kind))
        if self.number < 0:
            raise ValueError(f"window number {self.number} must be at least 0")

    @property
    def moves(self) -> bool:
        """Whether another round may hold other entries."""
        return self.kind is not WindowKind.PREFIX

    def kept(self, axis: Axis, axis_number: int, width: float) -> Indices:
        """Return the entries of an axis kept at ``width``, ascending.

        Args:
            axis: of which entries are kept.
            axis_number: of the axis in the canonical form of its spec: each axis is permuted by
                itself.
            width: multiplier.
        """
        count = axis.keep(width)
        if count == axis.size or not self.moves:
            return np.arange(count, dtype=np.intp)
        if self.kind is WindowKind.ROLLING:
            granule = axis.granule if axis.granule < axis.size else 1
            offset = self.number * granule % axis.size
            return np.sort((offset + np.arange(count, dtype=np.intp)) % axis.size)
        return np.sort(_permutation(self.number, axis_number, axis.size)[:count])


PREFIX = Window()
# Width and window: which part of the full model a slice is. `spec.indices(name, *place)`
Place = tuple[float, Window]


@lru_cache(maxsize=512)
def _permutation(seed: int, axis_number: int, size: int) -> Indices:
    """Return the order in which a random window takes the entries of an axis."""
    order = np.random.default_rng((seed, axis_number)).permutation(size).astype(np.intp)
    order.setflags(write=False)
    return order
