"""Choose each method's learning rate, and run the cells."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cell_runner
from benchmarks.cell_runner import Say, cell_file, read_tuning, tuning_file, write_json
from benchmarks.errors import BenchmarkError
from benchmarks.heterogeneity.cells import RATES, Cell, tuning
from benchmarks.heterogeneity.measures import judged_width, last

MODULE = "benchmarks.heterogeneity"
RESULTS = Path(__file__).parent / "results"
STEP_SIZES = {"fashion-mnist": (0.1, 0.2, 0.4), "watch": (0.05, 0.1, 0.2)}


def tune(cells: Iterable[Cell], results: Path, processes: int, say: Say) -> None:
    """Choose the learning rates that some cells need: three are tried, each on one campaign.

    What counts is what the tables show as well, the accuracy of the full width over the last
    rounds, here on the server's validation data.

    Raises:
        BenchmarkError: a trial failed.
    """
    chosen = read_tuning(results)
    wanted = dict.fromkeys((cell.data, cell.tuned_method) for cell in cells)
    missing = [(data, name) for data, name in wanted if name not in chosen.get(data, {})]
    if not missing:
        return
    trials = [trial for data, name in missing for trial in tuning(data, [name])]
    if cell_runner.run_cells(MODULE, trials, results, processes, None, say):
        raise BenchmarkError("a trial of learning rates failed; the lines above name its log")
    for data, name in missing:
        found = [json.loads(cell_file(results, one).read_text()) for one in tuning(data, [name])]
        scores = [_score(one) for one in found]
        tried = STEP_SIZES[data]
        best = max(range(RATES), key=scores.__getitem__)
        chosen.setdefault(data, {})[name] = {
            "tried": list(tried),
            "scores": scores,
            "chosen": tried[best],
        }
    write_json(tuning_file(results), chosen)


def _score(found: dict[str, Any]) -> float:
    """Return what a trial came to, in percentage points; 0 where no round counted."""
    return last(found, judged_width(found)) or 0.0


def rate_of(cell: Cell, results: Path) -> float:
    """Return the learning rate of a cell.

    Raises:
        BenchmarkError: it was not chosen yet.
    """
    if cell.tuning is not None:
        return STEP_SIZES[cell.data][cell.tuning]
    name = cell.tuned_method
    chosen = read_tuning(results).get(cell.data, {}).get(name)
    if chosen is None:
        raise BenchmarkError(
            f"no learning rate was chosen for {name} on {cell.data} yet: run"
            f" `python -m {MODULE} tune` first"
        )
    return float(chosen["chosen"])


def run_cells(
    cells: Sequence[Cell], results: Path, processes: int, budget_s: float | None, say: Say
) -> int:
    """Run what is not finished yet; returns how many cells failed."""
    return cell_runner.run_cells(MODULE, cells, results, processes, budget_s, say)
