"""Run the cells of an experiment in processes of their own; what is finished is never run again."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[1]
# With glibc's defaults a third of the time goes into pages that are given back and fetched again.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
Say = Callable[[str], None]


class Cell(Protocol):
    """One experiment; its result is one file."""

    @property
    def key(self) -> str:
        """Name of the result file."""

    def as_json(self) -> dict[str, object]:
        """Return the fields."""


def cell_file(results: Path, cell: Cell) -> Path:
    """Return where a cell's result stands."""
    return results / "cells" / f"{cell.key}.json"


def read_cells(results: Path) -> list[dict[str, Any]]:
    """Return what every finished cell found, those of tuning left out."""
    files = sorted((results / "cells").glob("*.json"))
    found = [json.loads(file.read_text()) for file in files]
    return [one for one in found if one["cell"]["tuning"] is None]


def tuning_file(results: Path) -> Path:
    """Return where the chosen learning rates stand."""
    return results / "tuning.json"


def read_tuning(results: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return data set -> method -> what was tried and chosen; empty before the first tuning."""
    file = tuning_file(results)
    return json.loads(file.read_text()) if file.is_file() else {}


def write_json(path: Path, document: object) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.rename(path)


def run_cells(
    module: str,
    cells: Sequence[Cell],
    results: Path,
    processes: int,
    budget_s: float | None,
    say: Say,
) -> int:
    """Run what is not finished yet; returns how many cells failed.

    Args:
        module: ``python -m MODULE cell FIELDS --results FOLDER`` runs one cell.
        cells: in their order.
        results: folder.
        processes: at a time.
        budget_s: after so many seconds no further cell begins.
        say: takes a line of progress.
    """
    waiting = [cell for cell in cells if not cell_file(results, cell).is_file()]
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} of them finished before")
    begun, failed = time.monotonic(), 0
    until = begun + budget_s if budget_s else None
    with ThreadPoolExecutor(processes) as pool:
        running = {pool.submit(_run, module, cell, results, until): cell for cell in waiting}
        for done, future in enumerate(as_completed(running), start=1):
            error, passed = future.result(), time.monotonic() - begun
            failed += bool(error)
            left = passed / done * (len(waiting) - done)
            say(
                f"{done}/{len(waiting)} {running[future].key}: {error or 'finished'};"
                f" {passed / 60:.1f} min so far, about {left / 60:.0f} min to go"
            )
    return failed


def _run(module: str, cell: Cell, results: Path, until: float | None) -> str:
    """Run one cell in a process of its own; returns what went wrong, or ""."""
    if until is not None and time.monotonic() > until:
        return "not begun: the time is used up"
    file = cell_file(results, cell)
    command = [sys.executable, "-m", module, "cell"]
    command += [json.dumps(cell.as_json()), "--results", str(results)]
    log = file.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode or not file.is_file():
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        return f"FAILED ({last}); all of it stands in {log}"
    log.unlink()
    return ""


def commit() -> str:
    """Return the commit of the code, with a + where files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    try:
        said = [
            subprocess.run([git, *command], capture_output=True, text=True, check=True).stdout
            for command in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said[0].strip() + ("+" if said[1].strip() else "")
