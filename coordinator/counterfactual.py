"""What would have changed a device's reward: the allocation again, with another contribution. Pure.

All other contributions stay as they are. Another contribution of the device is its own, scaled in
every block and round; where it is not above 0 there is nothing to scale, and it is shifted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from coordinator.claims import Claim
from coordinator.contribution.ledger import Total
from coordinator.learning_curve import Progress
from coordinator.rewards import Allocation, allocate, reward_ladder
from coordinator.settings import Rewards
from journal.events import CurvePoint, Reward

STEP = 1.5  # a contribution is tried at powers of this, and then between two of them
UP, DOWN = 24, 16
HALVINGS = 12


@dataclass(frozen=True)
class Case:
    """Everything that an allocation follows from; see `coordinator.rewards.allocate`."""

    claims: Sequence[Claim]
    curve: Sequence[CurvePoint]
    policy: Rewards
    untrained: float
    rounds: Progress = ()

    def reward(self, device: str, contribution: float | None = None) -> Reward:
        """Return what a device gets, with another contribution where one is given."""
        claims = [
            self._changed(claim, contribution)
            if claim.device == device and contribution is not None
            else claim
            for claim in self.claims
        ]
        rewards = replace(self, claims=claims).allocation().rewards
        return next(reward for reward in rewards if reward.device == device)

    def allocation(self) -> Allocation:
        """Return what everybody gets."""
        return allocate(self.claims, self.curve, self.policy, self.untrained, self.rounds)

    def _changed(self, claim: Claim, contribution: float) -> Claim:
        own, total = claim.contribution, claim.total if claim.sound else Total()
        if own > 0:
            total = total.scaled(contribution / own)
        else:
            blocks = tuple(block + contribution - own for block in total.blocks)
            total = replace(total, blocks=blocks)
        total = replace(total, score=contribution, rounds=max(1, total.rounds))
        if self.policy.basis == "assessment":  # the contribution is what its own model scores
            return replace(claim, total=total, alone=self.untrained + contribution)
        return replace(claim, total=total)


def next_wider(case: Case, device: str) -> Reward | None:
    """Return the reward for the smallest contribution that earns a wider width; None if none."""
    now = case.reward(device)
    ladder = reward_ladder(case.curve)
    if not ladder or now.width == ladder[-1].width:
        return None
    others = [max(0.0, one.contribution) for one in case.claims if one.device != device]
    average = sum(others) / len(others) if any(others) else 1.0
    start = now.contribution if now.contribution > 0 else average / 100
    before = now.contribution
    for power in range(UP):
        score = start * STEP**power
        if case.reward(device, score).width > now.width:
            return _edge(case, device, score, before, lambda one: one.width > now.width)
        before = score
    return None


def still_enough(case: Case, device: str) -> Reward | None:
    """Return the reward for the smallest contribution that keeps the width.

    None if it has none to lose, or would keep it with a contribution of 0.
    """
    now = case.reward(device)
    if not now.width or now.contribution <= 0:
        return None
    before = now.contribution
    for score in (*(before / STEP**power for power in range(1, DOWN)), 0.0):
        if case.reward(device, score).width < now.width:
            return _edge(case, device, before, score, lambda one: one.width >= now.width)
        before = score
    return None


def _edge(
    case: Case, device: str, good: float, bad: float, holds: Callable[[Reward], bool]
) -> Reward:
    """Return the reward at the contribution nearest to ``bad`` that still ``holds``."""
    for _ in range(HALVINGS):
        middle = (good + bad) / 2
        if holds(case.reward(device, middle)):
            good = middle
        else:
            bad = middle
    return case.reward(device, good)
