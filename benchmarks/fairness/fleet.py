"""What every method is given alike: participants, local training, measuring, bytes on the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.fairness.data import Parts, Task
from coordinator.local_training import epoch_steps
from slimmable.cost import payload_bytes
from slimmable.evaluation import outputs
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.slicing import slice_state
from slimmable.state import ModelState
from slimmable.training import TrainingRule, train

MOMENTUM = 0.9
EPOCHS = 1  # over a participant's own data, in each round
ROUND_DECAY = 0.75  # of the learning rate from round to round
GRADIENT_NORM = 1.0  # longer gradients are shortened: where classes are uneven some explode


@dataclass(frozen=True)
class Fleet:
    """One cell's participants.

    Attributes:
        task: what is learnt; model: made from it.
        parts: who holds what.
        initial: weights that every method starts from.
        rounds: how many.
        rate: learning rate of the first round.
        seed: of batches and draws.
        rider: "" where all are honest, else what the last participant, who has no data, sends:
            "zero" (the weights as they came) or "replayed-delta" (the last change of what it was
            given, once more).
        alone: accuracy of each participant's own model on the server's validation data; a rider's
            is that of the initial weights.
    """

    task: Task
    model: SlimmableModel
    parts: Parts
    initial: ModelState
    rounds: int
    rate: float
    seed: int
    rider: str = ""
    alone: tuple[float, ...] = ()

    def __len__(self) -> int:
        """Return the number of participants, a rider included."""
        return len(self.parts.own) + bool(self.rider)

    @property
    def samples(self) -> tuple[int, ...]:
        """What each participant says that it holds; a rider claims the average."""
        own = [len(samples) for samples in self.parts.own]
        return (*own, round(float(np.mean(own)))) if self.rider else tuple(own)

    def rides(self, who: int) -> bool:
        """Return whether a participant is the free-rider."""
        return bool(self.rider) and who == len(self) - 1

    def steps(self, who: int) -> int:
        """Return how many local steps a participant takes in a round: one pass over its data."""
        return epoch_steps(EPOCHS, self.samples[who], self.task.batch_size)

    def rule(self, who: int, round_: int) -> TrainingRule:
        """Return how a participant trains the full width in a round, counted from 0."""
        return TrainingRule(
            self.steps(who),
            self.task.batch_size,
            self.rate * ROUND_DECAY**round_,
            MOMENTUM,
            weight_decay=0.0,
            widths=(1.0,),
            gradient_norm=GRADIENT_NORM,
        )

    def accuracy(self, state: Mapping[str, np.ndarray], data: Samples, width: float = 1.0) -> float:
        """Return what a full state scores at a width."""
        said = outputs(self.model, width, slice_state(state, self.model.spec, width), data.x)
        return self.model.task.score(said, data.y)

    @property
    def payload(self) -> int:
        """Bytes of the full model on the wire: float32 in safetensors, for every method."""
        return payload_bytes(self.model.spec, 1.0)


@dataclass
class LocalTraining:
    """One participant after the other, round after round; remembers what a rider was given."""

    fleet: Fleet
    stream: int = 0
    _given: dict[int, ModelState] = field(default_factory=dict)

    def upload(self, round_: int, who: int, given: ModelState) -> ModelState:
        """Return what a participant sends back for the weights that it was given.

        The same round, participant and stream draw the same batches in every method.
        """
        fleet = self.fleet
        if fleet.rides(who):
            earlier = self._given.get(who, given)
            self._given[who] = given
            return given if fleet.rider == "zero" else plus(given, minus(given, earlier))
        rng = np.random.default_rng((fleet.seed, 2 + self.stream, round_, who))
        own = fleet.parts.own[who]
        return train(fleet.model, given, 1.0, own, fleet.rule(who, round_), rng)[0]


@dataclass(frozen=True)
class Rewards:
    """What a method left its participants with.

    Attributes:
        models: per participant the full state that its model is cut from; None = it received none.
        widths: per participant the width of it, 1 where the method knows no widths.
        sent, received: bytes of all participants together, the final models included.
        published: bytes that the server uploads where equal downloads are shared.
        notes: what else the method found, for the result file.
    """

    models: tuple[ModelState | None, ...]
    widths: tuple[float, ...]
    sent: int
    received: int
    published: int
    notes: dict[str, object] = field(default_factory=dict)


def own_models(fleet: Fleet, models: Sequence[ModelState]) -> Rewards:
    """Return the rewards of a method that keeps a full-width model for each participant."""
    one_way = fleet.payload * len(fleet)
    down = one_way * (fleet.rounds + 1)
    return Rewards(tuple(models), (1.0,) * len(fleet), one_way * fleet.rounds, down, down)


def minus(a: ModelState, b: ModelState) -> ModelState:
    """Return a - b, tensor by tensor."""
    return {name: a[name] - b[name] for name in a}


def plus(a: ModelState, b: ModelState) -> ModelState:
    """Return a + b, tensor by tensor."""
    return {name: a[name] + b[name] for name in a}


def weighted(states: Sequence[ModelState], weights: Sequence[float]) -> ModelState:
    """Return the weighted sum of states; the weights are taken as they are."""
    return {
        name: sum(
            (
                np.float32(weight) * state[name]
                for state, weight in zip(states, weights, strict=True)
            ),
            start=np.zeros_like(states[0][name]),
        )
        for name in states[0]
    }


def shares(values: Sequence[float]) -> list[float]:
    """Return values divided by their sum; equal ones where the sum is not above 0."""
    total = sum(values)
    return [value / total if total > 0 else 1 / len(values) for value in values]


def flat(state: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return all values of a state, (P,) float64."""
    return np.concatenate([state[name].ravel() for name in sorted(state)]).astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two vectors; 0 where one is zero, because it then points nowhere."""
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0
