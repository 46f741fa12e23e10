"""Who computes the trainings of a simulation: this process, or several training processes.

Each worker is the training process of a real device (`edge_agent.trainer`) with the same memory
settings, on the torch device of this process. A training depends on its command alone, so which
process computes it changes nothing.
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

from edge_agent import trainer_protocol as protocol
from edge_agent.trainer_process import MALLOC_SETTINGS
from edge_agent.training_failure import describe_exit, training_obstacle
from slimfleet.simulation.errors import SimulationError

KEEP_BYTES = 256 * 1024**2  # of samples, in each worker
Wait = Callable[[], protocol.Reply]


class Workers(Protocol):
    """Something that carries out training commands."""

    def submit(self, command: protocol.TrainCommand) -> Wait:
        """Take a command; the function that is returned waits for the reply."""


@contextlib.contextmanager
def open_workers(number: int) -> Iterator[Workers]:
    """Return workers that end with the block.

    Args:
        number: of processes; 0 = trainings are computed in this process when they are waited for.

    Raises:
        SimulationError: torch is not installed.
    """
    if obstacle := training_obstacle():
        raise SimulationError(obstacle)
    if number < 1:
        yield _InThisProcess()
        return
    pool = _Pool(number)
    try:
        yield pool
    finally:
        pool.close()


class _InThisProcess:
    def __init__(self) -> None:
        from edge_agent.training_job import Trainer

        self._trainer = Trainer(lambda _: None, threading.Event(), KEEP_BYTES)

    def submit(self, command: protocol.TrainCommand) -> Wait:
        return lambda: self._trainer.answer(command)


class _Pool:
    """Training processes; whichever is free takes the next command."""

    def __init__(self, number: int) -> None:
        self._threads = ThreadPoolExecutor(number, thread_name_prefix="worker")
        self._free: queue.SimpleQueue[_Child | None] = queue.SimpleQueue()
        self._children: set[_Child] = set()
        for _ in range(number):
            self._free.put(self._start())

    def _start(self) -> "_Child":
        child = _Child()
        self._children.add(child)
        return child

    def submit(self, command: protocol.TrainCommand) -> Wait:
        return self._threads.submit(self._carry_out, command).result

    def _carry_out(self, command: protocol.TrainCommand) -> protocol.Reply:
        child = self._free.get()
        if child is None:
            raise SimulationError("the simulation has ended")
        try:
            reply = child.exchange(command)
            if reply is None:  # once more: the kernel may have taken it for its memory
                self._children.discard(child)
                child.end()
                child = self._start()
                reply = child.exchange(command)
        finally:
            self._free.put(child)
        if reply is None:
            raise SimulationError(
                f"a worker process {describe_exit(child.end())}, and so did the one after it:"
                " take fewer workers, so that each has more memory"
            )
        return reply

    def close(self) -> None:
        """Kill the workers: whatever they compute is not wanted any more."""
        for child in self._children:
            child.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for child in self._children:
            child.end()


class _Child:
    """One training process and its pipes."""

    def __init__(self) -> None:
        from slimmable.torch_device import torch_device

        environment = {
            **os.environ,
            **MALLOC_SETTINGS,
            "OMP_NUM_THREADS": "1",
            # A model may stand wherever this process found it.
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slimfleet.simulation.worker", str(torch_device())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def exchange(self, command: protocol.TrainCommand) -> protocol.Reply | None:
        """Return the reply to a command, or None where the process ended."""
        sink, source = self.process.stdin, self.process.stdout
        assert sink is not None
        assert source is not None
        try:
            sink.write(protocol.frame(command))
            sink.flush()
            while (answer := _read(source)) is not None:
                if isinstance(answer, protocol.Reply):
                    return answer
        except BrokenPipeError:
            pass
        return None

    def end(self) -> int:
        """End the process and return its status."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return self.process.wait()


def _read(source: IO[bytes]) -> protocol.Event | protocol.Reply | None:
    header = source.read(protocol.LENGTH.size)
    if len(header) < protocol.LENGTH.size:
        return None
    length = protocol.frame_length(header)
    body = source.read(length)
    return protocol.read_answer(body) if len(body) == length else None
