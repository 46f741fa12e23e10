"""Choose each method's step size, and run the cells."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import cell_runner
from benchmarks.cell_runner import Say, cell_file, read_tuning, tuning_file, write_json
from benchmarks.errors import BenchmarkError
from benchmarks.fairness.cells import RATES, Cell, tuned_on, tuning
from benchmarks.fairness.data import TASKS
from benchmarks.fairness.experiment import METHODS, step_sizes

RESULTS = Path(__file__).parent / "results"


def run_cells(
    cells: Sequence[Cell], results: Path, processes: int, budget_s: float | None, say: Say
) -> int:
    """Run what is not finished yet; returns how many cells failed."""
    return cell_runner.run_cells("benchmarks.fairness", cells, results, processes, budget_s, say)


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
