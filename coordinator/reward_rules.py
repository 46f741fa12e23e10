"""The rules of rewards: from what devices are worth to the scores they are granted. Pure.

A rule gives each group of devices a target, a score on the continuous range [l, u] from the
narrowest offered width's score to the widest's, and then one of the scores that are on offer.

- ``equal-gain`` (after Aequa, ICML 2025; our reading): r_i = clip(c_i + t, l, u), one t for all.
- ``affine``: the least worth to l, the greatest to u, the others in proportion.
- ``nash-welfare``: the largest product of gains (Nash 1950). A model is not used up by sharing it:
  each factor grows with its own reward and takes nothing from another, so all get u.
- ``sharing-coefficient``: l + min(p_i / p_max, 1)^(1 - kappa) * (u - l), p the contribution; the
  sharing rate of IAFL (ICLR 2024) read as a place on the ladder.
- ``tiers``: the operator's own table; a device gets the width of the highest tier it reaches.

All but equal-gain round down to the widest score that is not above the target.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.grid_allocation import best_levels
from coordinator.settings import Rewards
from journal.events import CurvePoint

EQUAL_GAIN = "equal-gain"
AFFINE = "affine"
# It absorbs the rounding of low + (value - bottom) * scale at the top.
TOLERANCE = 1e-9
ROUNDING = 1e-12  # of the objective: equal gains are not given up for less


@dataclass(frozen=True)
class Group:
    """Devices that get one width, since their contributions do not differ significantly.

    Attributes:
        devices: who.
        contribution, share: means over the devices.
        values: what each device is worth as a score (c_i), in the order of ``devices``.
        worth: of the group; never falls from one group to the next better one.
        floor: position on the ladder below which a device would get less than it has alone.
    """

    devices: tuple[str, ...]
    contribution: float
    share: float
    values: tuple[float, ...]
    worth: float
    floor: int


@dataclass(frozen=True)
class Grant:
    """What a rule gives to groups.

    Attributes:
        rule: that was applied; note: why it is not the one that was asked for.
        targets: of each group, the score before it is fitted to the ladder.
        levels: of each group, the position on the ladder.
    """

    rule: str
    note: str
    targets: tuple[float, ...]
    levels: tuple[int, ...]


def grant(groups: Sequence[Group], ladder: Sequence[CurvePoint], policy: Rewards) -> Grant:
    """Apply the rule that the operator chose.

    Args:
        groups: the least contributor first.
        ladder: offered widths of strictly rising score.
        policy: which rule, and its numbers.
    """
    return _RULES[policy.rule](groups, ladder, policy)


def equal_gain_shift(
    worths: Sequence[float], sizes: Sequence[int], high: float, aversion: float
) -> float:
    """Return the t for which min(c_i + t, ``high``) has the smallest -MCG + lambda * CGS.

    With t = high - max c all gains are equal. A larger t takes the most worthy below the others'
    gain; that pays only in a fleet of more than 1 + lambda^2 devices, where a few outstanding ones
    would hold all others down. Between two values of t at which one more device reaches ``high``
    the gains are linear in t, so f is convex there, and smallest at an end or where it is flat.

    Args:
        worths: c of each group.
        sizes: how many devices each group has.
        high: the best score on offer.
        aversion: lambda.
    """
    count, top = sum(sizes), max(worths)
    # Both t and the gains are counted from high - max c, where all gains are 0.
    drops = sorted(zip((top - worth for worth in worths), sizes, strict=True))
    best, least = 0.0, 0.0
    reached, gain, squares = 0, 0.0, 0.0
    for place, (drop, size) in enumerate(drops):
        reached, gain, squares = reached + size, gain + size * drop, squares + size * drop**2
        end = drops[place + 1][0] if place + 1 < len(drops) else drop
        flat = _flat(reached / count, gain / count, squares / count, aversion)
        for shift in (*(t for t in flat if drop < t < end), end):
            free = 1 - reached / count
            mean = free * shift + gain / count
            spread = free * shift**2 + squares / count - mean**2
            rating = aversion * math.sqrt(max(0.0, spread)) - mean
            if rating < least - ROUNDING:
                best, least = shift, rating
    return high - top + best


def _flat(reached: float, gain: float, squares: float, aversion: float) -> list[float]:
    """Return every t at which f does not change, while a fixed share is at the top.

    There t, which is the gain of all others, lies CGS / lambda above the mean gain. Squared, that
    is a quadratic equation in t; the root of the other sign is no minimum, and is not the best.

    Args:
        reached: share of the devices that are at the top.
        gain: their part of the mean gain.
        squares: their part of the mean square.
        aversion: lambda.
    """
    free, weight = 1 - reached, aversion**2
    a = reached * (weight * reached - free)
    b = 2 * gain * (free - weight * reached)
    c = (weight + 1) * gain**2 - squares
    root = b * b - 4 * a * c
    if a == 0 or root < 0:
        return []
    return [(-b + sign * math.sqrt(root)) / (2 * a) for sign in (1, -1)]


def round_down(
    targets: Sequence[float], groups: Sequence[Group], ladder: Sequence[CurvePoint]
) -> tuple[int, ...]:
    """Return for each group the widest level not above its target, but none below its floor.

    A floor lifts the better contributors with it, since a smaller one never gets more.
    """
    levels: list[int] = []
    for target, group in zip(targets, groups, strict=True):
        within = [n for n, point in enumerate(ladder) if point.fitted <= target + TOLERANCE]
        before = levels[-1] if levels else 0
        levels.append(max(before, group.floor, within[-1] if within else 0))
    return tuple(levels)


def _equal_gain(groups: Sequence[Group], ladder: Sequence[CurvePoint], policy: Rewards) -> Grant:
    low, high = ladder[0].fitted, ladder[-1].fitted
    spread = groups[-1].worth - groups[0].worth
    if spread > high - low:
        note = (
            f"honest contributions spread over {spread:.3f}, the widths only over"
            f" {high - low:.3f}: mapped affinely above the cut-off, ranks kept"
        )
        targets = _affine_targets(groups, low, high)
        return Grant(AFFINE, note, targets, round_down(targets, groups, ladder))
    worths, sizes = [group.worth for group in groups], [len(group.devices) for group in groups]
    shift = equal_gain_shift(worths, sizes, high, policy.aversion)
    targets = tuple(min(high, max(low, worth + shift)) for worth in worths)
    floors = [group.floor for group in groups[:-1]] + [len(ladder) - 1]
    values = [group.values for group in groups]
    scores = [point.fitted for point in ladder]
    return Grant(EQUAL_GAIN, "", targets, best_levels(scores, values, floors, policy.aversion))


def _affine(groups: Sequence[Group], ladder: Sequence[CurvePoint], policy: Rewards) -> Grant:
    targets = _affine_targets(groups, ladder[0].fitted, ladder[-1].fitted)
    return Grant(AFFINE, "", targets, round_down(targets, groups, ladder))


def _affine_targets(groups: Sequence[Group], low: float, high: float) -> tuple[float, ...]:
    bottom, top = groups[0].worth, groups[-1].worth
    if top <= bottom:
        return (high,) * len(groups)
    scale = (high - low) / (top - bottom)
    return tuple(low + (group.worth - bottom) * scale for group in groups)


def _nash_welfare(groups: Sequence[Group], ladder: Sequence[CurvePoint], policy: Rewards) -> Grant:
    targets = (ladder[-1].fitted,) * len(groups)
    return Grant("nash-welfare", "", targets, round_down(targets, groups, ladder))


def _sharing(groups: Sequence[Group], ladder: Sequence[CurvePoint], policy: Rewards) -> Grant:
    low, high = ladder[0].fitted, ladder[-1].fitted
    largest = groups[-1].contribution
    targets = tuple(
        low + (max(0.0, group.contribution) / largest) ** (1 - policy.sharing) * (high - low)
        for group in groups
    )
    return Grant("sharing-coefficient", "", targets, round_down(targets, groups, ladder))


def _tiers(groups: Sequence[Group], ladder: Sequence[CurvePoint], policy: Rewards) -> Grant:
    targets = []
    for group in groups:
        reached = [width for least, width in policy.tiers if group.share >= least]
        offered = [point.fitted for point in ladder if reached and point.width <= reached[-1]]
        targets.append(offered[-1] if offered else ladder[0].fitted)
    return Grant("tiers", "", tuple(targets), round_down(targets, groups, ladder))


_RULES: dict[str, Callable[[Sequence[Group], Sequence[CurvePoint], Rewards], Grant]] = {
    EQUAL_GAIN: _equal_gain,
    AFFINE: _affine,
    "nash-welfare": _nash_welfare,
    "sharing-coefficient": _sharing,
    "tiers": _tiers,
}
