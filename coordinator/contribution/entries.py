"""What a round enters in the ledger: one contribution a device. Pure."""

from collections.abc import Mapping, Sequence

from coordinator.bench import UpdateFile
from coordinator.contribution.evidence import Scores
from journal.events import Contribution


def entries(
    updates: Sequence[UpdateFile], scores: Scores, known: Mapping[str, float]
) -> tuple[Contribution, ...]:
    """Return the contributions of a round in the order of the device ids.

    Each update was scored by itself. A device that has two in the round, one of them late, is worth
    the sum of both.

    Args:
        updates: of the round; those that are not late come first.
        scores: by the name of the update in the round.
        known: the same -> share of it that the server could foresee.
    """
    found: dict[str, Contribution] = {}
    for update in updates:
        own = Contribution(
            device=update.device,
            score=scores.scores[update.player],
            update=update.digest,
            blocks=scores.blocks.get(update.player, ()),
            known=known.get(update.player, 0.0),
        )
        first = found.get(update.device)
        found[update.device] = _together(first, own) if first else own
    return tuple(found[device] for device in sorted(found))


def _together(fresh: Contribution, late: Contribution) -> Contribution:
    return Contribution(
        device=fresh.device,
        score=fresh.score + late.score,
        update=fresh.update,
        blocks=tuple(a + b for a, b in zip(fresh.blocks, late.blocks, strict=True)),
        known=(fresh.known + late.known) / 2,
        late=late.update,
    )
