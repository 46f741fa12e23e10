"""What each device changed, before anybody weighs it. numpy only, pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slimmable.state import Array
from slimmable.window import PREFIX, Place, Window


@dataclass(frozen=True)
class Change:
    """What one device changed of the slice that it was given.

    Attributes:
        change: parameter name -> array in the shape of the slice at ``width``.
        weight: relative weight of the device, above 0.
        window: which entries of the full model the slice held.
    """

    device: str
    width: float
    change: Mapping[str, Array]
    weight: float
    window: Window = PREFIX

    @property
    def place(self) -> Place:
        """Which part of the full model it is about."""
        return self.width, self.window


def clipped(changes: Sequence[Change], limit: float) -> list[Change]:
    """Shorten what is much longer than usual, so that no single device moves the model far.

    Norm bounding (Sun et al., "Can You Really Backdoor Federated Learning?", 2019). Slices of other
    widths have other numbers of parameters, so lengths are compared as root mean squares.

    Args:
        changes: of a round.
        limit: a change longer than this many times the median is shortened to that; above 0. The
            median is of those that changed anything, or idle devices could stop all others.
    """
    factors = clip_factors([root_mean_square(one.change) for one in changes], limit)
    return [
        one if factor == 1.0 else _scaled(one, factor)
        for one, factor in zip(changes, factors, strict=True)
    ]


def clip_factors(lengths: Sequence[float], limit: float) -> list[float]:
    """Return what each change is multiplied by; see `clipped`."""
    longest = limit * _median_of_moved(lengths)
    return [1.0 if length <= longest else longest / length for length in lengths]


def usual_length(changes: Sequence[Change]) -> float:
    """Return the median length of those that changed anything, as a root mean square; 0 if none."""
    return _median_of_moved([root_mean_square(one.change) for one in changes])


def _median_of_moved(lengths: Sequence[float]) -> float:
    moved = [length for length in lengths if length > 0]
    return float(np.median(moved)) if moved else 0.0


def root_mean_square(change: Mapping[str, Array]) -> float:
    """Return the length of a change, whatever the number of its values."""
    squares = sum(float(np.square(array, dtype=np.float64).sum()) for array in change.values())
    return float(np.sqrt(squares / max(1, sum(array.size for array in change.values()))))


def _scaled(one: Change, factor: float) -> Change:
    scaled = {name: array * np.float32(factor) for name, array in one.change.items()}
    return replace(one, change=scaled)
