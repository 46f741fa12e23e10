"""From contributions to reward widths. Pure.

1. The ladder: the offered widths by their fitted scores; of equal scores the widest stands for all.
2. The cut-off: whoever is below it receives no release.
3. Ties: devices whose contributions do not differ significantly get one width.
4. Worth: contributions as scores (c_i) by the network's own learning curve, or what the devices'
   own models scored where all of them were measured.
5. The rule (`coordinator.reward_rules`): a target for each group of tied devices, and the score of
   the ladder that it gets. Equal gain solves the ladder exactly (`coordinator.grid_allocation`).

What holds for every allocation: a smaller contributor never gets more than a larger one; tied
devices get the same; no device above the cut-off gets less than its own model scored, where that
was measured and something as good is on offer; and except under ``tiers`` the top contributor gets
the widest width on offer.

On "nobody is over-rewarded against a better contributor": nobody ever gets a wider model than
somebody who contributed more. Under equal gain its *gain* may be above a better contributor's, by
less than the one step of the ladder that it was rounded up by, because the exact choice rounds to
where gains are most equal. The other rules round down.

Odd input: contributions may be any numbers, below 0 or above 1. One that is not finite counts as 0
and is cut off. If none is above 0, nobody advanced the model and the rule is ``floor``: nobody
passes a cut-off above 0, and without one all get the narrowest width. A width whose score is not
finite is not offered; where scores fall with width the fit makes them equal. If no width is offered
nobody gets a release (rule ``none``). One device alone, or any number of equal ones, get the
widest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from coordinator import claims as c
from coordinator.claims import Claim
from coordinator.learning_curve import Progress, learning_curve, worth
from coordinator.reward_rules import TOLERANCE, Grant, Group, grant, round_down
from coordinator.settings import Rewards
from journal.events import CurvePoint, Reward

FLOOR = "floor"
NONE = "none"
WORSE = "significantly worse than width"  # begins why a width is not offered that another beats
EQUALS_LIMIT = 16  # tied devices that one reward names: the nearest in rank


@dataclass(frozen=True)
class Allocation:
    """Rewards of all devices and the rule that made them."""

    rule: str
    note: str
    rewards: tuple[Reward, ...]


def isotonic(scores: Sequence[float], weights: Sequence[float] = ()) -> list[float]:
    """Return the closest non-decreasing sequence in the least-squares sense.

    Pool adjacent violators (Ayer et al., "An empirical distribution function for sampling with
    incomplete information", 1955).

    Args:
        scores: any sequence.
        weights: of its terms, above 0; all equal where there are none.
    """
    blocks: list[tuple[float, float, int]] = []
    for score, weight in zip(scores, weights or (1.0,) * len(scores), strict=True):
        mean, mass, count = score, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, more, size = blocks.pop()
            mean = (before * more + mean * mass) / (more + mass)
            mass, count = mass + more, count + size
        blocks.append((mean, mass, count))
    return [mean for mean, _, count in blocks for _ in range(count)]


def score_values(
    contributions: Mapping[str, float],
    untrained: float,
    trained: float,
    average: Sequence[str] | None = None,
    rounds: Progress = (),
) -> dict[str, float]:
    """Express contributions in score units; see `coordinator.learning_curve`.

    A device that gave nothing is worth the untrained model's score, and the average device the
    trained model's. The mean is over what is above 0 (`coordinator.claims.average`); if nothing is,
    all get the untrained model's. Where the loss fell and the score did not rise, more is not worth
    less, so all get that as well.

    Args:
        contributions: device -> accumulated score.
        untrained: score of the initial weights.
        trained: that of the widest width on offer.
        average: the devices that the mean is of; all where None.
        rounds: progress and score after each round, see `coordinator.learning_curve`.
    """
    among = {device: contributions[device] for device in average or contributions}
    mean = c.average(among)
    if mean <= 0:
        return dict.fromkeys(contributions, untrained)
    points = learning_curve(untrained, trained, rounds)
    return {device: worth(score / mean, points) for device, score in contributions.items()}


def allocate(
    claims: Sequence[Claim],
    curve: Sequence[CurvePoint],
    policy: Rewards,
    untrained: float,
    rounds: Progress = (),
) -> Allocation:
    """Return each device's reward width; see the module for what holds and for odd input.

    Args:
        claims: of every device that was ever invited.
        curve: measured score over the reward ladder.
        policy: the operator's rule, cut-off and significance.
        untrained: score of the initial model.
        rounds: progress and score after each round, see `coordinator.learning_curve`.
    """
    ranks = c.ranked(claims)
    contributions = {claim.device: claim.contribution for claim in ranks}
    share = c.shares(contributions)
    ladder = reward_ladder(curve)
    if ladder:
        cut = c.cut_off(ranks, share, policy)
    else:
        cut = {claim.device: "no release: no width is offered" for claim in ranks}
    honest = [claim for claim in ranks if claim.device not in cut]
    trained = ladder[-1].fitted if ladder else untrained
    values = _values(ranks, honest, untrained, trained, rounds)
    if policy.rule != "affine":  # which shows every rank
        # Nobody would have more than what all together have trained. A worth beyond it would be
        # gained by nobody, and only lower what equal gain leaves to all others.
        values = {device: min(value, trained) for device, value in values.items()}
    average = c.average(contributions)
    tied = c.ties(honest, policy.significance, policy.proof * average)
    groups = _groups(tied, share, values, ladder)
    advanced = average > 0
    granted = _granted(groups, ladder, policy, advanced=advanced)
    rewards = {
        claim.device: _reward(claim, share, values, cut.get(claim.device, "")) for claim in ranks
    }
    least = 0
    for group, target, level in zip(groups, granted.targets, granted.levels, strict=True):
        least = max(least, group.floor)
        for device in group.devices:
            earned = _earned(rewards[device], group, target, ladder[level])
            why = _reason(earned, len(group.devices), raised=level <= least)
            rewards[device] = msgspec.structs.replace(earned, reason=why)
    return Allocation(
        granted.rule, granted.note, tuple(rewards[device] for device in sorted(rewards))
    )


def beaten(point: CurvePoint) -> bool:
    """Return whether nothing but a better narrower width speaks against offering this one."""
    # Journals from before reasons were recorded know only this one.
    return not point.offered and (not point.why or point.why.startswith(WORSE))


def reward_ladder(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Return the offered widths, narrowest first, with strictly rising fitted scores."""
    offered = sorted((p for p in curve if p.offered), key=lambda p: p.width)
    offered = [point for point in offered if math.isfinite(point.fitted)]
    scores = [point.fitted for point in offered]
    if scores != sorted(scores):
        scores = isotonic(scores)
    widest = dict(zip(scores, offered, strict=True))
    return [msgspec.structs.replace(point, fitted=score) for score, point in widest.items()]


def _values(
    ranks: Sequence[Claim],
    honest: Sequence[Claim],
    untrained: float,
    trained: float,
    rounds: Progress,
) -> dict[str, float]:
    """Return c_i of every device.

    That is the score of its own model where the models of all above the cut-off were measured.
    Otherwise the mean of `score_values` is over those above the cut-off: enrolling idle devices
    besides must not stretch what the others are worth.
    """
    if honest and all(claim.own_score is not None for claim in honest):
        own = {claim.device: claim.own_score for claim in ranks}
        return {device: untrained if score is None else score for device, score in own.items()}
    contributions = {claim.device: claim.contribution for claim in ranks}
    above = [claim.device for claim in honest]
    return score_values(contributions, untrained, trained, above, rounds)


def _groups(
    tied: Sequence[Sequence[Claim]],
    share: Mapping[str, float],
    values: Mapping[str, float],
    ladder: Sequence[CurvePoint],
) -> list[Group]:
    """Return the devices above the cut-off in groups that get one width, the least first."""
    means = [math.fsum(values[claim.device] for claim in group) / len(group) for group in tied]
    worths = isotonic(means, [len(group) for group in tied])
    return [
        Group(
            devices=tuple(claim.device for claim in group),
            contribution=math.fsum(claim.contribution for claim in group) / len(group),
            share=math.fsum(share[claim.device] for claim in group) / len(group),
            values=tuple(values[claim.device] for claim in group),
            worth=worth,
            floor=max(_floor(claim, ladder) for claim in group),
        )
        for group, worth in zip(tied, worths, strict=True)
    ]


def _floor(claim: Claim, ladder: Sequence[CurvePoint]) -> int:
    """Return the first level that is as good as the device's own model; 0 where none is."""
    own = claim.own_score
    as_good = [n for n, point in enumerate(ladder) if own is not None and point.fitted >= own]
    return as_good[0] if as_good else 0


def _granted(
    groups: Sequence[Group], ladder: Sequence[CurvePoint], policy: Rewards, *, advanced: bool
) -> Grant:
    if not ladder:
        return Grant(NONE, "no width is offered: nobody gets a release", (), ())
    if not advanced:
        note = "nobody advanced the model: whoever is above the cut-off gets the floor"
        targets = (ladder[0].fitted,) * len(groups)
        return Grant(FLOOR, note, targets, round_down(targets, groups, ladder))
    if not groups:
        return Grant(policy.rule, "no device is above the cut-off", (), ())
    return grant(groups, ladder, policy)


def _reward(
    claim: Claim, share: Mapping[str, float], values: Mapping[str, float], reason: str
) -> Reward:
    """Return what a device gets below the cut-off."""
    low, high = claim.interval
    return Reward(
        device=claim.device,
        contribution=claim.contribution,
        share=share[claim.device],
        value=values[claim.device],
        target=0.0,
        width=0.0,
        score=0.0,
        reason=reason,
        low=low,
        high=high,
        alone=claim.own_score,
    )


def _earned(reward: Reward, group: Group, target: float, point: CurvePoint) -> Reward:
    place = group.devices.index(reward.device)
    start = max(0, min(place - EQUALS_LIMIT // 2, len(group.devices) - EQUALS_LIMIT - 1))
    near = group.devices[start : start + EQUALS_LIMIT + 1]
    return msgspec.structs.replace(
        reward,
        target=target,
        width=point.width,
        score=point.fitted,
        equals=tuple(sorted(device for device in near if device != reward.device)),
    )


def _reason(reward: Reward, tied: int, *, raised: bool) -> str:
    """Return why a device above the cut-off gets its width.

    Args:
        reward: all but the reason.
        tied: how many devices get the same as it, itself included.
        raised: whether a narrower width would be below what somebody has alone.
    """
    width = f"width {reward.width:g}"
    reason = (
        f"{width}: {reward.share:.2f} times the average contribution earns a score of"
        f" {reward.target:.3f}, and {width} scores {reward.score:.3f}"
    )
    if reward.score > reward.target + TOLERANCE:
        reason += (
            ", the least that nobody has better alone"
            if raised
            else ", rounded up because gains are most equal so"
        )
    if reward.equals:
        more = tied - 2
        others = f"{reward.equals[0]} and {more} more" if more else reward.equals[0]
        reason += f"; no significant difference to {others}: the same width"
    if reward.alone is not None and reward.alone > reward.score:
        reason += f"; its own model scored {reward.alone:.3f}, more than any width on offer"
    return reason
