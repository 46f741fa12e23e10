"""What a contribution is worth as a score: read off the network's own learning curve. Pure.

A device whose contribution is the fraction p of the average is worth what the network scored when
it had made the fraction p of its progress. Contributions are measured on the loss and add up over
the devices, so N devices like this one would have brought the network just there. The curve rises
steeply and then flattens, as accuracy over data does: who gives half as much is not half as good.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

Progress = Sequence[tuple[float, float]]


def learning_curve(
    untrained: float, trained: float, rounds: Progress
) -> tuple[tuple[float, float], ...]:
    """Return points (fraction of all progress, score) from (0, ``untrained``) to (1, ``trained``).

    Neither coordinate falls from one point to the next; between points the curve is a line.

    Args:
        untrained: score of the initial weights.
        trained: score that all progress led to; below ``untrained`` it counts as that.
        rounds: of each scored round, the sum of all contributions so far, and the score at full
            width after it. Without any, or without progress, the curve is one line.
    """
    top = max(untrained, trained)
    total = rounds[-1][0] if rounds else 0.0
    if total <= 0:
        return ((0.0, untrained), (1.0, top))
    fractions = accumulate((min(1.0, max(0.0, made / total)) for made, _ in rounds[:-1]), max)
    scores = accumulate((min(top, max(untrained, score)) for _, score in rounds[:-1]), max)
    inner = dict(zip(fractions, scores, strict=True))  # of equal fractions the last one counts
    return ((0.0, untrained), *(p for p in inner.items() if 0.0 < p[0] < 1.0), (1.0, top))


def worth(share: float, curve: Sequence[tuple[float, float]]) -> float:
    """Return what a contribution is worth.

    Args:
        share: as a multiple of the average. Above 1 the curve goes on as steeply as over its
            second half; below 0 there is nothing to be worth less than.
        curve: of `learning_curve`.
    """
    if share > 1:
        top = curve[-1][1]
        return top + (share - 1) * 2 * (top - worth(0.5, curve))
    fractions, scores = zip(*curve, strict=True)
    return float(np.interp(share, fractions, scores))
