"""One cell of an experiment, as a process of its own: ``python -m slimfleet.simulation.cell``.

It is told on standard input which cell to play and where to write the result. On standard output it
says how far it is, one line of JSON each; its log goes to standard error.
"""

import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec

from coordinator.settings import SettingsError
from journal.disk import make_folder, write_atomically
from slimfleet.simulation.campaign import simulate
from slimfleet.simulation.cell_result import CellResult, result_of
from slimfleet.simulation.errors import SimulationError
from slimfleet.simulation.experiment import Cell, Experiment, deal, read_data, settings_of
from slimfleet.simulation.partitions import PartitionError
from slimmable.model import ModelError
from slimmable.samples import SamplesError
from slimmable.spec import SpecError

BAD_INPUT = (SimulationError, PartitionError, SettingsError, SamplesError, ModelError, SpecError)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to play.

    Attributes:
        base: folder that the experiment's paths are relative to.
        result: file to write; keep: folder for the journal and the weights.
        workers: training processes; 0 = train in this one.
    """

    experiment: Experiment
    partition: str
    devices: int
    seed: int
    base: str
    result: str
    keep: str
    workers: int = 0


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the process.

    Attributes:
        kind: "round": so many are scored; "done"; "refused": the input is at fault; "failed".
        detail: one line for people.
    """

    kind: Literal["round", "done", "refused", "failed"]
    rounds: int = 0
    budget: int = 0
    detail: str = ""


def play(order: Order) -> CellResult:
    """Play a cell and write its result, whole or not at all."""
    started = time.perf_counter()
    cell = Cell(order.partition, order.devices, order.seed)
    settings = settings_of(order.experiment, cell)
    dealt = deal(order.experiment, cell, *read_data(order.experiment, Path(order.base)))
    keep = Path(order.keep)
    shutil.rmtree(keep, ignore_errors=True)  # of a run that was interrupted
    with tempfile.TemporaryDirectory(prefix="slimfleet-") as scratch:
        outcome = simulate(
            settings,
            dealt.devices,
            None if settings.contributions.evaluator == "devices" else dealt.validation,
            Path(scratch) / "fleet",
            pool=dealt.pool,
            workers=order.workers,
            progress=lambda done, budget: say(Said(kind="round", rounds=done, budget=budget)),
        )
        wall_s = time.perf_counter() - started
        result = result_of(order.experiment, cell, settings, dealt, outcome, wall_s)
        for part in ("journal", "blobs"):
            shutil.copytree(Path(scratch) / "fleet" / "server" / part, make_folder(keep) / part)
    write_atomically(Path(order.result), msgspec.json.encode(result), mode=0o644)
    return result


def say(said: Said) -> None:
    """Write one line for whoever started this process."""
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Play the cell that standard input names, on the experiment's torch device."""
    from slimmable.torch_device import computing_on

    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    order = msgspec.convert(json.load(sys.stdin), Order)
    try:
        with computing_on(order.experiment.torch_device):
            play(order)
    except BAD_INPUT as error:
        say(Said(kind="refused", detail=str(error)))
    except Exception as error:  # whoever started this process reports it
        logging.getLogger(__name__).exception("the simulation failed")
        say(Said(kind="failed", detail=f"{type(error).__name__}: {error}"))
    else:
        say(Said(kind="done"))


if __name__ == "__main__":
    main()
