"""How long the next round shall be, where the policy chooses it. Pure.

Each device could take part in several ways: the narrowest width with few steps, then with all, then
wider ones. The longer the deadline, the more devices take part and the more each of them does, and
the longer everybody waits. Chosen is the deadline with the best expected progress a second, where a
round's progress is the work that is trained in it: gradient steps times the parameters of the
width, summed over the devices.

That is a proxy, and a weak one: it takes each step as worth as much as any other. In truth later
steps on the same weights are worth less, a device whose data nobody else has is worth more, and
twice the parameters do not learn twice as much. What it gets right is the order of magnitude: a
fleet is not made to wait a minute for a hundredth of its work. The floor is there for the rest.

Progress is a step function of the deadline that rises where some device can do more. Between two
such places only the seconds grow, so that no deadline is better than the best of these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.fleet import Campaign, Device, settings_of
from coordinator.pace import Level, Paced, reserved

# Below, messages take a part of the round that no prediction knows of.
SHORTEST_S = 2.0
MOST_STEPS = 64  # numbers of steps that are looked at for each device


@dataclass(frozen=True)
class Option:
    """One way in which a device takes part.

    Attributes:
        deadline_s: the shortest deadline that allows it.
        work: what it adds to the progress.
    """

    deadline_s: float
    work: float


@dataclass(frozen=True)
class DeadlineChoice:
    """A deadline, and what is expected of it.

    Attributes:
        taking_part: devices that can; capable: that could in the longest round.
        rate: progress a second; longest_rate: with the longest deadline.
    """

    deadline_s: float
    taking_part: int
    capable: int
    rate: float
    longest_rate: float


def best_deadline(
    devices: Sequence[Sequence[Option]],
    *,
    longest_s: float,
    shortest_s: float = 0.0,
    least_devices: int = 1,
    floor: float = 1.0,
    between_s: float = 0.0,
    held_s: float = 0.0,
    hysteresis: float = 0.0,
) -> DeadlineChoice | None:
    """Return the deadline with the best expected progress a second.

    Args:
        devices: the options of each; one with more work replaces one with less.
        longest_s: the longest deadline.
        shortest_s: the shortest, unless the longest is shorter.
        least_devices: that must be able to take part, where so many are capable.
        floor: share of the capable ones that must be.
        between_s: seconds from one round's end to the next one's beginning.
        held_s: the deadline so far, 0 = none: it stays while another is better by less than
        hysteresis: this share.

    Returns:
        None where nobody can take part in time.
    """
    inside = [[one for one in options if one.deadline_s <= longest_s] for options in devices]
    entries = sorted(min(one.deadline_s for one in options) for options in inside if options)
    if not entries:
        return None
    needed = max(math.ceil(floor * len(entries) - 1e-9), min(least_devices, len(entries)), 1)
    first = min(longest_s, max(shortest_s, entries[needed - 1]))
    changes = sorted(
        (max(first, one.deadline_s), place, one.work)
        for place, options in enumerate(inside)
        for one in options
    )
    current, total = [0.0] * len(inside), 0.0
    rates: dict[float, float] = {}
    for deadline_s, place, work in changes:
        if work > current[place]:
            total, current[place] = total + work - current[place], work
        rates[deadline_s] = total / (deadline_s + between_s)
    best = max(rates, key=lambda found: (rates[found], -found))
    longest_rate = total / (longest_s + between_s)
    if first <= held_s <= longest_s:
        reached = max(found for found in (*rates, first) if found <= held_s)
        held_rate = rates.get(reached, 0.0) * (reached + between_s) / (held_s + between_s)
        if rates[best] <= held_rate * (1.0 + hysteresis):
            best, rates = held_s, {held_s: held_rate}
    taking_part = sum(entry <= best for entry in entries)
    return DeadlineChoice(best, taking_part, len(entries), rates[best], longest_rate)


def options_of(levels: Sequence[Level], time_share: float) -> list[Option]:
    """Return the options of a device whose predictions may use so much of the deadline."""
    # Up to the next millisecond: what was meant to fit must not fail by a rounding.
    return [
        Option(math.ceil(1000 * level.seconds / time_share + 1e-6) / 1000, level.work)
        for level in levels
        if math.isfinite(level.seconds)
    ]


def chosen_deadline(state: Campaign, caps: Sequence[tuple[Device, float]]) -> tuple[float, str]:
    """Return the deadline of the next round, and why in one sentence.

    Args:
        state: of the campaign.
        caps: each device that can be invited, with its widest width in this round.
    """
    settings = settings_of(state)
    policy, longest_s = settings.width_policy, settings.rounds.deadline_s
    devices = [
        options_of([*paced.levels(cap, MOST_STEPS)], policy.time_share)
        for device, cap in caps
        for paced in [Paced(device, settings, reserved(device, policy.time_share), 0.0)]
    ]
    last = state.round.opened if state.round and not state.round.opened.assessment else None
    found = best_deadline(
        devices,
        longest_s=longest_s,
        shortest_s=SHORTEST_S,
        least_devices=settings.rounds.quorum,
        floor=policy.participation_floor,
        between_s=state.between_s,
        held_s=last.budget_s if last else 0.0,
        hysteresis=policy.hysteresis,
    )
    if found is None:
        return (
            longest_s,
            f"deadline {longest_s:g} s, the longest: nobody is predicted to be in time",
        )
    if found.deadline_s == longest_s:
        rest = "the longest that is allowed"
    else:
        rest = f"{longest_s:g} s, the longest, would give {found.longest_rate:.3g}"
    return found.deadline_s, (
        f"deadline {found.deadline_s:.3g} s: {found.taking_part} of {found.capable} devices can"
        f" take part, and {found.rate:.3g} parameters are trained a second; {rest}"
    )
