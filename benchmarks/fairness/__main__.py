"""``python -m benchmarks.fairness``: run the experiments, or report on those that are finished."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import names
from benchmarks.cell_command import add_processes, add_run_options, carry_out, seconds_left, wanted
from benchmarks.cell_runner import cell_file, read_cells, tuning_file, write_json
from benchmarks.fairness import cells as suites
from benchmarks.fairness import runner
from benchmarks.fairness.data import TASKS

EPILOG = """examples:
  python -m benchmarks.fairness                        the quick suite, two processes at a time
  python -m benchmarks.fairness run --only n5_s0       the cells whose name holds this text
  python -m benchmarks.fairness run --budget-minutes 30
  python -m benchmarks.fairness run --full             all 60,000 images, two partitions
  python -m benchmarks.fairness report                 tables of whatever is finished
  python -m benchmarks.fairness allocate               after a change of the rule of rewards
to run a cell again, remove its file from benchmarks/fairness/results/cells
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit status."""
    return carry_out("fairness", _parser(), _COMMANDS, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fairness",
        description="Compare ways to reward participants; finished cells are never run again.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run what is not finished, then report (the default)")
    tune = commands.add_parser("tune", help="choose learning rates only")
    report = commands.add_parser("report", help="make tables and pictures of what is finished")
    allocate = commands.add_parser(
        "allocate", help="allocate rewards anew in what is finished, without training, then report"
    )
    cell = commands.add_parser("cell", help="run one cell in this process")
    for command in (run, tune, report, allocate, cell):
        command.add_argument("--results", type=Path, default=runner.RESULTS, help="folder")
    for command in (run, tune):
        command.add_argument("--data", type=names, default=tuple(TASKS), help="data sets")
        add_processes(command)
    run.add_argument("--full", action="store_true", help="all images instead of the quick suite")
    add_run_options(run)
    cell.add_argument("cell", type=json.loads, help="its fields, as JSON")
    return parser


def _run(parsed: argparse.Namespace, command: str) -> int:
    suite = suites.full() if parsed.full else suites.quick(parsed.data)
    chosen = wanted(suite, parsed.only)
    if parsed.list:
        print("\n".join(cell.key for cell in chosen))
        return 0
    begun = time.monotonic()
    runner.tune([cell.data for cell in chosen], parsed.results, parsed.processes, _say)
    left = seconds_left(parsed.budget_minutes, begun)
    failed = runner.run_cells(chosen, parsed.results, parsed.processes, left, _say)
    _report(parsed, command)
    return 1 if failed else 0


def _tune(parsed: argparse.Namespace, _command: str) -> int:
    runner.tune(parsed.data, parsed.results, parsed.processes, _say)
    print(tuning_file(parsed.results).read_text())
    return 0


def _report(parsed: argparse.Namespace, command: str) -> int:
    from benchmarks.fairness import report

    print(report.write_all(parsed.results, f"python -m benchmarks.fairness {command}".strip()))
    return 0


def _allocate(parsed: argparse.Namespace, command: str) -> int:
    from benchmarks.fairness.reallocation import reallocated

    for found in read_cells(parsed.results):
        cell = suites.Cell(**found["cell"])
        write_json(cell_file(parsed.results, cell), reallocated(found))
    return _report(parsed, command)


def _cell(parsed: argparse.Namespace, _command: str) -> int:
    import torch

    from benchmarks.fairness.experiment import run_cell

    torch.set_num_threads(1)
    cell = suites.Cell(**parsed.cell)
    found = run_cell(cell, runner.sizes_of(cell, parsed.results))
    write_json(cell_file(parsed.results, cell), found)
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


_COMMANDS = {
    "run": _run,
    "tune": _tune,
    "report": _report,
    "allocate": _allocate,
    "cell": _cell,
}


if __name__ == "__main__":
    sys.exit(main())
