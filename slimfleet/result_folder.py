"""The folder of a training's or an adoption's results: every file whole or absent."""

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from journal.disk import make_folder, write_atomically
from slimfleet.config import ConfigError

log = logging.getLogger(__name__)


def prepare_folder(folder: Path) -> None:
    """Create the folder of the results, before hours of training go by for nothing.

    Raises:
        ConfigError: it cannot be created or written to.
    """
    try:
        make_folder(folder)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror or error}; name a folder") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out {folder}: no permission to write there; name another folder")


def fill_folder(
    folder: Path,
    files: Mapping[str, bytes],
    picture: tuple[str, Callable[[Path], None]],
    report: tuple[str, dict[str, Any]],
) -> None:
    """Write all files.

    The report goes first and comes last, so that it never stands beside weights or curves of
    another run.

    Args:
        folder: of `prepare_folder`.
        files: name -> content.
        picture: its name, and what draws it; left out where matplotlib is not installed.
        report: its name and its content.

    Raises:
        ConfigError: the folder cannot be written to any more.
    """
    name, content = report
    try:
        (folder / name).unlink(missing_ok=True)
        for file, payload in files.items():
            write_atomically(folder / file, payload, mode=0o644)
        _draw(folder / picture[0], picture[1])
        document = json.dumps(content, indent=2).encode() + b"\n"
        write_atomically(folder / name, document, mode=0o644)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror or error}; make room") from error


def _draw(path: Path, draw: Callable[[Path], None]) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        path.unlink(missing_ok=True)  # of an earlier run
        log.warning("no %s: install it with: pip install 'slimfleet[monitor]'", path.name)
        return
    draw(path)
