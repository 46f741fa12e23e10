"""Whether one model is better than another: a paired bootstrap over recordings. Pure.

Windows of one recording overlap and resemble each other, so recordings are drawn, never windows;
pairing the two models on the same recordings removes what is merely a hard recording.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
DRAWS = 1000
AT_ONCE = 200_000  # drawn recordings: more of them do not fit a processor's cache
MANY = 500  # recordings: from so many on it pays to draw those together that score alike
KINDS = 16  # with more different scores than this it does not


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
    sums: Array = np.bincount(inverse, weights=scores).astype(np.float64)
    counts = np.bincount(inverse).astype(np.float64)
    kinds = _kinds(sums, counts) if len(sums) >= MANY else np.empty(0)
    if 0 < len(kinds) <= KINDS:
        means = _drawn_by_kind(sums, kinds, rng) / counts[0]
    else:
        means = _drawn(sums, counts, rng)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(scores.mean()), float(low), float(high))


def _drawn(sums: Array, counts: Array, rng: np.random.Generator) -> Array:
    """Return the mean of every draw of recordings, (DRAWS,).

    Args:
        sums: of each recording's scores, (R,).
        counts: of each recording's samples, (R,).
        rng: draws.
    """
    # Most often each recording is as long as every other one: then all draws are equally long.
    equal = counts.min() == counts.max()
    means = np.empty(DRAWS)
    some = max(1, AT_ONCE // len(sums))
    for first in range(0, DRAWS, some):
        part = means[first : first + some]
        drawn = rng.integers(len(sums), size=(len(part), len(sums)))
        lengths = counts[0] * len(counts) if equal else counts[drawn].sum(axis=1)
        part[:] = sums[drawn].sum(axis=1) / lengths
    return means


def _kinds(sums: Array, counts: Array) -> Array:
    """Return the different sums, the first to appear first; none where lengths differ."""
    if counts.min() < counts.max():
        return np.empty(0)
    found, first = np.unique(sums, return_index=True)
    return found[np.argsort(first)]


def _drawn_by_kind(sums: Array, kinds: Array, rng: np.random.Generator) -> Array:
    """Return the mean sum of every draw of recordings, (DRAWS,).

    Recordings that score alike stand for each other, and how many of each kind a draw holds is
    multinomial: the same distribution as when they are drawn one by one, for a fraction of the
    work. Right or wrong makes two kinds; a difference of two models makes three.
    """
    shares = np.array([np.count_nonzero(sums == kind) for kind in kinds]) / len(sums)
    drawn = rng.multinomial(len(sums), shares, size=DRAWS)
    means: Array = drawn @ kinds / len(sums)
    return means


def difference(
    new: Array, old: Array, recording: npt.NDArray[np.int64], rng: np.random.Generator
) -> Interval:
    """Return how much better ``new`` is than ``old``, paired sample by sample."""
    return bootstrap(new - old, recording, rng)
