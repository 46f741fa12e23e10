"""Whether one model is better than another: a paired bootstrap over recordings. Pure.

Windows of one recording overlap and resemble each other, so recordings are drawn, never windows;
pairing the two models on the same recordings removes what is merely a hard recording.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    scores: Array, recording: npt.NDArray[np.int64], rng: np.random.Generator
) -> Interval:
    """Return the mean of per-sample ``scores`` (N,) with an interval over recordings (N,)."""
    _, inverse = np.unique(recording, return_inverse=True)
    sums = np.bincount(inverse, weights=scores)
    counts = np.bincount(inverse).astype(np.float64)
    drawn = rng.integers(len(sums), size=(DRAWS, len(sums)))
    # Most often each recording is as long as every other one: then all draws are equally long.
    equal = counts.min() == counts.max()
    lengths = counts[0] * len(counts) if equal else counts[drawn].sum(axis=1)
    means = sums[drawn].sum(axis=1) / lengths
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(scores.mean()), float(low), float(high))


def difference(
    new: Array, old: Array, recording: npt.NDArray[np.int64], rng: np.random.Generator
) -> Interval:
    """Return how much better ``new`` is than ``old``, paired sample by sample."""
    return bootstrap(new - old, recording, rng)
