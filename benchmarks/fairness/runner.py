"""Run cells in processes of their own; what is finished is never run again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.fairness.cells import RATES, Cell, tuned_on, tuning
from benchmarks.fairness.data import TASKS
from benchmarks.fairness.experiment import METHODS, step_sizes

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]
# With glibc's defaults a third of the time goes into pages that are given back and fetched again.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
Say = Callable[[str], None]


def cell_file(results: Path, cell: Cell) -> Path:
    """Return where a cell's result stands."""
    return results / "cells" / f"{cell.key}.json"


def read_cells(results: Path) -> list[dict[str, Any]]:
    """Return what every finished cell found, those of tuning left out."""
    files = sorted((results / "cells").glob("*.json"))
    found = [json.loads(file.read_text()) for file in files]
    return [one for one in found if one["cell"]["tuning"] is None]


def write_json(path: Path, document: object) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.rename(path)


def run_cells(
    cells: Sequence[Cell], results: Path, processes: int, budget_s: float | None, say: Say
) -> int:
    """Run what is not finished yet; returns how many cells failed.

    Args:
        cells: in their order.
        results: folder.
        processes: at a time.
        budget_s: after so many seconds no further cell begins.
        say: takes a line of progress.
    """
    waiting = [cell for cell in cells if not cell_file(results, cell).is_file()]
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} of them finished before")
    begun, failed = time.monotonic(), 0
    with ThreadPoolExecutor(processes) as pool:
        running = {
            pool.submit(_run, cell, results, begun + budget_s if budget_s else None): cell
            for cell in waiting
        }
        for done, future in enumerate(as_completed(running), start=1):
            error, passed = future.result(), time.monotonic() - begun
            failed += bool(error)
            left = passed / done * (len(waiting) - done)
            say(
                f"{done}/{len(waiting)} {running[future].key}: {error or 'finished'};"
                f" {passed / 60:.1f} min so far, about {left / 60:.0f} min to go"
            )
    return failed


def _run(cell: Cell, results: Path, until: float | None) -> str:
    """Run one cell in a process of its own; returns what went wrong, or ""."""
    if until is not None and time.monotonic() > until:
        return "not begun: the time is used up"
    file = cell_file(results, cell)
    command = [sys.executable, "-m", "benchmarks.fairness", "cell"]
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


def tuning_file(results: Path) -> Path:
    """Return where the chosen learning rates stand."""
    return results / "tuning.json"


def tune(data: Sequence[str], results: Path, processes: int, say: Say) -> None:
    """Choose each method's step size: three are tried, on a seed used for nothing else.

    What counts is the best accuracy that any participant receives, on the server's validation data,
    averaged over the partitions of the trials: a mean over participants would prefer the learning
    rate at which a method withholds least.

    Raises:
        BenchmarkError: a trial failed.
    """
    chosen = read_tuning(results)
    missing = [name for name in dict.fromkeys(map(tuned_on, data)) if name not in chosen]
    if not missing:
        return
    cells = tuning(missing)
    if run_cells(cells, results, processes, None, say):
        raise BenchmarkError("a trial of learning rates failed; the lines above name its log")
    for name in missing:
        own = [cell for cell in cells if cell.data == name]
        trials = [
            [json.loads(cell_file(results, c).read_text()) for c in own if c.tuning == at]
            for at in range(RATES)
        ]
        chosen[name] = {method: _best(method, trials) for method in METHODS}
    write_json(tuning_file(results), chosen)


def _best(method: str, trials: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the tried step sizes of a method, their mean scores, and the best one.

    Args:
        method: whose.
        trials: of each step size, its cells.
    """
    tried = [cells[0]["sizes"][method] for cells in trials]
    scores = [_score([cell["methods"].get(method) for cell in cells]) for cells in trials]
    known = [-1.0 if score is None else score for score in scores]
    best = max(range(len(tried)), key=known.__getitem__)
    return {"tried": tried, "scores": scores, "chosen": tried[best]}


def _score(entries: Sequence[Mapping[str, Any] | None]) -> float | None:
    """Return the mean of the best rewards; None where the method diverged in some cell."""
    found = [max(reward or 0.0 for reward in entry["reward"]) for entry in entries if entry]
    return fmean(found) if len(found) == len(entries) else None


def read_tuning(results: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return data set -> method -> what was tried and chosen; empty before the first tuning."""
    file = tuning_file(results)
    return json.loads(file.read_text()) if file.is_file() else {}


def sizes_of(cell: Cell, results: Path) -> dict[str, float]:
    """Return each method's step size in a cell.

    Raises:
        BenchmarkError: they were not chosen yet.
    """
    if cell.tuning is not None:
        offered = step_sizes(TASKS[cell.data])
        return {method: sizes[cell.tuning] for method, sizes in offered.items()}
    chosen = read_tuning(results).get(tuned_on(cell.data))
    if chosen is None:
        raise BenchmarkError(
            f"no learning rates were chosen for {cell.data} yet: run `python -m benchmarks.fairness"
            " tune` first"
        )
    return {method: float(chosen[method]["chosen"]) for method in METHODS}
