"""How well a number tells riders from honest devices. Pure."""

from collections.abc import Sequence

import numpy as np


def auroc(riders: Sequence[float], honest: Sequence[float]) -> float | None:
    """Return the chance that a rider is more suspicious than an honest device; ties count half.

    The area under the receiver operating characteristic, as the Mann-Whitney statistic.

    Args:
        riders: their suspicions, higher = more suspicious.
        honest: theirs.

    Returns:
        0 to 1, 0.5 = no better than chance; None where one side is empty.
    """
    if not riders or not honest:
        return None
    ours, theirs = np.asarray(riders)[:, None], np.asarray(honest)[None, :]
    return float(np.mean((ours > theirs) + 0.5 * (ours == theirs)))


def true_positive_rate(
    riders: Sequence[float], honest: Sequence[float], false_positive_rate: float = 0.05
) -> float | None:
    """Return which share of the riders is found where so many honest devices are accused.

    The threshold is the lowest one that accuses at most that share of the honest ones; who lies on
    it is not accused.
    """
    if not riders or not honest:
        return None
    descending = np.sort(np.asarray(honest))[::-1]
    threshold = descending[int(false_positive_rate * len(descending))]
    return float(np.mean(np.asarray(riders) > threshold))
