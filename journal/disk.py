"""Files that are either the old or the new version, whenever the power fails.

The rule: temporary file in the same folder, write, flush, rename, flush the folder. A kind of file
passes three crash points on its way (`register_file`), so that tests can stop a process at each.
"""

import contextlib
import os
import secrets
from pathlib import Path

from journal import platform
from journal.crashpoints import crashpoint, register
from journal.errors import DamagedFileError, DiskFullError
from journal.reading import PREVIOUS, digest_of, unseal

TEMPORARY = ".tmp"


def register_file(kind: str, what: str) -> None:
    """Register the crash points of one kind of file, at import of the module that writes it.

    Args:
        kind: prefix of the points' names, as given to `write_atomically`.
        what: the file in words.
    """
    register(f"{kind}-temp-created", f"an empty temporary file stands beside {what}")
    register(f"{kind}-temp-written", f"the temporary file is whole, {what} has its old content")
    register(f"{kind}-renamed", f"{what} has its new content, the folder is not flushed")


register_file("file", "a file of state")


def write_atomically(path: Path, data: bytes, *, kind: str = "file", mode: int = 0o600) -> None:
    """Replace the content of a file, durably, or leave the file as it was.

    Args:
        path: the file; its folder must exist.
        data: the whole new content.
        kind: prefix of the crash points, see `register_file`.
        mode: permissions of the file (before the umask).

    Raises:
        DiskFullError: no room; the old content is untouched and the temporary file is gone.
        OSError: any other failure, with the same promise.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY}")
    try:
        _write_new(temporary, data, kind, mode)
        crashpoint(f"{kind}-temp-written")
        os.replace(temporary, path)  # noqa: PTH105 - the counterpart of os.open and os.write
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and platform.no_room(error):
            raise DiskFullError(
                error.errno,
                f"no room to write {len(data)} bytes, the old file is kept; make room",
                str(path),
            ) from error
        raise
    crashpoint(f"{kind}-renamed")
    platform.flush_folder(path.parent)


def write_state(path: Path, data: bytes, *, kind: str = "file") -> None:
    """Write a file of state with its checksum inside, and keep the version before it.

    Raises:
        DiskFullError: no room; the old versions are untouched.
        OSError: any other failure, with the same promise.
    """
    # A damaged file must never take the place of the last good one.
    with contextlib.suppress(FileNotFoundError, DamagedFileError):
        unseal(path)
        write_atomically(path.with_name(path.name + PREVIOUS), path.read_bytes(), kind=kind)
    seal = digest_of(data).encode()
    write_atomically(path, seal + b"\n" + data, kind=kind)


def make_folder(folder: Path) -> Path:
    """Create a folder and those above it, durably, and return it.

    Raises:
        OSError: it cannot be created.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        platform.flush_folder(one.parent)
    return folder


def remove_leftovers(folder: Path) -> list[str]:
    """Delete the temporary files that a killed process left, and return their names.

    Only the process that owns the folder may do so: another's unfinished file looks the same.
    """
    names = sorted(path.name for path in folder.glob(f".*{TEMPORARY}"))
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return names


def _write_new(path: Path, data: bytes, kind: str, mode: int) -> None:
    descriptor = platform.open_new(path, mode)
    try:
        crashpoint(f"{kind}-temp-created")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        platform.flush(descriptor)
    finally:
        os.close(descriptor)
