"""What each device changed, read in pieces. numpy only, pure.

Such a change is never whole in memory: whoever folds changes asks for some entries at a time, and
the update is decoded, or read from its file, as far as that.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, overload

import numpy as np

from coordinator.aggregation.changes import Change, clip_factors
from coordinator.aggregation.updates import DeviceUpdate
from slimmable.slicing import Part, index_expression
from slimmable.spec import WidthSpec
from slimmable.state import Array
from slimmable.update_parts import UpdateParts
from slimmable.window import PREFIX, Place, Window

PIECE = 65_536  # entries: what is computed on them stays in the cache of a core


class Parts(Protocol):
    """Reads a part of what an update changed; see `slimmable.update_parts.UpdateParts`."""

    def change(self, name: str, start: int, stop: int, received: Array, out: Array) -> None:
        """Write the change of some entries of a parameter to ``out``."""


@dataclass(frozen=True)
class ChangeReader:
    """Reads what one device changed of the slice that it was given.

    Attributes:
        parts: reads it.
        weight: relative weight of the device, above 0.
        window: which entries of the full model the slice held.
        factor: what every entry is multiplied by.
    """

    device: str
    width: float
    parts: Parts
    weight: float
    window: Window = PREFIX
    factor: float = 1.0

    @property
    def place(self) -> Place:
        """Which part of the full model it is about."""
        return self.width, self.window

    def into(self, name: str, start: int, stop: int, received: Array, out: Array) -> None:
        """Write some entries of one parameter; see `slimmable.update_parts.UpdateParts`."""
        self.parts.change(name, start, stop, received, out)
        if self.factor != 1.0:
            np.multiply(out, np.float32(self.factor), out=out)


@dataclass(frozen=True)
class Piece:
    """Some rows of one parameter of a slice.

    Attributes:
        start: of its entries in the slice, in C order; stop: behind the last one.
        shape: of the piece.
        where: selects it in the full tensor.
    """

    start: int
    stop: int
    shape: tuple[int, ...]
    where: Part

    def of(self, full: Array, out: Array) -> None:
        """Copy its entries out of the full tensor, to ``out`` (stop - start,)."""
        np.copyto(out.reshape(self.shape), full[self.where])


def pieces(spec: WidthSpec, name: str, place: Place) -> Iterator[Piece]:
    """Yield the pieces of one parameter of a slice, in their order."""
    indices = spec.indices(name, *place)
    if not indices:
        yield Piece(0, 1, (), ())
        return
    inner = tuple(len(index) for index in indices[1:])
    row, rows = math.prod(inner), len(indices[0])
    step = max(1, PIECE // max(1, row))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        where = index_expression((indices[0][first:last], *indices[1:]))
        yield Piece(first * row, last * row, (last - first, *inner), where)


def largest_piece(spec: WidthSpec) -> int:
    """Return how many entries a piece has at most."""
    rows = [math.prod(spec.shape(name, 1.0)[1:]) for name in spec.parameters]
    return max([PIECE, *rows])


def readers_of(spec: WidthSpec, updates: Sequence[DeviceUpdate]) -> list[ChangeReader]:
    """Return what updates changed that are in memory."""
    return [
        ChangeReader(
            one.device,
            one.width,
            UpdateParts(one.state, spec, one.width),
            one.weight,
            one.window,
        )
        for one in updates
    ]


class _Held:
    """Reads from a change that is whole in memory."""

    def __init__(self, change: Mapping[str, Array]) -> None:
        self._flat = {name: array.reshape(-1) for name, array in change.items()}

    def change(self, name: str, start: int, stop: int, _received: Array, out: Array) -> None:
        out[:] = self._flat[name][start:stop]


def reader_of(one: Change) -> ChangeReader:
    """Return the reader of a change that is whole in memory."""
    return ChangeReader(one.device, one.width, _Held(one.change), one.weight, one.window)


def whole(base: Mapping[str, Array], spec: WidthSpec, reader: ChangeReader) -> Change:
    """Return all that a device changed.

    Args:
        base: full state dict that the round started from.
        spec: of the model.
        reader: of the change.
    """
    received = np.empty(largest_piece(spec), np.float32)
    change = {}
    for name in spec.parameters:
        change[name] = np.empty(spec.shape(name, reader.width), np.float32)
        flat = change[name].reshape(-1)
        for piece in pieces(spec, name, reader.place):
            there = received[: piece.stop - piece.start]
            piece.of(base[name], there)
            reader.into(name, piece.start, piece.stop, there, flat[piece.start : piece.stop])
    return Change(reader.device, reader.width, change, reader.weight, reader.window)


class WholeChanges(Sequence[Change]):
    """Changes of a round, each read whole when it is asked for, and not kept."""

    def __init__(
        self, base: Mapping[str, Array], spec: WidthSpec, readers: Sequence[ChangeReader]
    ) -> None:
        """Read nothing yet; see `whole`."""
        self._base, self._spec, self._readers = base, spec, readers

    @overload
    def __getitem__(self, at: int) -> Change: ...

    @overload
    def __getitem__(self, at: slice) -> "WholeChanges": ...

    def __getitem__(self, at: int | slice) -> "Change | WholeChanges":
        """Read one change, or say which others will be read."""
        if isinstance(at, slice):
            return WholeChanges(self._base, self._spec, self._readers[at])
        return whole(self._base, self._spec, self._readers[at])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._readers)


def shortened(
    base: Mapping[str, Array], spec: WidthSpec, readers: Sequence[ChangeReader], limit: float
) -> list[ChangeReader]:
    """Shorten what is much longer than usual; see `coordinator.aggregation.changes.clipped`.

    Args:
        base: full state dict that the round started from.
        spec: of the model.
        readers: of the changes of a round.
        limit: see `coordinator.aggregation.changes.clipped`.
    """
    lengths = [_root_mean_square(base, spec, one) for one in readers]
    return [
        replace(one, factor=one.factor * factor)
        for one, factor in zip(readers, clip_factors(lengths, limit), strict=True)
    ]


def _root_mean_square(base: Mapping[str, Array], spec: WidthSpec, one: ChangeReader) -> float:
    squares, count = 0.0, 0
    received, found = np.empty((2, largest_piece(spec)), np.float32)
    for name in spec.parameters:
        for piece in pieces(spec, name, one.place):
            size = piece.stop - piece.start
            piece.of(base[name], received[:size])
            one.into(name, piece.start, piece.stop, received[:size], found[:size])
            squares += float(np.square(found[:size], dtype=np.float64).sum())
            count += size
    return math.sqrt(squares / max(1, count))
