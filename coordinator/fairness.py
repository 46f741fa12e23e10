"""How fair an allocation turned out: the figures that papers report, each under its own name. Pure.

All take one number per device, (N,), in the same order. Where a figure is not defined (no device,
for correlations fewer than two or a side without spread, a number that is not finite) it is NaN.

A correlation between rewards and the very contributions that they were allocated by is close to 1
by construction. Correlate with contributions measured again, from other seeds, and print the
`noise_ceiling` beside it.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Numbers = Sequence[float] | Array
BISECTIONS = 60  # more change nothing in double precision


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


def noise_ceiling(first: Numbers, *again: Numbers) -> float:
    """Return the correlation that measuring noise leaves possible.

    Of contributions measured several times, from independent seeds. With s^2 the variance between
    devices and sigma^2 that of the noise of one measurement, what follows ``first`` perfectly
    correlates with the mean of the other M by s^2 / sqrt((s^2 + sigma^2) (s^2 + sigma^2 / M)). No
    rule that sees one measurement can be expected to do better. 0 where the measurements have
    nothing in common.
    """
    true, noise = _variances((first, *again))
    single, mean = true + noise, true + noise / max(1, len(again))
    if not single > 0:
        return math.nan
    return true / math.sqrt(single * mean) if true > 0 else 0.0


def noise_spread(*measurements: Numbers) -> float:
    """Return the standard deviation of what chance adds to the mean of these measurements.

    No gains that are held against that mean can be expected to be more equal than this. An offset
    that all devices of one measurement share is no part of it.
    """
    _, noise = _variances(measurements)
    return math.nan if math.isnan(noise) else math.sqrt(max(0.0, noise) / len(measurements))


def largest_mean_gain(alone: Numbers, best: float, spread: float) -> float:
    """Return the largest MCG that rewards of at most ``best`` can have with a CGS of ``spread``.

    The mean is concave and the standard deviation convex in the gains, so at the optimum all that
    are not held back by ``best`` gain the same: g_i = min(t, best - c_i). CGS rises with t, whose
    largest admissible value is found by bisection.

    Args:
        alone: c_i, what each device has alone.
        best: score of the best model that anybody may get.
        spread: largest CGS, at least 0.
    """
    room = best - np.asarray(alone, dtype=np.float64)
    if not (room.size and np.isfinite(room).all()):
        return math.nan
    low, high = float(room.min()), float(room.max())
    if float(np.std(room)) <= spread:
        return float(room.mean())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float(np.std(np.minimum(middle, room))) <= spread:
            low = middle
        else:
            high = middle
    return float(np.minimum(low, room).mean())


def _variances(measurements: Sequence[Numbers]) -> tuple[float, float]:
    """Return the variance between devices and that of the noise of one measurement.

    The former is the mean covariance of two measurements, their sum the mean variance of one. Both
    are NaN for fewer than two measurements or devices, or where a number is not finite.
    """
    pairs = [_paired(x, y) for x, y in itertools.combinations(measurements, 2)]
    if not pairs or len(pairs[0][0]) < 2:
        return math.nan, math.nan
    true = float(np.mean([((x - x.mean()) * (y - y.mean())).mean() for x, y in pairs]))
    whole = float(np.mean([np.var(np.asarray(one, dtype=np.float64)) for one in measurements]))
    return true, whole - true


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
