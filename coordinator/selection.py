"""Which of the devices that could take part are drawn for a round. Pure.

A draw depends on the campaign's seed, the round and the names alone, so that a replay and an
auditor find the same one.
"""

import hashlib
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
    """

    device: str
    last_drawn: int = 0
    worth: float | None = None


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
