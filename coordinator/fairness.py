"""How fair an allocation turned out: the figures that papers report, each under its own name. Pure.

All take one number per device, (N,), in the same order. Where a figure is not defined (no device,
for correlations fewer than two or a side without spread, a number that is not finite) it is NaN.

A correlation between rewards and the very contributions that they were allocated by is close to 1
by construction. Correlate with contributions measured again, from other seeds, and print the
`noise_ceiling` beside it.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Numbers = Sequence[float] | Array


def pearson(x: Numbers, y: Numbers) -> float:
    """Return Pearson's correlation."""
    first, second = _paired(x, y)
    first, second = first - first.mean(), second - second.mean()
    # Without spread up to rounding, a correlation would be one of rounding errors.
    floor = 1e-12
    if not (_spread(first, x) > floor and _spread(second, y) > floor):
        return math.nan
    cosine = (first / np.linalg.norm(first)) @ (second / np.linalg.norm(second))
    return float(np.clip(cosine, -1.0, 1.0))


def spearman(x: Numbers, y: Numbers) -> float:
    """Return Spearman's rank correlation, tied numbers at the mean of their ranks."""
    first, second = _paired(x, y)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return math.nan
    return pearson(ranks(first), ranks(second))


def ranks(numbers: Numbers) -> Array:
    """Return the rank of each number from 1 on, the mean rank where numbers are tied."""
    _, inverse, counts = np.unique(np.asarray(numbers), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: Array = (last - (counts - 1) / 2)[inverse]
    return mean_rank


def mean_gain(rewards: Numbers, alone: Numbers) -> float:
    """Return MCG, the mean of reward minus what a device has alone."""
    return float(np.mean(_gains(rewards, alone)))


def gain_spread(rewards: Numbers, alone: Numbers) -> float:
    """Return CGS, the population standard deviation of the gains."""
    return float(np.std(_gains(rewards, alone)))


def smallest_gain(rewards: Numbers, alone: Numbers) -> float:
    """Return the gain of whoever gains least."""
    return float(np.min(_gains(rewards, alone)))


def rational_share(rewards: Numbers, alone: Numbers) -> float:
    """Return IR, the share of the devices that do no worse than alone."""
    gains = _gains(rewards, alone)
    return math.nan if np.isnan(gains).any() else float(np.mean(gains >= 0))


def payoff(release: float | None, alone: float) -> float:
    """Return what a device gets out of taking part: its release minus what it has alone.

    Args:
        release: score of the model that it received, None where it received none: it gains 0.
        alone: score of its own model, or of guessing where it has no data.
    """
    return 0.0 if release is None else release - alone


def noise_ceiling(first: Numbers, second: Numbers) -> float:
    """Return the correlation that measuring noise leaves possible.

    Of contributions measured twice, from independent seeds: s^2 / (s^2 + sigma^2), the variance
    between devices over that of one measurement. s^2 is the covariance of the two, and
    s^2 + sigma^2 the mean of their variances. No rule that sees one measurement can be expected to
    correlate better with the other. 0 where the two have nothing in common.
    """
    x, y = _paired(first, second)
    if len(x) < 2:
        return math.nan
    single = (x.var() + y.var()) / 2
    if not single > 0:
        return math.nan
    return float(max(0.0, ((x - x.mean()) * (y - y.mean())).mean() / single))


def _paired(x: Numbers, y: Numbers) -> tuple[Array, Array]:
    """Return both as arrays, NaN where there is nothing or a number is not finite.

    Raises:
        ValueError: they are not of the same devices.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape} numbers: give one per device on each")
    if not first.size or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return np.array([math.nan]), np.array([math.nan])
    return first, second


def _spread(centred: Array, numbers: Numbers) -> float:
    """Return the spread of numbers, relative to their size."""
    size = float(np.max(np.abs(np.asarray(numbers, dtype=np.float64)), initial=0.0))
    return float(np.max(np.abs(centred))) / size if size > 0 else 0.0


def _gains(rewards: Numbers, alone: Numbers) -> Array:
    after, before = _paired(rewards, alone)
    return after - before
