"""Which of the devices that could take part are drawn for a round. Pure.

A draw depends on the campaign's seed, the round and the names alone, so that a replay and an
auditor find the same one.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Policy = Literal["rotation", "random", "usefulness"]
EXPLORED = 0.5  # of "usefulness": part of the places that go by rotation, so that nobody starves


@dataclass(frozen=True)
class Candidate:
    """A device that could take part.

    Attributes:
        last_drawn: number of the last round that it was drawn for; 0 = none yet.
        worth: its contribution for each part of the progress that it could have a part in; None
            where it was never drawn.
        group: among which the places are dealt out evenly.
    """

    device: str
    last_drawn: int = 0
    worth: float | None = None
    group: str = ""


def label_of(chosen: str) -> tuple[str, str]:
    """Return name and value of a label such as "site:hall-2"; of "" both are empty."""
    name, _, value = chosen.partition(":")
    return name, value


def balanced(
    candidates: Sequence[Candidate], places: int, policy: Policy, seed: int, round_: int
) -> set[str]:
    """Return the devices that are drawn, as many of each group as of any other.

    Where a group is too small the others have its places. Where there are fewer places than groups
    those have them that were drawn longest ago; at random all alike. Within a group see `drawn`,
    and for the arguments.
    """
    groups: dict[str, list[Candidate]] = {}
    for one in candidates:
        groups.setdefault(one.group, []).append(one)
    last = {
        name: 0 if policy == "random" else max(one.last_drawn for one in members)
        for name, members in groups.items()
    }
    order = sorted(groups, key=lambda name: (last[name], _lot(seed, round_, f"group {name}")))
    dealt = Counter[str]()
    while (left := min(places, len(candidates)) - dealt.total()) > 0:
        dealt.update([name for name in order if dealt[name] < len(groups[name])][:left])
    return {
        device
        for name, count in dealt.items()
        for device in drawn(groups[name], count, policy, seed, round_)
    }


def drawn(
    candidates: Sequence[Candidate], places: int, policy: Policy, seed: int, round_: int
) -> set[str]:
    """Return the devices that are drawn; all where there are places enough.

    * rotation: those whose last round is longest ago;
    * random: all alike;
    * usefulness: half of the places by rotation; the others to those that contribute most, where a
      device that was never drawn counts as the best (the exploration of Oort, Lai et al., OSDI
      2021, section 4.3, whose utility is the training loss).

    Equal ones are drawn by lot.

    Args:
        candidates: in any order.
        places: at least 1.
        policy: how.
        seed: of the campaign.
        round_: number of the round.
    """
    lot = {one.device: _lot(seed, round_, one.device) for one in candidates}
    by_turn = sorted(candidates, key=lambda one: (one.last_drawn, lot[one.device]))
    if policy == "random":
        by_turn.sort(key=lambda one: lot[one.device])
    if policy != "usefulness":
        return {one.device for one in by_turn[:places]}
    turns = max(1, round(EXPLORED * places))
    found = [one.device for one in by_turn[:turns]]
    best = sorted(
        by_turn[turns:],
        key=lambda one: (one.worth is not None, -(one.worth or 0.0), lot[one.device]),
    )
    return {*found, *(one.device for one in best[: places - turns])}


def _lot(seed: int, round_: int, device: str) -> bytes:
    return hashlib.sha256(f"{seed}/{round_}/{device}".encode()).digest()
