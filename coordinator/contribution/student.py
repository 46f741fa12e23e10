"""Student's t for whole degrees of freedom, in closed form. Pure.

The finite series: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and
26.7.4. With t = sqrt(n) tan(theta) the probability P(|T| <= t) is a sum of n / 2 terms in sine and
cosine of theta, so a quantile is found by halving an interval of angles.
"""

import math
from functools import lru_cache

HALVINGS = 60  # an angle below pi / 2 is then known to the last bit


def inside(theta: float, freedom: int) -> float:
    """Return P(|T| <= sqrt(freedom) * tan(theta)).

    Args:
        theta: angle in [0, pi / 2].
        freedom: degrees of freedom n, at least 1.
    """
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, freedom - 1, 2):  # the power of the cosine in this term
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2.0 / math.pi * (theta + sine * total) if odd else sine * total


@lru_cache(maxsize=256)
def quantile(freedom: int, level: float) -> float:
    """Return the t that |T| exceeds with probability ``level`` (two-sided).

    Args:
        freedom: degrees of freedom, at least 1.
        level: in (0, 1); 0.05 gives the quantile of a 95 % interval.

    Raises:
        ValueError: no degrees of freedom, or a level that is no probability.
    """
    if freedom < 1 or not 0.0 < level < 1.0:
        raise ValueError(
            f"no t quantile for {freedom} degrees of freedom at level {level}: at least two values"
            " and a level between 0 and 1 are needed"
        )
    low, high = 0.0, math.pi / 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if inside(middle, freedom) < 1.0 - level:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)
