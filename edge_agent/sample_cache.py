"""The samples that a training process holds in memory between two commands."""

from pathlib import Path

import msgspec

from edge_agent.held_back import split
from edge_agent.trainer_protocol import DataSource
from slimmable.readers import read_samples
from slimmable.samples import Samples

Parts = tuple[Samples, Samples | None]


class SampleCache:
    """Keeps samples that were read.

    A device has one source of data. A worker of a simulation trains for many devices in turn and
    would read the same files in every round.
    """

    def __init__(self, keep_bytes: int = 0) -> None:
        """Create an empty one.

        Args:
            keep_bytes: what may stay in memory while further samples are read, the ones used last;
                0 = nothing, so that a device never holds two sets of them.
        """
        self._keep_bytes = keep_bytes
        self._kept: dict[tuple[bytes, bool], Parts] = {}  # the one used last comes last

    def whole(self, source: DataSource) -> Samples:
        """Return all samples of a source.

        Raises:
            SamplesError: they cannot be read.
        """
        key = (msgspec.msgpack.encode(source), False)
        found = self._kept.pop(key, None)
        if found is None:
            self._make_room()
            found = read_samples(Path(source.path), source.reader, source.options), None
        self._kept[key] = found
        return found[0]

    def split(self, source: DataSource) -> Parts:
        """Return what trains and what is held back; see `edge_agent.held_back.split`.

        Raises:
            SamplesError: they cannot be read.
        """
        key = (msgspec.msgpack.encode(source), True)
        found = self._kept.pop(key, None)
        if found is None:
            found = split(self.whole(source))
            del self._kept[key[0], False]  # the parts are copies: never all of it twice
        self._kept[key] = found
        return found

    def _make_room(self) -> None:
        """Let go of what was not used for longest."""
        while self._kept and (not self._keep_bytes or self._size() > self._keep_bytes):
            del self._kept[next(iter(self._kept))]

    def _size(self) -> int:
        held = [samples for parts in self._kept.values() for samples in parts if samples]
        return sum(one.x.nbytes + one.y.nbytes + one.recording.nbytes for one in held)
