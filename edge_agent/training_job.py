"""What the training process does with a command: profile, train, and keep the emulated pace.

Imports torch. Whatever goes wrong in a model, in data or in weights becomes a `Failed` reply.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from broker.messages import WidthEvaluation
from edge_agent import trainer_protocol as protocol
from edge_agent.held_back import evaluate, made_up
from edge_agent.own_network import OwnNetwork
from edge_agent.private_part import PrivatePart
from edge_agent.sample_cache import SampleCache
from edge_agent.trainer_protocol import WEIGHTS
from profiler.benchmark import BenchmarkHooks, BenchmarkSettings, run_benchmark
from profiler.emulation import SLOW_MOTION, owed_wait
from profiler.profile import WidthCost
from profiler.resident_memory import PeakMeter
from slimmable.model import ModelError, SlimmableModel, load_model
from slimmable.samples import Samples, SamplesError
from slimmable.spec import SpecError
from slimmable.state import Array, ModelState, StateError, decode_state, encode_state
from slimmable.training import TrainingRule, train
from slimmable.update_codec import UpdateEncoding, encode_update

logger = logging.getLogger("edge_agent.trainer")

PROGRESS_EVERY = 5
# A step after a long wait finds cold caches and costs a fifth more CPU than one in a hot loop, so
# the benchmark waits between its steps as training does. But no round hangs on how long it takes,
# and a quarter of a second cools a cache as well as a minute.
PROFILE_PATIENCE_S = 0.25
FAILURE_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (SamplesError, "bad-data"),
    (ModelError, "bad-model"),
    (SpecError, "wrong-spec"),
    (StateError, "bad-bytes"),
    (FloatingPointError, "not-finite"),
    (MemoryError, "out-of-memory"),
)


class CancelledCommandError(Exception):
    """The agent wants this command no longer."""


class BehaviourError(ValueError):
    """A training command names a behaviour that does not exist."""


class Pace:
    """Stretches time: after each step, waits until the emulated machine would be there too."""

    def __init__(
        self, factor: float | None, cancelled: threading.Event, patience_s: float = math.inf
    ) -> None:
        """Start the clocks.

        Args:
            factor: emulated seconds per CPU second; None = a real machine, nothing to wait for.
            cancelled: ends a wait at once.
            patience_s: longest single wait; longer only to stay as slow as the fastest emulated
                machine, which keeps many agents out of each other's way.
        """
        self._factor = factor
        self._cancelled = cancelled
        self._patience_s = patience_s
        self._cpu_start = time.process_time()
        self._wall_start = time.perf_counter()

    @property
    def cpu_s(self) -> float:
        """CPU seconds since the start."""
        return time.process_time() - self._cpu_start

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start as the emulated machine counts them."""
        wall = time.perf_counter() - self._wall_start
        return wall if self._factor is None else self.cpu_s * self._factor

    def keep(self) -> None:
        """Wait out what the emulated machine would still need.

        Raises:
            CancelledCommandError: the agent cancelled the command.
        """
        if self._factor is not None:
            wall = time.perf_counter() - self._wall_start
            least = owed_wait(self.cpu_s, wall, min(self._factor, SLOW_MOTION))
            owed = owed_wait(self.cpu_s, wall, self._factor)
            self._cancelled.wait(min(owed, max(least, self._patience_s)))
        if self._cancelled.is_set():
            raise CancelledCommandError


