"""Make a network that was trained at full width slimmable: order it, then distil. Imports torch.

The slices of a dense network are useless as they are. Ordering (`slimmable.ordering`) puts what
matters into the narrow slices and leaves the network's function alone; training through the slices
then teaches all widths at once. Their teacher is the dense network itself, frozen (Hinton, Vinyals
and Dean, 2015): its outputs say more about a sample than the label does, and they hold the full
width where it was.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from slimmable.central import check_data, measure_widths
from slimmable.evaluation import calibrate, load_network, outputs
from slimmable.importance import Importance, magnitude_importance, taylor_importance
from slimmable.model import SlimmableModel
from slimmable.ordering import describe_axis, gradient_products, order_network
from slimmable.samples import Samples
from slimmable.state import Array, ModelState
from slimmable.training import Training
from slimmable.training_rule import TrainingRule, WidthRule
from slimmable.width_scores import WidthScore

PROBED = 32  # samples on which the function of the ordered network is compared
# Not known before a budget of time is spent: the training's own count of steps then says nothing.
ENDLESS = 1 << 40


class Criterion(StrEnum):
    """What makes an entry important, see `slimmable.importance`."""

    MAGNITUDE = "magnitude"
    TAYLOR = "taylor"


class Stage(StrEnum):
    """The states of the network whose scores are compared."""

    AS_IS = "as is"
    ORDERED = "ordered"
    DISTILLED = "distilled"


@dataclass(frozen=True)
class Budget:
    """When the distillation ends: after so many steps, or so much time of the clock it is given.

    Attributes:
        steps: gradient steps, or None.
        seconds: time, or None. Exactly one of the two is set.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse budgets that say nothing or nonsense.

        Raises:
            ValueError: not exactly one of the two, or none above 0.
        """
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("a budget is either a number of steps or of seconds")
        if not 0 < (self.steps or self.seconds or 0) < math.inf:
            raise ValueError(f"budget {self.steps or self.seconds} must be above 0")

    def share(self, steps: int, seconds: float) -> float:
        """Return how much of the budget is spent, 1 and above when it is all."""
        if self.steps is not None:
            return steps / self.steps
        assert self.seconds is not None
        return seconds / self.seconds


@dataclass(frozen=True)
class AdoptionRule:
    """How a network is adopted.

    Attributes:
        widths: that are to be usable, 1.0 among them.
        budget: of the distillation.
        criterion: of the ordering.
        distillation: share of the loss that is the distance from the dense network, 0 to 1; the
            rest is the task's loss.
        width_rule: which widths a step trains.
        batch_size: samples a step.
        learning_rate: at the start; it falls along a cosine to 0 at the end of the budget. Higher
            ones teach the narrow widths sooner, and cost the full width what it knew.
        momentum: 0 to below 1.
        weight_decay: L2 factor.
    """

    widths: tuple[float, ...]
    budget: Budget
    criterion: Criterion = Criterion.MAGNITUDE
    distillation: float = 0.5
    width_rule: WidthRule = WidthRule.ORDERED_DROPOUT
    batch_size: int = 64
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def training(self) -> TrainingRule:
        """Return the rule of the training, but for the learning rate of each step.

        Raises:
            ValueError: a number that no training can use, or a rule that trains no narrow width.
        """
        if self.width_rule is WidthRule.OWN_WIDTH:
            raise ValueError(f"rule {self.width_rule} trains no narrow width: choose another")
        return TrainingRule(
            steps=self.budget.steps or ENDLESS,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            widths=self.widths,
            rule=self.width_rule,
            distillation=self.distillation,
        )


@dataclass(frozen=True)
class Progress:
    """Where an adoption stands.

    Attributes:
        stage: that was measured, or that is being worked at.
        share: of the budget that is spent, in the distillation.
        step: of the distillation.
        loss: of that step.
        scores: of the stage; empty while it is being worked at.
    """

    stage: Stage
    share: float = 0.0
    step: int = 0
    loss: float = math.nan
    scores: tuple[WidthScore, ...] = ()


@dataclass(frozen=True)
class Adopted:
    """A slimmable network and how it came about.

    Attributes:
        state: full-width state dict, statistics calibrated at full width.
        dense_score: of the network as it was given, with its own statistics.
        curves: the score over width at each stage, statistics calibrated at each width.
        unmovable: the axes that could not be ordered, in words.
        difference: of the full-width outputs by the ordering, relative.
        steps: of the distillation.
        seconds: that these took.
    """

    state: ModelState
    dense_score: float
    curves: Mapping[Stage, tuple[WidthScore, ...]]
    unmovable: tuple[str, ...]
    difference: float
    steps: int
    seconds: float


def adopt(
    model: SlimmableModel,
    state: Mapping[str, Array],
    samples: Samples,
    validation: Samples,
    rule: AdoptionRule,
    rng: np.random.Generator,
    clock: Callable[[], float],
    report: Callable[[Progress], None] = lambda _: None,
) -> Adopted:
    """Order and distil a network that was trained at full width.

    Args:
        model: what the state is of; it takes one float32 input and has one output.
        state: full-width state dict.
        samples: to train and calibrate on.
        validation: to score on; not used otherwise.
        rule: how.
        rng: draws samples and widths.
        clock: seconds, for a budget of time and for the progress.
        report: called when a stage was measured and after each step.

    Raises:
        ModelError: the network takes several inputs, or tokens.
        SamplesError: samples or targets do not fit the network.
        DivergenceError: the loss or a weight became NaN or infinite.
    """
    check_data(model, samples, "training data")
    check_data(model, validation, "validation data")
    curves = {}

    def measure(stage: Stage, weights: Mapping[str, Array]) -> None:
        curves[stage] = measure_widths(model, weights, rule.widths, samples.x, validation)
        report(Progress(stage, scores=curves[stage]))

    dense_score = model.task.score(outputs(model, 1.0, state, validation.x), validation.y)
    measure(Stage.AS_IS, state)
    importance = importance_of(model, state, samples, rule.criterion, rng)
    ordering = order_network(model, state, importance, [samples.x[:PROBED]])
    measure(Stage.ORDERED, ordering.state)
    started = clock()
    trained, steps = distil(model, ordering.state, samples, rule, rng, clock, report)
    seconds = clock() - started
    measure(Stage.DISTILLED, trained)
    return Adopted(
        state={**trained, **calibrate(model, 1.0, trained, samples.x)},
        dense_score=dense_score,
        curves=curves,
        unmovable=tuple(describe_axis(model.spec, axis) for axis in ordering.unmovable),
        difference=ordering.difference,
        steps=steps,
        seconds=seconds,
    )


def importance_of(
    model: SlimmableModel,
    state: Mapping[str, Array],
    samples: Samples,
    criterion: Criterion,
    rng: np.random.Generator,
) -> Importance:
    """Return the importance of each entry of each scaling axis by ``criterion``."""
    if criterion is Criterion.MAGNITUDE:
        return magnitude_importance(state, model.spec)
    return taylor_importance(gradient_products(model, state, samples, rng), model.spec)


def distil(
    model: SlimmableModel,
    state: Mapping[str, Array],
    samples: Samples,
    rule: AdoptionRule,
    rng: np.random.Generator,
    clock: Callable[[], float],
    report: Callable[[Progress], None] = lambda _: None,
) -> tuple[ModelState, int]:
    """Train all widths with the network itself, as it is given, for a teacher.

    Args:
        model: what the state is of.
        state: full-width state dict.
        samples: with targets.
        rule: how, and for how long; one step is taken at least.
        rng: draws samples and widths.
        clock: seconds, for a budget of time.
        report: called after each step.

    Returns:
        The state with the statistics it was given, and the number of steps.

    Raises:
        DivergenceError: the loss or a weight became NaN or infinite.
    """
    teacher = _DenseTeacher(model, state, samples) if rule.distillation else None
    started, share, step = clock(), 0.0, 0
    with torch.random.fork_rng(devices=[]):
        training = Training(model, state, 1.0, samples, rule.training(), rng, teacher)
        while share < 1:
            rate = rule.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
            loss = training.step(rate)
            step += 1
            share = rule.budget.share(step, clock() - started)
            report(Progress(Stage.DISTILLED, share, step, loss))
    return training.state(), step


class _DenseTeacher:
    """Says what the dense network says about samples; each is asked about once."""

    def __init__(self, model: SlimmableModel, state: Mapping[str, Array], samples: Samples) -> None:
        self._network = load_network(model, 1.0, state)
        self._x = samples.x
        self._asked = np.zeros(len(samples), dtype=bool)
        self._said = torch.empty(0)

    def __call__(self, chosen: Array) -> torch.Tensor:
        unknown = chosen[~self._asked[chosen]]
        if len(unknown):
            with torch.no_grad():
                said = self._network(torch.from_numpy(self._x[unknown]))
            if not self._asked.any():
                self._said = torch.empty(len(self._x), *said.shape[1:])
            self._said[torch.from_numpy(unknown)] = said
            self._asked[unknown] = True
        return self._said[torch.from_numpy(chosen)]
