"""How far what a model says has moved from what it said at first. Pure.

The population stability index compares two histograms, here of the confidence of the answers:
``PSI = sum((a_i - e_i) * ln(a_i / e_i))`` over the shares of the bins. It is 0 where they agree;
above 0.1 is worth a look, above 0.2 an alarm. Those bounds are a rule of thumb of credit scoring
(Siddiqi, Credit Risk Scorecards, 2006), no law.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SAMPLES = 200
WARN, ALARM = 0.1, 0.2
FLOOR = 0.5  # of a sample: an empty bin must not make the index infinite


def stability_index(expected: Sequence[int], actual: Sequence[int]) -> float:
    """Return the population stability index of two histograms with the same bins.

    Args:
        expected: counts of the reference, (B,).
        actual: counts of what is judged, (B,).

    Raises:
        ValueError: they differ in length, or one of them is empty.
    """
    if len(expected) != len(actual):
        raise ValueError(f"{len(expected)} and {len(actual)} bins cannot be compared")
    if not sum(expected) or not sum(actual):
        raise ValueError("a histogram without samples cannot be compared")
    before, now = _shares(expected), _shares(actual)
    return sum((a - e) * math.log(a / e) for e, a in zip(before, now, strict=True))


def _shares(counts: Sequence[int]) -> list[float]:
    filled = [max(float(count), FLOOR) for count in counts]
    return [count / sum(filled) for count in filled]


@dataclass
class ConfidenceDrift:
    """Confidence of one model on one device: its first answers, and the latest.

    Attributes:
        reference: counts per tenth of the first answers, `LEAST_SAMPLES` of them or more.
        latest: the same of the answers since, where the older half is forgotten again and again.
    """

    reference: list[int]
    latest: list[int]

    @classmethod
    def empty(cls, bins: int) -> "ConfidenceDrift":
        """Return one that has heard nothing."""
        return cls([0] * bins, [0] * bins)

    def add(self, counts: Sequence[int]) -> None:
        """Take in the counts of one telemetry message; another number of bins begins anew."""
        if len(counts) != len(self.reference):
            self.reference, self.latest = [0] * len(counts), [0] * len(counts)
        into = self.reference if sum(self.reference) < LEAST_SAMPLES else self.latest
        for place, count in enumerate(counts):
            into[place] += max(0, count)
        if sum(self.latest) > 4 * LEAST_SAMPLES:
            self.latest = [count // 2 for count in self.latest]

    @property
    def index(self) -> float | None:
        """The stability index, None until there are samples enough."""
        if min(sum(self.reference), sum(self.latest)) < LEAST_SAMPLES:
            return None
        return stability_index(self.reference, self.latest)
