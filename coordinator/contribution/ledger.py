"""What each device is worth over the rounds so far, and how sure that is. Pure.

The ledger is rebuilt from the journal's `RoundScored` events, so each of its entries leads to the
update that it was computed from. An older round may count for less: a total is the sum over rounds
t up to T of decay^(T - t) * score_t.

Two things blur a score, and two devices differ only where neither explains their difference.

- The recordings. A method that measures on validation data gives each score per block of them.
  Totals keep the blocks, because every round measures on the same recordings: what makes a block
  hard is common to all devices and rounds, and cancels where two are compared block by block.
- The training: which batches a device drew, which coalitions were tried. That is drawn anew in
  every round, so the rounds show it (`coordinator.contribution.round_noise`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from coordinator.contribution.round_noise import RoundNoise
from coordinator.contribution.student import quantile
from journal.events import Contribution, RoundScored

LEVEL = 0.05  # of intervals: they hold in 95 of 100 cases
# Of the larger of two sums of scores: what is left below it is the rounding of sums.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Total:
    """One device's account.

    Attributes:
        score: decayed sum; blocks: the same per block, (B,), empty where a method gives none.
        rounds: how many entries it is the sum of.
        noise: of the training, as the rounds show it.
        peers: decayed sum of what one of those who took part advanced on average, over its rounds.
        excused: the same, over the rounds that it was not drawn for.
    """

    score: float = 0.0
    blocks: tuple[float, ...] = ()
    rounds: int = 0
    noise: RoundNoise = field(default_factory=RoundNoise)
    peers: float = 0.0
    excused: float = 0.0

    def scaled(self, times: float) -> "Total":
        """Return the account if everything in it had been so many times as much."""
        return replace(
            self,
            score=times * self.score,
            blocks=tuple(times * block for block in self.blocks),
            noise=self.noise.scaled(times),
        )

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

    def account(self, device: str) -> Total:
        """Return what a device counts with: as if it had been drawn for every round.

        In a round for which others were drawn it would have been worth to them what it was worth
        to those of its own rounds, but no more than they were on average: the luck of one small
        round is not the measure of a whole campaign. Who stayed away is worth what it gave, and so
        is who was drawn only when next to nothing was advanced: that is no measure of it.
        """
        total = self.totals[device]
        if not total.excused or total.peers <= ROUNDING * total.excused:
            return total
        return total.scaled(1.0 + total.excused / max(total.peers, total.score))

    def excused(self, device: str) -> float:
        """Return the part of all progress, 0 to 1, that was made in rounds it was not drawn for."""
        total = self.totals[device]
        return total.excused / (total.excused + total.peers) if total.excused else 0.0

    def entered(
        self, round_: int, contributions: Sequence[Contribution], not_drawn: Iterable[str] = ()
    ) -> "Ledger":
        """Return the ledger after a round; whoever took no part only decays.

        Args:
            round_: its number.
            contributions: of those whose updates were aggregated.
            not_drawn: who could have taken part, and others were drawn.
        """
        totals = {device: _decayed(total, self.decay) for device, total in self.totals.items()}
        # Harm is no part of it: it would lift everybody else's share.
        advance = sum(entry.score for entry in contributions if entry.score > 0)
        each = advance / len(contributions) if 0 < advance < math.inf else 0.0
        for entry in contributions:
            total = _added(totals.get(entry.device, Total()), entry)
            noise = total.noise.entered(entry.score, advance, len(contributions))
            totals[entry.device] = replace(total, noise=noise, peers=total.peers + each)
        for device in not_drawn:
            total = totals.get(device, Total())
            totals[device] = replace(total, excused=total.excused + each)
        return replace(self, round=round_, totals=totals)


def half_width(blocks: Sequence[float], level: float = LEVEL) -> float:
    """Return half the length of the t-interval of a mean of blocks; 0 for fewer than two."""
    count = len(blocks)
    if count < 2:
        return 0.0
    return float(quantile(count - 1, level) * np.std(blocks, ddof=1) / math.sqrt(count))


def differ(a: Total, b: Total, level: float) -> bool:
    """Return whether two devices contributed significantly different amounts.

    Neither the choice of the recordings nor chance in training may explain the difference.

    Args:
        a: one device's account.
        b: the other's.
        level: of each of the two tests.
    """
    smaller, larger = sorted((a, b), key=lambda total: total.score)
    explained = larger.score - smaller.score <= larger.noise.difference(level)
    return not explained and differ_on_recordings(a, b, level)


def differ_on_recordings(a: Total, b: Total, level: float) -> bool:
    """Return whether two devices contributed significantly different amounts to the recordings.

    The paired t-test (Student, 1908) over the blocks. Where the two have no blocks in common,
    nothing says how sure the scores are, and any difference beyond rounding counts.

    Args:
        a: one device's account.
        b: the other's.
        level: how often two equal devices may be told apart by chance, in (0, 1).
    """
    rounding = ROUNDING * max(abs(a.score), abs(b.score))
    left = a.blocks if a.rounds else (0.0,) * len(b.blocks)
    right = b.blocks if b.rounds else (0.0,) * len(a.blocks)
    if len(left) != len(right) or len(left) < 2:
        return abs(a.score - b.score) > rounding
    apart = [x - y for x, y in zip(left, right, strict=True)]
    return abs(a.score - b.score) > max(half_width(apart, level), rounding)


@dataclass(frozen=True)
class Entry:
    """What one round added to an account.

    Attributes:
        method: which estimator gave the score.
        weight: what is left of it, decay^(T - round): the account is the sum of weight * score.
        update: digest of the update that it was computed from.
    """

    round: int
    method: str
    score: float
    weight: float
    update: str


def statement(device: str, rounds: Iterable[RoundScored], decay: float) -> tuple[Entry, ...]:
    """Return the entries of one device's account, the oldest first.

    Args:
        device: whose.
        rounds: the journal's events, in their order.
        decay: of the ledger.
    """
    scored = list(rounds)
    return tuple(
        Entry(event.round, event.method, one.score, decay**later, one.update)
        for later, event in zip(range(len(scored) - 1, -1, -1), scored, strict=True)
        for one in event.contributions
        if one.device == device
    )


def _decayed(total: Total, decay: float) -> Total:
    if decay == 1.0:
        return total
    return replace(
        total,
        score=decay * total.score,
        blocks=tuple(decay * value for value in total.blocks),
        noise=total.noise.decayed(decay),
        peers=decay * total.peers,
        excused=decay * total.excused,
    )


def _added(total: Total, entry: Contribution) -> Total:
    # A round without blocks, or with other ones, leaves only the sum.
    blocks: tuple[float, ...] = ()
    if total.rounds == 0:
        blocks = entry.blocks
    elif len(total.blocks) == len(entry.blocks):
        blocks = tuple(a + b for a, b in zip(total.blocks, entry.blocks, strict=True))
    score = total.score + entry.score
    return replace(total, score=score, blocks=blocks, rounds=total.rounds + 1)
