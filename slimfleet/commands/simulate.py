"""``slimfleet simulate``."""

import argparse
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from slimfleet.exit_codes import ExitCode
from slimmable.model_source import positive_number

if TYPE_CHECKING:
    from slimfleet.simulation.tables import Results

log = logging.getLogger(__name__)

EXAMPLE = """example:
  slimfleet simulate experiment.toml --out results
  slimfleet simulate experiment.toml --out results --resume --workers 8

Plays whole campaigns on this machine: the real coordinator and real agents, many devices, real
training, and a clock that jumps over every wait. The file names data, how it is dealt to devices,
riders, seeds and the campaign's settings; every combination is one campaign. Writes into --out:

  devices.csv, rounds.csv, widths.csv   one line for each, in each campaign
  tasks.csv                             one line for each device in each round: time and bytes
  report.html, report.png               score over width, reward over contribution, tables
  cells/                                result, journal and weights of each campaign
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("experiment", type=Path, metavar="FILE", help="experiment.toml")
    parser.add_argument(
        "--out", type=Path, default=Path("simulation"), metavar="DIR", help="where results go"
    )
    parser.add_argument(
        "--workers",
        type=positive_number,
        metavar="N",
        help="processes that compute at a time (default: one for each core)",
    )
    parser.add_argument(
        "--torch-device",
        metavar="NAME",
        help="torch device that trains and measures: cpu, cuda, cuda:1 or auto (default: FILE's)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the finished campaigns in --out, play the rest"
    )


def run(arguments: argparse.Namespace) -> int:
    """Play the experiment, write its tables and print one line per campaign."""
    from slimfleet.config import ConfigError
    from slimfleet.result_folder import prepare_folder
    from slimfleet.simulation.experiment import read_experiment
    from slimfleet.simulation.grid import Grid
    from slimfleet.simulation.progress import GridProgress

    experiment, out = read_experiment(arguments.experiment), arguments.out
    if arguments.torch_device is not None:
        experiment = msgspec.structs.replace(experiment, torch_device=arguments.torch_device)
    grid = Grid(experiment, arguments.experiment.parent, out)
    if grid.holds_results() and not arguments.resume:
        raise ConfigError(
            f"--out {out} holds results already: add --resume to play what is missing, or name"
            " another folder"
        )
    grid.check()
    prepare_folder(out)
    kept = grid.finished()
    missing = [cell for cell in grid.cells if cell not in kept]
    try:
        with GridProgress(len(grid.cells), len(kept)) as progress:
            grid.play(missing, arguments.workers or os.cpu_count() or 1, progress.told)
    except KeyboardInterrupt:
        sys.stderr.write("slimfleet: interrupted; go on with --resume\n")
        raise
    results = grid.finished()
    _write(results, arguments.experiment.stem, out)
    sys.stdout.write("\n".join([*_lines(results), "", f"written to {out}"]) + "\n")
    return ExitCode.DONE


def _write(results: "Results", title: str, out: Path) -> None:
    from journal.disk import write_atomically
    from slimfleet.simulation.tables import (
        device_table,
        round_table,
        task_table,
        width_table,
    )

    for name, table in (
        ("devices.csv", device_table),
        ("rounds.csv", round_table),
        ("tasks.csv", task_table),
        ("widths.csv", width_table),
    ):
        write_atomically(out / name, table(results), mode=0o644)
    if any(importlib.util.find_spec(name) is None for name in ("matplotlib", "jinja2")):
        log.warning("no report.html: install it with: pip install 'slimfleet[monitor]'")
        return
    from slimfleet.simulation.page import write_page

    write_page(results, title, out / "report.html")


def _lines(results: "Results") -> list[str]:
    longest = max(len(cell.partition) for cell in results)
    head = f"{'partition':<{longest}}  devices  seed  rounds  untrained  full width    seconds"
    return [
        head,
        *(
            f"{cell.partition:<{longest}}  {cell.devices:>7}  {cell.seed:>4}"
            f"  {len(result.rounds):>6}  {result.untrained:>9.3f}"
            f"  {result.widths[-1].test_score:>10.3f}  {result.wall_s:>9.1f}"
            for cell, result in results.items()
        ),
    ]
