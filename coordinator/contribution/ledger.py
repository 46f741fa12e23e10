"""What each device is worth over the rounds so far, and how sure that is. Pure.

The ledger is rebuilt from the journal's `RoundScored` events, so each of its entries leads to the
update that it was computed from. An older round may count for less: a total is the sum over rounds
t up to T of decay^(T - t) * score_t.

A method that measures on validation data gives each score per block of recordings. Totals keep the
blocks, because every round measures on the same recordings: what makes a block hard is common to
all devices and rounds, and cancels where two devices are compared block by block.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from journal.events import Contribution

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


@dataclass(frozen=True)
class Total:
    """One device's account.

    Attributes:
        score: decayed sum; blocks: the same per block, (B,), empty where a method gives none.
        rounds: how many entries it is the sum of.
    """

    score: float = 0.0
    blocks: tuple[float, ...] = ()
    rounds: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % t-interval over the blocks; the score itself, twice, where there are none."""
        spread = half_width(self.blocks)
        return self.score - spread, self.score + spread


@dataclass(frozen=True)
class Ledger:
    """All accounts.

    Attributes:
        round: the last one that was entered.
    """

    decay: float = 1.0
    round: int = 0
    totals: Mapping[str, Total] = field(default_factory=dict)

    def with_devices(self, devices: Sequence[str]) -> "Ledger":
        """Return the ledger with an account for each of ``devices``, 0 where it is new."""
        new = {device: Total() for device in devices if device not in self.totals}
        return replace(self, totals={**self.totals, **new}) if new else self

    def entered(self, round_: int, contributions: Sequence[Contribution]) -> "Ledger":
        """Return the ledger after a round; whoever took no part only decays."""
        totals = {device: _decayed(total, self.decay) for device, total in self.totals.items()}
        for entry in contributions:
            totals[entry.device] = _added(totals.get(entry.device, Total()), entry)
        return replace(self, round=round_, totals=totals)


def half_width(blocks: Sequence[float]) -> float:
    """Return half the length of the 95 % t-interval of a mean of blocks; 0 for fewer than two."""
    count = len(blocks)
    if count < 2:
        return 0.0
    quantile = T_95[count - 2] if count - 2 < len(T_95) else 1.96
    return float(quantile * np.std(blocks, ddof=1) / math.sqrt(count))


def _decayed(total: Total, decay: float) -> Total:
    if decay == 1.0:
        return total
    blocks = tuple(decay * value for value in total.blocks)
    return replace(total, score=decay * total.score, blocks=blocks)


def _added(total: Total, entry: Contribution) -> Total:
    # A round without blocks, or with other ones, leaves only the sum.
    blocks: tuple[float, ...] = ()
    if total.rounds == 0:
        blocks = entry.blocks
    elif len(total.blocks) == len(entry.blocks):
        blocks = tuple(a + b for a, b in zip(total.blocks, entry.blocks, strict=True))
    return Total(total.score + entry.score, blocks, total.rounds + 1)
