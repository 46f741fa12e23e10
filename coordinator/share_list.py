"""Which blobs this server has on the broker: written before the first block is published.

After a crash the list names what may still be retained there, so that it can be cleared. Losing the
list loses nothing but that: the truth about tasks and releases is the journal.
"""

import json
import logging
from pathlib import Path

from journal.disk import write_atomically

log = logging.getLogger(__name__)


class ShareList:
    """Blob id -> number of blocks, on disk."""

    def __init__(self, path: Path) -> None:
        """Read the list; an unreadable one counts as empty."""
        self._path = path
        self._entries: dict[str, int] = {}
        try:
            self._entries = {str(b): int(n) for b, n in json.loads(path.read_bytes()).items()}
        except FileNotFoundError:
            pass
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            log.warning("%s is unreadable (%s): old blocks may stay on the broker", path, error)

    def entries(self) -> dict[str, int]:
        """Return a copy of the list."""
        return dict(self._entries)

    def add(self, blob: str, blocks: int) -> None:
        """Note that a blob is about to be published."""
        self._entries[blob] = blocks
        self._write()

    def remove(self, blob: str) -> None:
        """Note that the blocks of a blob were cleared."""
        self._entries.pop(blob, None)
        self._write()

    def _write(self) -> None:
        write_atomically(self._path, json.dumps(self._entries, sort_keys=True).encode())
