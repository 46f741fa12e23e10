"""The devices of a simulation: what each one is like, and its stand-in for a training process."""

import asyncio
import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from broker.messages import WidthEvaluation
from edge_agent.agent import OwnModel
from edge_agent.error_feedback import ErrorFeedback
from edge_agent.trainer_process import TrainRequest
from edge_agent.trainer_protocol import DataSource, TrainCommand, Trained
from edge_agent.training_failure import OutOfMemory, expect
from profiler.profile import Benchmark, WidthCost
from slimfleet.simulation.errors import SimulationError
from slimfleet.simulation.riders import RIDERS, Received, Rider, Seen, claimed_loss
from slimfleet.simulation.tiers import MIB, PLENTY, Machine, Tier
from slimfleet.simulation.workers import Workers
from slimmable.samples import Samples
from slimmable.spec import WidthSpec
from slimmable.state import decode_state, encode_state

# Of a device without a tier. Virtual; long enough for all devices of a round to have begun.
TRAINING_S = 0.1
STEP_S = 1e-6


@dataclass(frozen=True)
class SimulatedDevice:
    """What one device is like.

    Attributes:
        name: of the device, as in a topic: a-z, 0-9 and '-'.
        samples: its own data.
        widest: the widest width that it can train.
        rider: a key of `slimfleet.simulation.riders.RIDERS`; "" = honest.
        tier: its machine; None = one that is never in the way.
        own_model: its network where devices train networks of their own; None = the campaign's.
    """

    name: str
    samples: Samples
    widest: float = 1.0
    rider: str = ""
    tier: Tier | None = None
    own_model: OwnModel | None = None

    @property
    def memory_budget(self) -> int:
        """Bytes that training may use."""
        return int(self.tier.memory_mb * MIB) if self.tier and self.tier.memory_mb else PLENTY

    @property
    def link_bytes_per_s(self) -> float:
        """Rate of its transfers; 0 = they take no time."""
        return self.tier.link_bytes_per_s if self.tier else 0.0

    @property
    def kind(self) -> Rider | None:
        """The rider's behaviour, None where the device is honest.

        Raises:
            SimulationError: there is no such rider.
        """
        if not self.rider:
            return None
        if self.rider not in RIDERS:
            raise SimulationError(
                f"device {self.name!r}: no rider {self.rider!r}; use one of {sorted(RIDERS)}"
            )
        return RIDERS[self.rider]


class SimulatedTrainer:
    """`edge_agent.agent.TrainerHandle` whose trainings are real and take virtual time."""

    def __init__(
        self,
        device: SimulatedDevice,
        folder: Path,
        spec: WidthSpec,
        classes: int,
        seed: int,
        workers: Workers,
    ) -> None:
        """Write the device's data where the workers find it.

        Args:
            device: whose.
            folder: of the simulation's data.
            spec: of the model.
            classes: that the model tells apart.
            seed: of the simulation; riders draw from it.
            workers: compute the trainings.
        """
        self._device, self._rider = device, device.kind
        self._spec, self._workers = spec, workers
        self._rng = np.random.default_rng((seed, zlib.crc32(device.name.encode())))
        self._received: list[Received] = []
        self._feedback = ErrorFeedback()
        self._machine = Machine(device.tier, spec) if device.tier else None
        # Of its own, so that what a rider draws does not hang on its machine.
        self._times = np.random.default_rng((seed, zlib.crc32(device.name.encode()), 1))
        samples = device.samples
        if self._rider:
            samples = self._rider.samples(samples, classes, self._rng)
        self._count = len(samples)
        path = folder / f"{device.name}.npz"
        np.savez(path, x=samples.x, y=samples.y, recording=samples.recording)
        self._data = DataSource(path=str(path), reader="npz")

    async def profile(
        self,
        model: str,
        options: dict[str, Any],  # noqa: ARG002 - nothing is timed
        widths: Sequence[float],
        batch_size: int,
        *,
        fresh: bool = False,  # noqa: ARG002 - nothing is remembered
    ) -> Benchmark:
        """Claim what the device's machine can do up to the device's widest width, no more.

        Without a machine it is quick at all of them. No virtual time passes.
        """
        offered = [width for width in widths if width <= self._device.widest]
        failures = [f"width {w:g} is beyond this device" for w in widths if w not in offered]
        if self._machine is None:
            costs = tuple(WidthCost(width, STEP_S, 1) for width in offered)
        else:
            costs = self._machine.claimed(offered, self._times)
            failures += filter(None, map(self._machine.obstacle, offered))
        return Benchmark(
            model, self._spec.spec_hash, batch_size, self._count, costs, tuple(failures)
        )

    async def train(self, request: TrainRequest, timeout_s: float) -> Trained:  # noqa: ARG002 - virtual time
        """Train, or forge the upload where the device is a rider that does.

        Raises:
            TrainingFailed: as a training process reports it.
        """
        rider, seconds = self._rider, TRAINING_S
        if rider and rider.forge:
            await asyncio.sleep(seconds)
            return self._forged(request, rider)
        if self._machine is not None:
            if lack := self._machine.obstacle(request.width):
                raise OutOfMemory(request.width, lack)
            seconds = self._machine.training_s(request.width, request.training, self._times)
        given = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
        # Handed over before virtual time passes, so that the trainings of a round run side by side.
        left = self._feedback.of(request.spec_hash, request.width)
        wait = self._workers.submit(TrainCommand(**given, data=self._data, left=left))
        await asyncio.sleep(seconds)
        trained = expect(Trained, wait(), request.width)
        self._feedback.keep(request.spec_hash, request.width, trained.left)
        claimed, evaluations = trained.samples, trained.evaluations
        if rider:
            claimed, evaluations = rider.claim(claimed), _reported(rider, evaluations)
        return msgspec.structs.replace(
            trained, samples=claimed, evaluations=evaluations, emulated_s=seconds
        )

    def _forged(self, request: TrainRequest, rider: Rider) -> Trained:
        assert rider.forge is not None
        told, training = None, request.training
        if request.correction:
            told = decode_state(request.correction)
        reach = training.steps * training.learning_rate
        self._received.append(Received(request.width, decode_state(request.state), told, reach))
        round_ = len(self._received)
        state = rider.forge(Seen(self._spec, round_, self._received, self._rng))
        return Trained(
            state=encode_state(state),
            loss=claimed_loss(round_),
            steps=training.steps,
            corrected=rider.corrected and told is not None,
            samples=rider.claim(self._count),
            cpu_s=0.0,
            emulated_s=TRAINING_S,
            peak_bytes=1,
        )

    async def close(self) -> None:
        """Nothing runs that is the device's own."""


def _reported(rider: Rider, measured: tuple[WidthEvaluation, ...]) -> tuple[WidthEvaluation, ...]:
    if not measured:
        return ()
    said = rider.report({one.width: one.score for one in measured})
    return tuple(msgspec.structs.replace(one, score=said[one.width]) for one in measured)
