"""Read what `journal.disk` has written. Imports little, for programs that must start fast."""

import importlib
import os
import sys
from typing import Any

from journal.errors import DamagedFileError

PREVIOUS = ".previous"
SEAL_LENGTH = 64

PathLike = str | os.PathLike[str]

_BLOCK = 256 * 1024
# Up to this size the built-in SHA-256 is done before `hashlib` has loaded OpenSSL, which also takes
# 4 MB of memory. The standard library's `random` avoids it in the same way.
_SMALL = 1024 * 1024


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hex."""
    found = _sha256(len(data))
    found.update(data)
    return str(found.hexdigest())


def check_file(path: PathLike, digest: str) -> None:
    """Refuse a file whose content has another SHA-256, without holding the content in memory.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the content has another digest.
    """
    size = 0
    with open(path, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        found = _sha256(length)
        block = bytearray(min(length + 1, _BLOCK))
        view = memoryview(block)
        while count := file.readinto(block):
            found.update(view[:count])
            size += count
    _compare(path, size, found.hexdigest(), digest)


def read_checked(path: PathLike, digest: str) -> bytes:
    """Return the content of a file whose SHA-256 is known.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the content has another digest.
    """
    data = read_file(path)
    _compare(path, len(data), digest_of(data), digest)
    return data


def read_state(path: PathLike) -> bytes:
    """Return what `journal.disk.write_state` wrote last, or what was there before if it is damaged.

    Raises:
        FileNotFoundError: nothing was ever written.
        DamagedFileError: neither version can be trusted.
    """
    try:
        return unseal(path)
    except (FileNotFoundError, DamagedFileError) as error:
        previous = os.fspath(path) + PREVIOUS
        if not os.path.exists(previous):
            raise
        data = unseal(previous)
        import logging

        logging.getLogger(__name__).warning("%s; went back to the version before it", error)
        return data


def unseal(path: PathLike) -> bytes:
    """Return the content of a file of state without its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: content and checksum differ.
    """
    content = read_file(path)
    seal, data = content[:SEAL_LENGTH], content[SEAL_LENGTH + 1 :]
    whole = content[SEAL_LENGTH : SEAL_LENGTH + 1] == b"\n"
    if not whole or digest_of(data).encode() != seal:
        raise DamagedFileError(f"{path}: content and checksum differ; delete it to start anew")
    return data


def read_file(path: PathLike) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return file.read()


def _compare(path: PathLike, size: int, found: str, digest: str) -> None:
    if found != digest:
        raise DamagedFileError(
            f"{path}: {size} bytes with digest {found[:12]} instead of {digest[:12]};"
            " delete the file and fetch it again"
        )


def _sha256(size: int) -> Any:
    """Return a new SHA-256, of the implementation that is quicker for so many bytes."""
    if size <= _SMALL and "hashlib" not in sys.modules:
        for module in ("_sha2", "_sha256"):  # the name since and before Python 3.12
            try:
                return importlib.import_module(module).sha256()
            except ImportError:
                continue
    import hashlib

    return hashlib.sha256()
