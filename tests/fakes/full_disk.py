"""A disk that is full after some bytes."""

import contextlib
import errno
import os
from collections.abc import Iterator
from unittest import mock


@contextlib.contextmanager
def full_disk(*, after: int = 0) -> Iterator[None]:
    """Let `os.write` take so many bytes, then fail as a full disk does: first short, then not."""
    room = after
    write = os.write

    def limited(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room and len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, bytes(data[:room]))
        room -= written
        return written

    with mock.patch.object(os, "write", limited):
        yield
