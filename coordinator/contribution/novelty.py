"""What of a device's step the server could not foresee from the model's own past. Pure, numpy.

Whoever was in a round has seen the model before and after it, and can send the difference again in
the next one: the direction still lowers the loss a little, so a score by the loss alone pays for
it. Yet the server knows that direction itself and needs nobody for it. So each step is split by
least squares into its projection on the last changes of the model (foreseen) and the rest (novel),
and only the rest is credited. That names no attack: a replayed, scaled or slightly disturbed change
of the model has next to nothing left, an honest step loses the little that it shares with the past.

The projection is made tensor by tensor, so that scaling the tensors differently leaves nothing
either. Tensors that are small beside the number of known changes would lose much by chance (n
values lose k / n of their squared length on average) and are projected together. A coordinate is
weighted by who else holds it (`coordinator.aggregation.steps`), so each ring between two training
widths is projected by itself; where windows overlap otherwise, what the same slices hold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from coordinator.aggregation.steps import Step
from slimmable.slicing import coverage
from slimmable.spec import WidthSpec
from slimmable.state import Array
from slimmable.window import Place

Vector = npt.NDArray[np.float64]

LEAST_VALUES = 100  # a piece with fewer values per known change is projected with others
RANK_TOLERANCE = 1e-6  # directions that differ by less are float32 rounding
# A rest shorter than this share of its step is the rounding of weights that were added and taken
# away again; a device with no other rest has sent no news, and its score is exactly 0.
NO_NEWS = 1e-4


@dataclass(frozen=True)
class Novelty:
    """The steps of a round, split.

    Attributes:
        steps: what is credited, in the order given.
        foreseen: the rest; ``steps`` plus ``foreseen`` are the steps given.
        shares: device -> share of its squared length that was foreseen, 0 to 1.
    """

    steps: tuple[Step, ...]
    foreseen: tuple[Step, ...]
    shares: dict[str, float]


@dataclass(frozen=True)
class SplitStep:
    """One step, split.

    Attributes:
        novel, foreseen: parameter name -> array in the slice's shape; they add up to the step.
        share: of its squared length that was foreseen, 0 to 1.
    """

    step: Step
    novel: Mapping[str, Array]
    foreseen: Mapping[str, Array]
    share: float


@dataclass(frozen=True)
class _Piece:
    """Coordinates of one tensor, inside the slice of one width and window.

    Attributes:
        inside: where they lie, in the shape of the slice.
    """

    name: str
    inside: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Group:
    """Pieces that are projected together.

    Attributes:
        basis: orthonormal rows that span the known changes there, (rank, n).
    """

    pieces: tuple[_Piece, ...]
    basis: Vector


def novel_steps(
    spec: WidthSpec,
    steps: Sequence[Step],
    known: Sequence[Mapping[str, Array]],
    sent: Mapping[str, Mapping[str, Array]] | None = None,
    back: Mapping[str, int] | None = None,
) -> Novelty:
    """Split the steps of a round.

    Args:
        spec: of the model.
        steps: of everybody; a step that is zero stays exactly zero.
        known: earlier changes of the global model as full state dicts, w_t - w_(t-1) and so on;
            their scale does not matter, zero changes and repetitions are harmless. Without any,
            everything is novel.
        sent: device -> a change that the server sent to it alone, in full shapes; foreseen too.
        back: device -> how many of them, from the first on, count for it; all where it is absent.
    """
    parts = list(split_steps(spec, steps, known, sent, back))
    return Novelty(
        tuple(replace(part.step, change=part.novel) for part in parts),
        tuple(replace(part.step, change=part.foreseen) for part in parts),
        {part.step.device: part.share for part in parts},
    )


def split_steps(
    spec: WidthSpec,
    steps: Sequence[Step],
    known: Sequence[Mapping[str, Array]],
    sent: Mapping[str, Mapping[str, Array]] | None = None,
    back: Mapping[str, int] | None = None,
) -> Iterator[SplitStep]:
    """Split the steps of a round one after the other; see `novel_steps`.

    Whoever needs no step twice so holds the parts of one at a time.
    """
    places = sorted({step.place for step in steps})
    depth = {s.device: min(len(known), (back or {}).get(s.device, len(known))) for s in steps}
    groups = {
        (place, count): _groups(spec, place, places, known[:count])
        for place, count in {(step.place, depth[step.device]) for step in steps}
        if count
    }
    for step in steps:
        count = depth[step.device]
        mine = groups.get((step.place, count), ())
        if sent and step.device in sent:
            mine = _groups(spec, step.place, places, [*known[:count], sent[step.device]])
        part, rest = _split(step, mine)
        length = _squared_length(step.change) if mine else 0.0
        share = min(1.0, _squared_length(part) / length) if length else 0.0
        yield SplitStep(step, rest, part, share)


def _groups(
    spec: WidthSpec, place: Place, places: Sequence[Place], known: Sequence[Mapping[str, Array]]
) -> tuple[_Group, ...]:
    """Return what is projected together in the slice ``place``; ``places`` bound the rings."""
    gathered: list[list[_Piece]] = []
    small: dict[tuple[Place, ...], list[_Piece]] = {}
    for name in spec.parameters:
        for holders, inside in _rings(spec, name, place, places):
            if int(inside.sum()) >= LEAST_VALUES * len(known):
                gathered.append([_Piece(name, inside)])
            else:
                small.setdefault(holders, []).append(_Piece(name, inside))
    groups = []
    for pieces in [*gathered, *small.values()]:
        rows = []
        for change in known:
            cut = {p.name: change[p.name][coverage(spec, p.name, *place)] for p in pieces}
            rows.append(_vector(cut, pieces))
        groups.append(_Group(tuple(pieces), _orthonormal(np.stack(rows))))
    return tuple(groups)


def _rings(
    spec: WidthSpec, name: str, place: Place, places: Sequence[Place]
) -> Iterator[tuple[tuple[Place, ...], npt.NDArray[np.bool_]]]:
    """Yield which slices hold what of one, and where that is, in the shape of the slice.

    Of prefixes the innermost ring, which most of them hold, comes first.
    """
    shape = spec.shape(name, place[0])
    rings: list[tuple[tuple[Place, ...], npt.NDArray[np.bool_]]] = [((), np.ones(shape, np.bool_))]
    own = spec.indices(name, *place)
    for other in places:
        theirs = spec.indices(name, *other)
        kept = [np.isin(mine, held) for mine, held in zip(own, theirs, strict=True)]
        if all(inside.all() for inside in kept):
            rings = [((*holders, other), inside) for holders, inside in rings]
            continue
        held = np.zeros(shape, np.bool_)
        held[np.ix_(*kept)] = True
        parts = [((*holders, other), inside & held) for holders, inside in rings]
        parts += [(holders, inside & ~held) for holders, inside in rings]
        rings = [(holders, inside) for holders, inside in parts if inside.any()]
    yield from rings


def _vector(change: Mapping[str, Array], pieces: Sequence[_Piece]) -> Vector:
    """Return the values of some pieces, one after the other, (n,)."""
    return np.concatenate([change[p.name][p.inside] for p in pieces]).astype(np.float64)


def _orthonormal(rows: Vector) -> Vector:
    """Return orthonormal rows that span the given ones, (k, n) -> (rank, n)."""
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    if not len(rows):
        return rows
    _, strengths, directions = np.linalg.svd(rows, full_matrices=False)
    spanned: Vector = directions[strengths > RANK_TOLERANCE * strengths[0]]
    return spanned


def _split(step: Step, groups: Sequence[_Group]) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    """Return the part of a step that the bases span, and the rest; float32 as the step."""
    part = {name: np.zeros_like(array) for name, array in step.change.items()}
    if not groups:
        return part, step.change
    for group in groups:
        spanned = (group.basis @ _vector(step.change, group.pieces)) @ group.basis
        start = 0
        for piece in group.pieces:
            count = int(piece.inside.sum())
            part[piece.name][piece.inside] = spanned[start : start + count]
            start += count
    rest = {name: array - part[name] for name, array in step.change.items()}
    if _squared_length(rest) <= NO_NEWS**2 * _squared_length(step.change):
        return dict(step.change), {name: np.zeros_like(array) for name, array in rest.items()}
    return part, rest


def _squared_length(change: Mapping[str, Array]) -> float:
    return float(sum(np.square(array, dtype=np.float64).sum() for array in change.values()))
