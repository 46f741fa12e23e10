"""The folder that an export writes into: all of its files or none, and nobody else's touched."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from exporter.errors import ExportError
from journal.disk import make_folder, write_atomically

INDEX_FILE = "index.json"
STAGING = ".export-"


class OutFolderError(ExportError):
    """The folder for the files cannot be used. Name another one."""


def check_free(out: Path, ours: Collection[str], *, force: bool) -> None:
    """Refuse a folder with files that this export would not write.

    Args:
        out: the folder; it need not exist.
        ours: names that an export of this model and these widths may write.
        force: write beside others' files. None is ever deleted.

    Raises:
        OutFolderError: there are such files, or this is no folder.
    """
    if not out.exists() or (force and out.is_dir()):
        return
    if not out.is_dir():
        raise OutFolderError(f"{out} is a file; name a folder to write into")
    others = sorted(
        path.name
        for path in out.iterdir()
        if path.name not in ours and not path.name.startswith(STAGING)
    )
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise OutFolderError(
            f"{out} holds {', '.join(others[:3])}{more}, which this export would not write;"
            " name another folder, or add --force to write beside them"
        )


def publish(out: Path, files: Mapping[str, bytes], ours: Collection[str]) -> None:
    """Write files into a folder, the index last; where one cannot be written, none is.

    They are all put on the disk beside their places first, so that a full disk is met before
    anything is replaced. Of the names that are ours, files that an earlier index listed, that are
    still as they were written then and are not written now, go: they are of other weights than
    their new neighbours.

    Args:
        out: the folder; it is created.
        files: name -> content; `INDEX_FILE` among them.
        ours: see `check_free`.

    Raises:
        OSError: the folder is as it was.
    """
    new = not out.exists()
    make_folder(out)
    stale = (_listed_files(out) & set(ours)) - files.keys()
    staging = out / f"{STAGING}{secrets.token_hex(4)}"
    try:
        staging.mkdir()
        for name, data in files.items():
            write_atomically(staging / name, data, mode=0o644)
        for name in sorted(files, key=lambda name: (name == INDEX_FILE, name)):
            os.replace(staging / name, out / name)  # noqa: PTH105 - as in journal.disk
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # not empty: it worked
                out.rmdir()
    for name in stale:
        (out / name).unlink(missing_ok=True)


def _listed_files(out: Path) -> set[str]:
    """Return what an earlier export wrote here and nobody has changed since, with manifests."""
    try:
        index: Any = json.loads((out / INDEX_FILE).read_bytes())
        written = [
            file
            for row in index["widths"]
            for form in row["forms"]
            for file in (form["written"], form["preoptimised"])
            if file
        ]
        found = set()
        for file in written:
            path = out / Path(file["name"]).name
            if hashlib.sha256(path.read_bytes()).hexdigest() == file["digest"]:
                found |= {path.name, Path(file["manifest"]).name}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return found
