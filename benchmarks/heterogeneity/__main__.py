"""``python -m benchmarks.heterogeneity``: run the comparison, or report on what is finished."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import names
from benchmarks.cell_command import add_processes, add_run_options, carry_out, seconds_left, wanted
from benchmarks.cell_runner import cell_file, write_json
from benchmarks.heterogeneity import cells as suites
from benchmarks.heterogeneity import runner

EPILOG = """examples:
  python -m benchmarks.heterogeneity                   eight methods, four cases, two data sets
  python -m benchmarks.heterogeneity run --data watch
  python -m benchmarks.heterogeneity run --others      the other methods, one case each
  python -m benchmarks.heterogeneity run --only all_fj the cells whose name holds this text
  python -m benchmarks.heterogeneity report            tables of whatever is finished
to run a cell again, remove its file from benchmarks/heterogeneity/results/cells
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit status."""
    return carry_out("heterogeneity", _parser(), _COMMANDS, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.heterogeneity",
        description="Compare methods of training on unlike devices; finished cells are kept.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run what is not finished, then report (the default)")
    report = commands.add_parser("report", help="make tables and pictures of what is finished")
    cell = commands.add_parser("cell", help="run one cell in this process")
    for command in (run, report, cell):
        command.add_argument("--results", type=Path, default=runner.RESULTS, help="folder")
    run.add_argument("--data", type=names, default=suites.DATA, help="data sets")
    add_processes(run)
    run.add_argument("--others", action="store_true", help="the methods outside the eight")
    add_run_options(run)
    cell.add_argument("cell", type=json.loads, help="its fields, as JSON")
    return parser


def _run(parsed: argparse.Namespace, command: str) -> int:
    suite = suites.others() if parsed.others else suites.named(parsed.data)
    chosen = wanted(suite, parsed.only)
    if parsed.list:
        print("\n".join(cell.key for cell in chosen))
        return 0
    begun = time.monotonic()
    runner.tune(chosen, parsed.results, parsed.processes, _say)
    left = seconds_left(parsed.budget_minutes, begun)
    failed = runner.run_cells(chosen, parsed.results, parsed.processes, left, _say)
    _report(parsed, command)
    return 1 if failed else 0


def _report(parsed: argparse.Namespace, command: str) -> int:
    from benchmarks.heterogeneity import report

    print(report.write_all(parsed.results, f"python -m benchmarks.heterogeneity {command}"))
    return 0


def _cell(parsed: argparse.Namespace, _command: str) -> int:
    import torch

    from benchmarks.heterogeneity.experiment import run_cell

    torch.set_num_threads(1)
    cell = suites.Cell(**parsed.cell)
    found = run_cell(cell, runner.rate_of(cell, parsed.results), parsed.results)
    write_json(cell_file(parsed.results, cell), found)
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


_COMMANDS = {"run": _run, "report": _report, "cell": _cell}


if __name__ == "__main__":
    sys.exit(main())
