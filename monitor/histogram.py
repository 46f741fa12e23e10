"""How often something took how long, in a few fixed buckets. Pure."""

import math
from bisect import bisect_left
from dataclasses import dataclass, field

BOUNDS_S = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)
"""Upper ends of the buckets in seconds: from a demo's rounds to those of slow links."""


@dataclass
class Histogram:
    """Counts of durations; they only ever grow.

    Attributes:
        counts: of each bucket of `BOUNDS_S`, and of everything above the last one.
        total: sum of all durations, in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Take in a duration; what is no finite number from 0 on is left out."""
        if math.isfinite(seconds) and seconds >= 0:
            self.counts[bisect_left(BOUNDS_S, seconds)] += 1
            self.total += seconds

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.counts)

    @property
    def cumulative(self) -> list[tuple[float, int]]:
        """Upper end of a bucket -> how many durations are at most that; the last end is inf."""
        found, so_far = [], 0
        for end, count in zip((*BOUNDS_S, math.inf), self.counts, strict=True):
            so_far += count
            found.append((end, so_far))
        return found
