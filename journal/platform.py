"""What differs between Linux, macOS and Windows when bytes must be safe: locks and flushing."""

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NO_SPACE = errno.ENOSPC

_BINARY: int = getattr(os, "O_BINARY", 0)
# Windows locks are mandatory: lock a byte far behind the text, which others must be able to read.
_LOCKED_BYTE = 1 << 30
_LOOK_S = 0.02
_UNSAFE = False
_NO_ROOM = frozenset(
    code for code in (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG) if code is not None
)


def reserve(descriptor: int, size: int) -> None:
    """Make a file that large now, where the system can: later the disk may be full.

    Raises:
        OSError: no room.
    """
    if sys.platform == "linux":
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


class HeldError(OSError):
    """Another process, or another part of this one, holds the lock.

    Attributes:
        holder: who, in words.
    """

    def __init__(self, path: Path, holder: str) -> None:
        """Say which lock is held by whom."""
        super().__init__(errno.EAGAIN, f"locked by {holder}; stop it first", str(path))
        self.holder = holder


class FileLock:
    """An exclusive lock that the operating system drops when its process ends, however it ends.

    The file stays behind on release: deleting it would let two processes lock two files of one
    name.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock at once or fail.

        Raises:
            HeldError: somebody else has it.
            OSError: the file cannot be opened.
        """
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o644)
        if not _try_lock(self._descriptor) and not _try_again(self._descriptor):
            holder = os.read(self._descriptor, 200)
            self.release()
            raise HeldError(path, holder.decode("utf-8", "replace").strip() or "another process")
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Let others have it. Doing so twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        """Return the lock, which is held since it was made."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self.release()


def _try_again(descriptor: int) -> bool:
    """Try once more after a moment: who only looks (`is_held`) is gone by then."""
    time.sleep(_LOOK_S)
    return _try_lock(descriptor)


def is_held(path: Path) -> bool | None:
    """Tell whether a process holds the lock of a file, without changing anything.

    Returns:
        None where that cannot be told: on Windows, or for want of the right to read the file.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Shared with others who look; the kernel drops it with the descriptor, microseconds later.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return False


def open_new(path: Path, mode: int) -> int:
    """Create a file for writing and return its descriptor.

    Raises:
        FileExistsError: the name is taken.
        OSError: it cannot be created.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)


@contextlib.contextmanager
def unflushed() -> Iterator[None]:
    """Inside the block nothing waits for the medium, and a power failure may take everything.

    For simulations only: their files are made again from the same seed.
    """
    global _UNSAFE  # noqa: PLW0603 - a switch of the whole process
    before, _UNSAFE = _UNSAFE, True
    try:
        yield
    finally:
        _UNSAFE = before


def flushes() -> bool:
    """Tell whether `flush` waits for the medium, as it does outside `unflushed`."""
    return not _UNSAFE


def flush(descriptor: int) -> None:
    """Return when the bytes of the file are on the medium, not only in a cache.

    Raises:
        OSError: they could not be written; the file must not be trusted.
    """
    if _UNSAFE:
        return
    if sys.platform == "darwin":
        # fsync on macOS stops at the drive's own cache.
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError:
            os.fsync(descriptor)
    else:
        os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Return when the names in the folder are on the medium.

    Windows has no such call; NTFS writes renames to its own log.

    Raises:
        OSError: the folder could not be flushed; the last rename may be undone by a power failure.
    """
    if sys.platform == "win32" or _UNSAFE:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def no_room(error: OSError) -> bool:
    """Tell whether an error says that the disk, the quota or the file size is exhausted."""
    return error.errno in _NO_ROOM


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            # flock belongs to the open file: a second opening in this process is refused too.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK):
            return False
        raise
    return True