class Trainer:
    """Carries out commands. Keeps the last model and the last samples, which rarely change."""

    def __init__(
        self,
        send: Callable[[protocol.Event | protocol.Reply], None],
        cancelled: threading.Event,
        keep_bytes: int = 0,
    ) -> None:
        """Create a trainer.

        Args:
            send: writes one event to the agent.
            cancelled: set when the running command is no longer wanted.
            keep_bytes: of samples, see `edge_agent.sample_cache`.
        """
        self._send = send
        self._cancelled = cancelled
        self._model: tuple[tuple[str, Any], SlimmableModel] | None = None
        self._samples = SampleCache(keep_bytes)

    def answer(self, command: protocol.Command) -> protocol.Reply:
        """Carry out one command; whatever goes wrong becomes a `Failed`."""
        try:
            if isinstance(command, protocol.ProfileCommand):
                return self._profile(command)
            if isinstance(command, protocol.TrainCommand):
                return self._train(command)
        except CancelledCommandError:
            return protocol.Failed(code="cancelled", detail="cancelled by the agent")
        except Exception as error:  # noqa: BLE001  a model is somebody else's code; the agent reports it
            return _failure(error)
        return protocol.Pong()

    def _profile(self, command: protocol.ProfileCommand) -> protocol.Profiled:
        model = self._load_model(command.model, command.options)
        samples = self._samples.whole(command.data)
        self._send(
            protocol.Loaded(
                spec_hash=model.spec.spec_hash,
                samples=len(samples),
                resident_bytes=PeakMeter().sample(),
            )
        )
        pace = Pace(command.factor, self._cancelled, PROFILE_PATIENCE_S)
        hooks = BenchmarkHooks(
            before_width=lambda width: self._send(protocol.WidthStarted(width=width)),
            after_width=self._send_cost,
            after_step=pace.keep,
        )
        settings = BenchmarkSettings(
            widths=command.widths,
            batch_size=command.batch_size,
            memory_budget=command.memory_budget,
            factor=command.factor,
            time_budget_s=command.time_budget_s,
        )
        found = run_benchmark(model, samples, settings, hooks)
        return protocol.Profiled(failures=found.failures)

    def _send_cost(self, cost: WidthCost) -> None:
        self._send(
            protocol.WidthTimed(
                width=cost.width,
                step_s=cost.step_s,
                peak_bytes=cost.peak_bytes,
                timed_steps=cost.timed_steps,
            )
        )

    def _train(self, command: protocol.TrainCommand) -> protocol.Trained:
        model = self._load_model(command.model, command.options)
        if command.spec_hash not in ("", model.spec.spec_hash):
            raise SpecError(
                f"model {command.model!r} on this device has width spec"
                f" {model.spec.spec_hash[:12]}, the task {command.spec_hash[:12]}:"
                " install the same version on server and device"
            )
        if command.evaluate:
            samples, held = self._samples.split(command.data)
        else:
            samples, held = self._samples.whole(command.data), None
        pace, meter = Pace(command.factor, self._cancelled), PeakMeter()
        steps = command.training.steps

        def after_step(done: int) -> None:
            meter.observe()
            if done % PROGRESS_EVERY == 0 or done == steps:
                self._send(protocol.Step(done=done, steps=steps))
            pace.keep()

        def measured(state: ModelState) -> tuple[WidthEvaluation, ...]:
            found = report(command, model, state, samples, held, pace.keep)
            meter.observe()
            return found

        upload = _upload(command)
        if command.payload == WEIGHTS:
            part, received = PrivatePart(command, model), decode_state(command.state)
            state = part.joined(received)
            evaluations = measured(state)
            trained, loss = behave(command, model, state, samples, after_step)
            sent = encode_update(
                part.sent(trained, received),
                received,
                part.spec.parameters,
                upload,
                np.random.default_rng((command.seed, 1)),
                keep=command.upload_keep,
                left=decode_state(command.left) if command.left else None,
            )
            payload, left = sent.payload, sent.left
            pace.keep()
            part.keep(trained)
        else:
            network = OwnNetwork(command, model)
            steps = network.steps
            evaluations = measured(network.state)
            loss, payload = network.learn(samples, after_step)
            left = {}
            pace.keep()
        return protocol.Trained(
            state=payload,
            loss=loss,
            steps=steps,
            samples=len(samples),
            cpu_s=pace.cpu_s,
            emulated_s=pace.elapsed_s,
            peak_bytes=meter.peak(),
            evaluations=evaluations,
            upload=upload,
            corrected=bool(command.correction),
            left=encode_state(left) if left else b"",
        )

    def _load_model(self, name: str, options: dict[str, Any]) -> SlimmableModel:
        key = (name, options)
        if self._model is None or self._model[0] != key:
            self._model = None  # never two models at once
            self._model = (key, load_model(name, options))
        return self._model[1]


def report(
    command: protocol.TrainCommand,
    model: SlimmableModel,
    state: ModelState,
    training: Samples,
    held: Samples | None,
    after_width: Callable[[], None],
) -> tuple[WidthEvaluation, ...]:
    """Return what the device will report about the state that it was given.

    An honest device measures; a "free-rider" claims that every width is perfect.
    """
    if not command.evaluate:
        return ()
    widths = command.training.widths
    if command.behaviour == "free-rider":
        return made_up(command.width, widths, training)
    if held is None:
        return ()
    return evaluate(model, state, command.width, widths, training, held, after_width)


def behave(
    command: protocol.TrainCommand,
    model: SlimmableModel,
    state: ModelState,
    samples: Samples,
    after_step: Callable[[int], None],
) -> tuple[ModelState, float]:
    """Return the state and loss that the device will report.

    An honest device trains. A "free-rider" exists for demonstrations and tests of the
    contribution accounting: it returns the weights as they came, with noise added if asked for,
    and claims to have trained.

    Raises:
        BehaviourError: the behaviour is neither.
    """
    rng = np.random.default_rng(command.seed)
    if command.behaviour == "honest":
        given = msgspec.structs.asdict(command.training)
        rule = TrainingRule(**given | {"private": (*given["private"], *command.never_send)})
        correction = decode_state(command.correction) if command.correction else None
        return train(model, state, command.width, samples, rule, rng, after_step, correction)
    if command.behaviour == "free-rider":
        return {name: _noisy(array, command.noise, rng) for name, array in state.items()}, 0.0
    raise BehaviourError(
        f"no behaviour {command.behaviour!r}: use 'honest', or 'free-rider' in a demonstration"
    )


def _noisy(array: Array, noise: float, rng: np.random.Generator) -> Array:
    if noise == 0 or array.dtype.kind != "f":
        return array
    return (array + rng.normal(0.0, noise, array.shape)).astype(array.dtype)


def _upload(command: protocol.TrainCommand) -> UpdateEncoding:
    """Return the encoding that is asked for; full precision where it is of a later version."""
    try:
        return UpdateEncoding(command.upload)
    except ValueError:
        logger.warning("encoding %r is unknown here: sent in full precision", command.upload)
        return UpdateEncoding.FLOAT32


def _failure(error: Exception) -> protocol.Failed:
    text = " ".join(str(error).split()) or type(error).__name__
    for kind, code in FAILURE_CODES:
        if isinstance(error, kind):
            return protocol.Failed(code=code, detail=text)
    if isinstance(error, RuntimeError) and "allocate memory" in text:  # torch's own wording
        return protocol.Failed(code="out-of-memory", detail=text)
    logger.error("command failed", exc_info=error)
    return protocol.Failed(code="error", detail=f"{type(error).__name__}: {text}")
