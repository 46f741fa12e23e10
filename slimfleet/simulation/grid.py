"""Play the cells of an experiment in processes of their own, as many at a time as there are cores.

Each result is a file, whole or absent, so an experiment that was interrupted goes on where it was.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import msgspec

from edge_agent.trainer_process import MALLOC_SETTINGS
from edge_agent.training_failure import describe_exit
from journal.disk import make_folder
from slimfleet.config import ConfigError
from slimfleet.simulation.cell import Order, Said
from slimfleet.simulation.cell_result import CellResult
from slimfleet.simulation.errors import SimulationError
from slimfleet.simulation.experiment import (
    CPU,
    Cell,
    Experiment,
    cells,
    deal,
    fingerprint,
    read_data,
    settings_of,
)

CELLS = "cells"
Progress = Callable[[Cell, int, int], None]


class Grid:
    """The cells of one experiment and the folder of their results."""

    def __init__(self, experiment: Experiment, base: Path, out: Path) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            experiment: from its file.
            base: folder of that file.
            out: folder of the results.
        """
        self._experiment, self._base = experiment, base
        self._out = out
        self.cells = cells(experiment)
        self._children: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._ended = False

    def check(self) -> None:
        """Look for the torch device and deal every cell's data, so that no error comes after hours.

        Raises:
            SettingsError, SamplesError, PartitionError: the input is at fault.
            TorchDeviceError: there is no such torch device.
        """
        if self._experiment.torch_device != CPU:  # loading torch takes seconds
            from slimmable.torch_device import find_torch_device

            find_torch_device(self._experiment.torch_device)
        samples, test = read_data(self._experiment, self._base)
        for cell in self.cells:
            settings_of(self._experiment, cell)
            deal(self._experiment, cell, samples, test)

    def finished(self) -> dict[Cell, CellResult]:
        """Return the results that are there and belong to this experiment as it is now."""
        found = {}
        for cell in self.cells:
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                result = msgspec.json.decode(self._result(cell).read_bytes(), type=CellResult)
                if result.fingerprint == fingerprint(self._experiment, cell):
                    found[cell] = result
        return found

    def holds_results(self) -> bool:
        """Tell whether the folder has results of this or another experiment."""
        return any((self._out / CELLS).glob("*.json"))

    def play(self, missing: Sequence[Cell], workers: int, progress: Progress) -> None:
        """Play cells and write their results.

        Args:
            missing: which ones.
            workers: processes that compute at a time; a few cells share them out.
            progress: called with a cell, its scored rounds and the most there can be; from any
                thread.

        Raises:
            ConfigError: the model or the data of a cell cannot be used.
            SimulationError: a cell failed.
        """
        make_folder(self._out / CELLS)
        at_once = max(1, min(workers, len(missing)))
        each = workers // at_once if workers >= 2 * at_once else 0
        with ThreadPoolExecutor(at_once) as threads:
            waiting = [threads.submit(self._play, cell, each, progress) for cell in missing]
            try:
                done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
                for one in done:
                    one.result()
            finally:
                self._end()
                threads.shutdown(wait=True, cancel_futures=True)

    def _result(self, cell: Cell) -> Path:
        return self._out / CELLS / f"{cell.name}.json"

    def _play(self, cell: Cell, workers: int, progress: Progress) -> None:
        order = Order(
            experiment=self._experiment,
            partition=cell.partition,
            devices=cell.devices,
            seed=cell.seed,
            base=str(self._base.resolve()),
            result=str(self._result(cell)),
            keep=str(self._out / CELLS / cell.name),
            workers=workers,
        )
        with self._lock:
            if self._ended:
                return
            child = _start(order)
            self._children.add(child)
        last = Said(kind="failed")
        assert child.stdout is not None
        for line in child.stdout:
            last = msgspec.json.decode(line, type=Said)
            if last.kind == "round":
                progress(cell, last.rounds, last.budget)
        status = child.wait()
        child.stdout.close()
        if last.kind == "done" or self._over():
            return
        if last.kind == "refused":
            raise ConfigError(f"{cell.name}: {last.detail}")
        raise SimulationError(
            f"{cell.name}: {last.detail or f'its process {describe_exit(status)}'};"
            " the other cells are kept: go on with --resume"
        )

    def _over(self) -> bool:
        return self._ended

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            for child in self._children:
                child.kill()


def _start(order: Order) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        **MALLOC_SETTINGS,
        "OMP_NUM_THREADS": "1",
        # A model or a reader may stand wherever this process found it.
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "slimfleet.simulation.cell"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin as stdin:
        json.dump(msgspec.to_builtins(order), stdin)
    return child
