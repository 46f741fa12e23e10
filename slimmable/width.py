"""The widths a network can take, and how many channels an axis keeps at each."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


class WidthError(ValueError):
    """A width lies outside what the model offers. Choose one of the offered widths."""


@dataclass(frozen=True)
class Axis:
    """One dimension that several tensors share, for example the channels of a layer.

    Attributes:
        size: length at full width.
        scales: whether the width multiplier applies. Classes, kernels and pixels do not scale.
        granule: kept lengths are multiples of this (channel blocks of the CPU kernels).
    """

    size: int
    scales: bool
    granule: int = 1

    def __post_init__(self) -> None:
        """Refuse lengths that no tensor can have."""
        if self.size < 1 or self.granule < 1:
            raise WidthError(
                f"axis of size {self.size} with granule {self.granule}: both must be >= 1"
            )

    def keep(self, width: float) -> int:
        """Return how many leading entries stay at ``width`` (0 < width <= 1).

        ``size * width`` rounded half-up to a multiple of the granule, at least one granule and at
        most the size, so the kept prefix never shrinks when the width grows.
        """
        if not 0.0 < width <= 1.0:
            raise WidthError(f"width {width} is outside (0, 1]; use a width multiplier such as 0.5")
        if not self.scales or width == 1.0:
            return self.size  # the full width keeps all, also where the granule does not divide it
        if self.size < self.granule:
            return max(1, math.ceil(self.size * width))
        rounded = math.floor(self.size * width / self.granule + 0.5) * self.granule
        return min(self.size, max(self.granule, rounded))


def spread_out(widths: Sequence[float], most: int) -> tuple[float, ...]:
    """Return at most ``most`` of some widths: the widest, the narrowest, the others evenly between.

    Args:
        widths: ascending.
        most: how many; 0 = all.
    """
    if not 0 < most < len(widths):
        return tuple(widths)
    last = len(widths) - 1
    places = [last] if most == 1 else [round(last * n / (most - 1)) for n in range(most)]
    return tuple(widths[place] for place in places)


@dataclass(frozen=True)
class WidthGrid:
    """The offered widths: ascending, distinct, ending in 1.0."""

    widths: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a grid that is empty, unsorted or does not hold the full width."""
        widths = self.widths
        # Compared pair by pair: sorting would let a NaN pass.
        ascending = all(narrow < wide for narrow, wide in pairwise((0.0, *widths)))
        if not ascending or widths[-1:] != (1.0,):
            raise WidthError(
                f"width grid {list(widths)} must be ascending, distinct, above 0 and end in 1.0"
            )

    @classmethod
    def of(cls, widths: Iterable[float]) -> "WidthGrid":
        """Build a grid from widths in any order, duplicates allowed."""
        return cls(tuple(sorted({float(width) for width in widths})))

    @property
    def narrowest(self) -> float:
        """The smallest offered width."""
        return self.widths[0]

    def up_to(self, width: float) -> tuple[float, ...]:
        """Return the offered widths that lie inside ``width``."""
        return tuple(offered for offered in self.widths if offered <= width)

    def check(self, width: float) -> float:
        """Return ``width`` if it is offered.

        Raises:
            WidthError: it is not; the message lists the offered ones.
        """
        if width not in self.widths:
            raise WidthError(f"width {width} is not offered; choose one of {list(self.widths)}")
        return width
