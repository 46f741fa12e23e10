"""Room for the steps of a round: memory for a few, a file without a name for more.

Contributions ask for every step many times, in any order. Those of many devices, or of a large
model, do not fit into memory; what lies in a file that is mapped into memory the system may take
out of it at any moment.
"""

import math
import mmap
import tempfile
from pathlib import Path

import numpy as np

from journal import platform
from slimmable.state import Array

IN_MEMORY = 256 * 1024 * 1024  # bytes of steps that are held in memory
SLAB = 64 * 1024 * 1024  # bytes by which the file grows at least
_ALIGNED = 64


class StepRoom:
    """Hands out arrays; see `coordinator.aggregation.partial_average.Room`.

    Attributes:
        in_file: bytes that lie in files.
    """

    def __init__(self, folder: Path, limit: int = IN_MEMORY) -> None:
        """Hand out nothing yet.

        Args:
            folder: where there is room for files; they have no name and go when nobody uses them.
            limit: bytes that may be in memory.
        """
        self._folder = folder
        self._left = limit
        self._slab: memoryview = memoryview(b"")
        self.in_file = 0

    def __call__(self, shape: tuple[int, ...]) -> Array:
        """Return zeros of a shape, float32.

        Raises:
            OSError: no room on the disk.
        """
        count = math.prod(shape)
        size = 4 * count
        if size <= self._left or not size:
            self._left -= size
            return np.zeros(shape, np.float32)
        if len(self._slab) < size:
            self._slab = memoryview(self._grown(max(SLAB, size)))
        array = np.frombuffer(self._slab, np.float32, count).reshape(shape)
        self._slab = self._slab[-(-size // _ALIGNED) * _ALIGNED :]
        return array

    def _grown(self, size: int) -> mmap.mmap:
        with tempfile.TemporaryFile(dir=self._folder) as file:
            # A disk that is full when the pages are written would end the process without a word.
            platform.reserve(file.fileno(), size)
            self.in_file += size
            return mmap.mmap(file.fileno(), size)
