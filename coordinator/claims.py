"""What devices claim rewards with: shares, the cut-off, and which contributions are tied. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.contribution.ledger import (
    ROUNDING,
    Total,
    differ_on_recordings,
    half_width,
)
from coordinator.settings import Rewards


@dataclass(frozen=True)
class Claim:
    """What one device brings forward.

    Attributes:
        total: its account in the ledger.
        alone: what its own model scored, None where that was not measured.
    """

    device: str
    total: Total
    alone: float | None = None

    @property
    def sound(self) -> bool:
        """Whether what was measured are finite numbers."""
        return all(map(math.isfinite, (self.total.score, *self.total.blocks)))

    @property
    def contribution(self) -> float:
        """The score of the account; 0 where it is not sound."""
        return self.total.score if self.sound else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the contribution; the contribution, twice, where there is none."""
        return self.total.interval if self.sound else (0.0, 0.0)

    @property
    def own_score(self) -> float | None:
        """What its own model scored, None where that is no finite number either."""
        return self.alone if self.alone is not None and math.isfinite(self.alone) else None


def ranked(claims: Sequence[Claim]) -> list[Claim]:
    """Return the claims, the smallest contribution first; equal ones by name."""
    return sorted(claims, key=lambda claim: (claim.contribution, claim.device))


def shares(contributions: Mapping[str, float]) -> dict[str, float]:
    """Return each contribution as a multiple of the average; all 0 where nobody advanced."""
    mean = average(contributions)
    return {device: score / mean if mean else 0.0 for device, score in contributions.items()}


def average(contributions: Mapping[str, float]) -> float:
    """Return the mean of the contributions above 0; 0 where there are none.

    Harm is no part of it: else one device that does harm would lift the shares of all others, and
    a free-rider's over the cut-off, or leave nothing to share at all. What is above 0 by the
    rounding of terms alone is not above 0.
    """
    least = ROUNDING * math.fsum(map(abs, contributions.values()))
    advanced = [score for score in contributions.values() if score > least]
    return math.fsum(advanced) / len(advanced) if advanced else 0.0


def cut_off(ranks: Sequence[Claim], share: Mapping[str, float], policy: Rewards) -> dict[str, str]:
    """Return each device that receives no release, with the reason.

    A small contribution must be proven: below ``proof`` it is cut off where it is not significantly
    above 0 (its 95 % interval reaches 0), unless it is at least as large as one that passes: ranks
    are kept. A larger one need not be: with few recordings even the best device's interval may
    reach 0, and nobody rides on a quarter of the average.

    Args:
        ranks: the smallest contribution first.
        share: device -> multiple of the average contribution.
        policy: cut-off and proof, and the lowest tier where the rule has tiers.
    """
    cut: dict[str, str] = {}
    passed = False
    for claim in ranks:
        own = share[claim.device]
        low, high = claim.interval
        average = f"no release: {own:.2f} times the average contribution"
        if not claim.sound:
            cut[claim.device] = f"{average}, because what was measured is no finite number"
        elif own < policy.cutoff:
            cut[claim.device] = f"{average} is below the cut-off of {policy.cutoff:g}"
        elif policy.rule == "tiers" and not any(own >= least for least, _ in policy.tiers):
            cut[claim.device] = f"{average} is below the lowest tier"
        elif own < policy.proof and not passed and len(claim.total.blocks) > 1 and low <= 0:
            cut[claim.device] = (
                f"{average} is not significantly above 0: its 95 % interval is"
                f" {low:.3g} to {high:.3g}"
            )
        else:
            passed = True
    return cut


def ties(ranks: Sequence[Claim], level: float, least: float = -math.inf) -> list[list[Claim]]:
    """Return claims in groups of those that must get one width.

    Two whose contributions do not differ significantly are tied, and so is whoever is tied to
    one of them or stands between two that are: else ranks or ties would be broken.

    Args:
        ranks: the smallest contribution first.
        level: of the test, see `coordinator.contribution.ledger.differ`.
        least: chance in training excuses no contribution below this one. What noise sent in place
            of work is worth is chance alone: it must not be lifted to what others have earned.
    """
    by_chance = _last_by_chance(ranks, level, least)
    accounts = [(claim.contribution, claim.total) for claim in ranks]
    widths = [half_width(total.blocks, level) for _, total in accounts]
    widest = max(widths, default=0.0)
    asked = list(range(len(ranks)))  # of each claim, the last one that it was compared with

    def tied_beyond(start: int, reach: int) -> int | None:
        """Return a claim after ``reach`` that is tied to one from ``start`` to ``reach``."""
        for place in range(reach, start - 1, -1):
            if by_chance[place] > reach:
                return by_chance[place]
            score, total = accounts[place]
            for other in range(max(reach, asked[place]) + 1, len(ranks)):
                rival, its_total = accounts[other]
                slack = widths[place] + ROUNDING * max(abs(rival), abs(score))
                if rival - score > slack + widest:
                    break
                asked[place] = other
                # Where their own intervals are apart, so is that of their difference from 0.
                apart = rival - score > slack + widths[other]
                if not apart and not differ_on_recordings(total, its_total, level):
                    return other
        return None

    groups: list[list[Claim]] = []
    while (start := sum(map(len, groups))) < len(ranks):
        reach = start
        while (tied := tied_beyond(start, reach)) is not None:
            reach = tied
        groups.append(list(ranks[start : reach + 1]))
    return groups


def _last_by_chance(ranks: Sequence[Claim], level: float, least: float) -> list[int]:
    """Return for each claim the last one that chance in training may set apart from it, or -1."""
    scores = [claim.contribution for claim in ranks]
    bars = [one.contribution - one.total.noise.difference(level) for one in ranks]
    # The lowest bar from each place on never falls, so the last one to pass is found by halving.
    lowest = np.minimum.accumulate(bars[::-1])[::-1]
    passed = np.searchsorted(lowest, scores, side="right") - 1
    return [int(last) if score >= least else -1 for last, score in zip(passed, scores, strict=True)]
