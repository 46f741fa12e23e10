"""What the command lines of experiments share that run cells: options, choice and exit status."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from benchmarks.arguments import positive
from benchmarks.cell_runner import Cell
from benchmarks.errors import BenchmarkError

AnyCell = TypeVar("AnyCell", bound=Cell)
Command = Callable[[argparse.Namespace, str], int]


def carry_out(
    name: str,
    parser: argparse.ArgumentParser,
    commands: Mapping[str, Command],
    arguments: Sequence[str] | None,
) -> int:
    """Do what a command line asks for, "run" where it names nothing, and return the exit status.

    Args:
        name: of the experiments, before what goes wrong.
        parser: its command stands in ``command``.
        commands: each takes what was parsed and the command line as it was given.
        arguments: None = those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in {"-h", "--help"}):
        given.insert(0, "run")
    parsed = parser.parse_args(given)
    try:
        return int(commands[parsed.command](parsed, shlex.join(given)))
    except BenchmarkError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1


def add_run_options(run: argparse.ArgumentParser) -> None:
    """Add what every "run" takes, but for ``--processes``; see `add_processes`."""
    run.add_argument("--only", default="", help="cells whose name holds this text")
    run.add_argument("--budget-minutes", type=positive, help="begin no cell after so long")
    run.add_argument("--list", action="store_true", help="name the cells in their order and end")


def add_processes(command: argparse.ArgumentParser) -> None:
    """Add ``--processes``."""
    command.add_argument("--processes", type=positive, default=os.cpu_count() or 1)


def wanted(cells: Sequence[AnyCell], only: str) -> list[AnyCell]:
    """Return the cells whose name holds a text.

    Raises:
        BenchmarkError: there is none.
    """
    chosen = [cell for cell in cells if only in cell.key]
    if not chosen:
        raise BenchmarkError(f"no cell holds {only!r} in its name; --list names them all")
    return chosen


def seconds_left(budget_minutes: float | None, begun: float) -> float | None:
    """Return the seconds in which cells may begin; None = as long as it takes.

    Args:
        budget_minutes: as it was asked for.
        begun: when the command did, on the monotonic clock.
    """
    if not budget_minutes:
        return None
    return max(1.0, budget_minutes * 60 - (time.monotonic() - begun))
