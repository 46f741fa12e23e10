"""The agent's side of the training process: start, watch, talk, end, start again. No torch.

`TrainerProcess` spawns ``python -m edge_agent.trainer`` once and uses it for every command. It
watches the process's resident memory and ends it above the budget; a limit on address space would
already kill torch's import. Whatever ends the process, the next command starts a new one.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.messages import TrainingSettings
from edge_agent import trainer_protocol as protocol
from edge_agent.error_feedback import ErrorFeedback
from edge_agent.trainer_child import ChildEndedError, TrainerChild
from edge_agent.training_failure import (
    OutOfMemory,
    ProcessDied,
    TrainingFailed,
    expect,
    training_obstacle,
)
from edge_agent.width_timing import Listener, time_widths
from profiler.prediction import out_of_memory_line
from profiler.profile import Benchmark

# Page faults of glibc's default allocator cost about 30 % of training's CPU time: keep large
# blocks on the heap, never give it back, grow it in big pieces.
MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True)
class TrainerSettings:
    """How the training process runs.

    Attributes:
        data: path of the device's samples.
        reader: name of their reader, see `slimmable.readers`.
        reader_options: keyword arguments of the reader.
        memory_budget: resident bytes above which the process is ended; 0 = no limit.
        factor: emulated seconds per CPU second; None on a real machine.
        profile_s: seconds that timing all widths may take; 0 = no limit.
        start_timeout_s: for importing torch, which takes a minute on a slow SD card.
        python: interpreter.
        environment: further environment variables of the process.
    """

    data: Path
    reader: str = "npz"
    reader_options: Mapping[str, Any] = field(default_factory=dict)
    memory_budget: int = 0
    factor: float | None = None
    profile_s: float = 0.0
    start_timeout_s: float = 180.0
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainRequest:
    """What to train; fields as in `edge_agent.trainer_protocol.TrainCommand`."""

    model: str
    options: Mapping[str, Any]
    spec_hash: str
    width: float
    state: bytes
    training: TrainingSettings
    seed: int
    behaviour: str = "honest"
    noise: float = 0.0
    evaluate: bool = False
    upload: str = "float32"
    upload_keep: float = 0.0
    correction: bytes = b""
    start_seed: int = 0
    never_send: tuple[str, ...] = ()
    kept: str = ""
    payload: str = "state-dict"
    knowledge_weight: float = 0.0
    public: str = ""
    digest_steps: int = 0


class TrainerProcess:
    """One training process at a time, and one command at a time in it."""

    def __init__(self, settings: TrainerSettings) -> None:
        """Create the handle; the process starts with the first command, or with `start`."""
        self._settings = settings
        self._child: TrainerChild | None = None
        self._turn = asyncio.Lock()
        self._feedback = ErrorFeedback()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Process id, None where no process runs."""
        return self._child.process.pid if self._child and self._child.alive else None

    async def start(self) -> None:
        """Start the process ahead of the first command.

        Raises:
            TrainingFailed: it ended while starting, for example because torch is not installed.
            OutOfMemory: importing torch alone passed the memory budget.
        """
        await self.ping(self._settings.start_timeout_s)

    async def ping(self, timeout_s: float = 10.0) -> None:
        """Return when the process answered.

        Raises:
            TrainingFailed: it did not.
        """
        await self._exchange(protocol.Ping(), timeout_s, Listener())

    async def profile(
        self,
        model: str,
        options: Mapping[str, Any],
        widths: Sequence[float],
        batch_size: int,
        timeout_s: float = 600.0,
        *,
        fresh: bool = False,  # noqa: ARG002 - nothing is remembered here
    ) -> Benchmark:
        """Time training steps of each width; one that does not fit becomes a line in ``failures``.

        A width that ends the process costs that width, see `edge_agent.width_timing`.

        Args:
            model: model id.
            options: keyword arguments of its function.
            widths: offered widths.
            batch_size: samples a step.
            timeout_s: after this the process is ended; what was timed by then is returned.
            fresh: of the interface; see `edge_agent.remembering_trainer.RememberingTrainer`.

        Raises:
            TrainingFailed: model or data cannot be loaded, or the process cannot start.
        """
        command = protocol.ProfileCommand(
            model=model,
            options=dict(options),
            data=self._data(),
            widths=tuple(widths),
            batch_size=batch_size,
            memory_budget=self._settings.memory_budget,
            factor=self._settings.factor,
            time_budget_s=self._settings.profile_s,
        )
        return await time_widths(self._exchange, command, timeout_s)

    async def train(
        self,
        request: TrainRequest,
        timeout_s: float,
        on_step: Callable[[int, int], None] = lambda _done, _steps: None,
    ) -> protocol.Trained:
        """Train one width on the device's data.

        Cancel the task that awaits this to stop the training; the process lives on.

        Args:
            request: what to train.
            timeout_s: after this the process is ended.
            on_step: called with (done, steps) every few steps.

        Raises:
            OutOfMemory: the width needs more than the memory budget.
            TrainingFailed: anything else; ``reason`` says what to report.
        """
        command = protocol.TrainCommand(
            model=request.model,
            options=dict(request.options),
            spec_hash=request.spec_hash,
            data=self._data(),
            width=request.width,
            state=request.state,
            training=request.training,
            seed=request.seed,
            behaviour=request.behaviour,
            noise=request.noise,
            factor=self._settings.factor,
            evaluate=request.evaluate,
            upload=request.upload,
            upload_keep=request.upload_keep,
            left=self._feedback.of(request.spec_hash, request.width),
            correction=request.correction,
            start_seed=request.start_seed,
            never_send=request.never_send,
            kept=request.kept,
            payload=request.payload,
            knowledge_weight=request.knowledge_weight,
            public=request.public,
            digest_steps=request.digest_steps,
        )
        listener = _TrainingListener(request.width, on_step)
        trained = expect(
            protocol.Trained,
            await self._exchange(command, timeout_s, listener),
            request.width,
        )
        budget = self._settings.memory_budget
        # A peak between two looks of the watch: refused too, or the same task would pass by luck.
        if 0 < budget < trained.peak_bytes:
            raise OutOfMemory(
                request.width, out_of_memory_line(request.width, trained.peak_bytes, budget)
            )
        self._feedback.keep(request.spec_hash, request.width, trained.left)
        return trained

    async def close(self) -> None:
        """End the process; a command that runs fails. Safe to call twice."""
        child, self._child = self._child, None
        if child is not None:
            await child.end()

    def _data(self) -> protocol.DataSource:
        return protocol.DataSource(
            path=str(self._settings.data),
            reader=self._settings.reader,
            options=dict(self._settings.reader_options),
        )

    async def _exchange(
        self, command: protocol.Command, timeout_s: float, listener: Listener
    ) -> protocol.Reply:
        """Send a command and return its reply, feeding the events before it to ``listener``."""
        async with self._turn:
            child = self._child
            if child is None or not child.alive:
                child = await self._start_child()
            async with child.watched(self._settings.memory_budget):
                return await self._converse(child, command, timeout_s, listener)

    async def _converse(
        self,
        child: TrainerChild,
        command: protocol.Command,
        timeout_s: float,
        listener: Listener,
    ) -> protocol.Reply:
        try:
            async with asyncio.timeout(timeout_s):
                await child.send(command)
                return await child.reply(listener.hear)
        except ChildEndedError:
            raise self._verdict(child, listener.width) from None
        except TimeoutError:
            await child.kill()
            raise TrainingFailed(
                f"no answer from the training process within {timeout_s:g} s; it was ended"
            ) from None
        except protocol.FrameError as error:
            await child.kill()
            raise TrainingFailed(f"the training process sent nonsense: {error}") from error
        except asyncio.CancelledError:
            await child.cancel_command()
            raise

    async def _start_child(self) -> TrainerChild:
        obstacle = training_obstacle()
        if obstacle:
            raise TrainingFailed(obstacle)
        environment = {
            **os.environ,
            **MALLOC_SETTINGS,
            "OMP_NUM_THREADS": "1",
            **self._settings.environment,
        }
        child = self._child = await TrainerChild.spawn(self._settings.python, environment)
        self.starts += 1
        try:
            async with (
                child.watched(self._settings.memory_budget),
                asyncio.timeout(self._settings.start_timeout_s),
            ):
                await child.ready()
        except ChildEndedError:
            raise self._verdict(child, 0.0) from None
        except TimeoutError:
            await child.kill()
            raise TrainingFailed(
                f"the training process was not ready within {self._settings.start_timeout_s:g} s"
            ) from None
        except BaseException:
            await child.kill()
            raise
        return child

    def _verdict(self, child: TrainerChild, width: float) -> TrainingFailed:
        """Say why a process ended."""
        budget = self._settings.memory_budget
        if child.over_budget_bytes:
            line = out_of_memory_line(width, child.over_budget_bytes, budget)
            if width == 0:
                line = line.replace("at width 0", "before training")
            return OutOfMemory(width, line)
        return ProcessDied(child.process.returncode)


class _TrainingListener(Listener):
    def __init__(self, width: float, on_step: Callable[[int, int], None]) -> None:
        self.width = width
        self._on_step = on_step

    def hear(self, event: protocol.Event) -> None:
        if isinstance(event, protocol.Step):
            self._on_step(event.done, event.steps)
