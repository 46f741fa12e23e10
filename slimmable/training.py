"""Train a sub-model through its slices. Imports torch.

Which slices a step takes is the training rule's (`slimmable.training_rule`); each takes a gradient
step, or its share of one, on the tensors of the training width.

The leaves are the tensors of the training width, so nothing can move what the device does not hold.
Inside it the optimiser is SGD over all the leaves, whatever width a step drew: outside the drawn
slice the gradient is zero, but momentum goes on and weights decay, as in FjORD. Every coordinate
then decays equally often; had only the drawn slice decayed, the inner coordinates, which lie in
every slice, would be held down more than the outer ones.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import nn

from slimmable.distillation import distance
from slimmable.evaluation import check_network
from slimmable.guidance import Guidance
from slimmable.model import SlimmableModel
from slimmable.private_parts import private_names
from slimmable.samples import Samples
from slimmable.scaler import Scaler
from slimmable.slicing import check_state
from slimmable.spec import Indices, WidthSpec
from slimmable.state import Array, ModelState
from slimmable.task import Task, TaskError, TaskKind
from slimmable.torch_device import on_torch_device, seed_torch, torch_device
from slimmable.training_rule import TrainingRule, WidthDraw

__all__ = [
    "DivergenceError",
    "SlicedNetwork",
    "Training",
    "TrainingRule",
    "batches",
    "loss_function",
    "train",
]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Cut = Callable[[torch.Tensor], torch.Tensor]
# Of the indices of some samples, what another network says about them.
Teacher = Callable[[Array], torch.Tensor]


class DivergenceError(FloatingPointError):
    """The loss or a weight became NaN or infinite. Lower the learning rate."""


def loss_function(task: Task) -> Loss:
    """Return the training loss of a task, a function of (outputs, targets)."""
    if task.kind is TaskKind.CLASSIFICATION:
        return nn.functional.cross_entropy
    return _mean_squared_error


def train(
    model: SlimmableModel,
    state: Mapping[str, Array],
    width: float,
    samples: Samples,
    rule: TrainingRule,
    rng: np.random.Generator,
    after_step: Callable[[int], None] = lambda _: None,
    correction: Mapping[str, Array] | None = None,
    guide: Guidance | None = None,
    objective: Loss | None = None,
) -> tuple[ModelState, float]:
    """Train the sub-model of ``width`` and return its new state and the mean loss.

    Running statistics come back as they were given: they belong to one width and are calibrated
    where the state is used (`slimmable.evaluation.calibrate`).

    Args:
        model: what is trained.
        state: state dict cut at ``width``; statistics may be left out.
        width: training width.
        samples: the device's own data.
        rule: steps, batch, learning rate and widths.
        rng: draws batches, widths, and the seed of dropout layers; the same one gives the same
            result on the same machine, on a GPU within rounding.
        after_step: called with the number of finished steps.
        correction: parameter name -> what is added to its gradient in every step, also outside the
            slices that the step drew (SCAFFOLD: Karimireddy et al., ICML 2020), so that over a
            training it adds up to the same on every coordinate; cut at ``width``.
        guide: what other devices know, as a part of the loss.
        objective: of (outputs, targets), in place of the task's loss; then the targets are whatever
            it compares outputs with.

    Raises:
        SpecError: the state or the correction is not one of ``width``.
        SamplesError: the targets do not fit the task.
        DivergenceError: the loss or a weight became NaN or infinite.
    """
    total = 0.0
    # Layers that draw numbers use torch's global generator, which is put back afterwards; that of
    # a GPU is not, and nobody draws from it who has not seeded it.
    with torch.random.fork_rng(devices=[]):
        training = Training(
            model,
            state,
            width,
            samples,
            rule,
            rng,
            correction=correction,
            guide=guide,
            objective=objective,
        )
        for step in range(rule.steps):
            total += training.step()
            after_step(step + 1)
    return training.state(), total / rule.steps


class Training:
    """A training under way: one call a step. `train` takes all of them.

    It seeds torch's global generator and leaves it so; whoever minds wraps it in
    `torch.random.fork_rng`.
    """

    def __init__(
        self,
        model: SlimmableModel,
        state: Mapping[str, Array],
        width: float,
        samples: Samples,
        rule: TrainingRule,
        rng: np.random.Generator,
        teacher: Teacher | None = None,
        correction: Mapping[str, Array] | None = None,
        guide: Guidance | None = None,
        objective: Loss | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: see `train`, as for those that follow.
            state: cut at ``width``.
            width: of training.
            samples: the device's own data.
            rule: how to train.
            rng: draws batches, widths and seeds.
            teacher: a network that all slices learn from, the widest too; without it the narrower
                ones learn from the widest, where the rule says so.
            correction: added to every gradient.
            guide: see `train`.
            objective: see `train`.

        Raises:
            SpecError: the state or the correction is not one of ``width``.
            SamplesError: the targets do not fit the task.
        """
        names = model.spec.parameters
        constants = sorted(model.spec.constants)
        check_state(state, model.spec, width, names=(*names, *constants))
        if objective is None:
            model.task.check_targets(samples.y)
        self._task = model.task
        self._loss = objective or loss_function(model.task)
        self._present = _present_classes(model.task, samples) if rule.masked_loss else None
        self._samples = samples
        self._rule = rule
        self._rng = rng
        self._outer_teacher = teacher
        self._given = state
        self._done = 0
        self._leaves = {name: _tensor(state[name]).requires_grad_() for name in names}
        fixed = {name: _tensor(state[name]) for name in constants}
        self._tensors = {**self._leaves, **fixed}
        # Written out because torch.optim imports the compiler: 1.3 CPU seconds and 50 MB per
        # process.
        self._private = private_names(model.spec, rule.private)
        self._velocity = {name: torch.zeros_like(leaf) for name, leaf in self._leaves.items()}
        self._start: dict[str, torch.Tensor] = {}
        if rule.proximal:
            self._start = {name: leaf.detach().clone() for name, leaf in self._leaves.items()}
        self._correction: dict[str, torch.Tensor] = {}
        if correction is not None:
            check_state(correction, model.spec, width, names=names)
            self._correction = {name: _tensor(correction[name]) for name in names}
        self._draw = WidthDraw(rule, width)
        self._batches = batches(len(samples), rule.batch_size, rng)
        seed_torch(int(rng.integers(2**63)))
        self._slices = {
            offered: SlicedNetwork(model, offered, width, scaler=rule.scaler)
            for offered in self._draw.widths
        }
        self._guide = guide
        if guide:
            for part in self._slices.values():
                part.watched_by(guide)

    def step(self, rate: float | None = None) -> float:
        """Take one gradient step and return the loss, averaged over the widths of the step.

        Args:
            rate: learning rate of this step; without it, the rule's.

        Raises:
            DivergenceError: the loss is NaN or infinite.
        """
        self._choose_moving()
        chosen = next(self._batches)
        widths = self._draw.draw(self._rng)
        # A batch at a time: few trainings see a sample so often that moving all of them pays.
        x, y = (on_torch_device(array[chosen]) for array in (self._samples.x, self._samples.y))
        teacher = self._teacher(widths, chosen, x)
        total = 0.0
        for width in widths:
            outputs = self._slices[width].forward(self._tensors, x)
            told = self._guide.loss(outputs, y) if self._guide else None
            if self._present is not None:
                outputs = outputs.where(self._present, 0.0)
            loss = self._loss(outputs, y)
            if told is not None:
                loss = loss + told
            reached = float(loss.detach())
            if not math.isfinite(reached):
                raise DivergenceError(
                    f"loss is {reached} at step {self._done}; lower the learning rate"
                )
            if teacher is not None:
                loss = self._distilled(loss, outputs, teacher)
            elif self._rule.distillation:
                teacher = outputs.detach()  # the widest comes first
            (loss / len(widths)).backward()  # type: ignore[no-untyped-call]
            total += reached
        if rate is None:
            rate = self._rule.rate(self._done)
        self._sgd_step(rate)
        self._done += 1
        return total / len(widths)

    def _sgd_step(self, rate: float) -> None:
        rule = self._rule
        with torch.no_grad():
            if rule.gradient_norm:
                nn.utils.clip_grad_norm_(self._leaves.values(), rule.gradient_norm)
            for name, leaf in self._leaves.items():
                if leaf.grad is None:
                    continue
                gradient = leaf.grad
                if rule.weight_decay:
                    gradient = gradient.add(leaf, alpha=rule.weight_decay)
                if rule.proximal:  # the gradient of mu / 2 times the squared distance moved
                    gradient.add_(leaf - self._start[name], alpha=rule.proximal)
                if self._correction:  # after the limit: it is no gradient of the device's own
                    gradient.add_(self._correction[name])
                self._velocity[name].mul_(rule.momentum).add_(gradient)
                leaf.sub_(self._velocity[name], alpha=rate)
                leaf.grad = None

    def state(self) -> ModelState:
        """Return the state after the steps so far, with statistics as they were given.

        Raises:
            DivergenceError: a weight became NaN or infinite.
        """
        trained = {name: leaf.detach().cpu().numpy().copy() for name, leaf in self._leaves.items()}
        for name, array in trained.items():
            if not np.isfinite(array).all():
                raise DivergenceError(f"tensor {name!r} became infinite; lower the learning rate")
        return {**{name: np.array(array) for name, array in self._given.items()}, **trained}

    def _choose_moving(self) -> None:
        """Let what is private move first and the rest after it, where the rule says so."""
        if self._rule.private_steps and self._done in (0, self._rule.private_steps):
            first = self._done == 0
            for name, leaf in self._leaves.items():
                leaf.requires_grad_((name in self._private) == first)

    def _teacher(
        self, widths: tuple[float, ...], chosen: Array, x: torch.Tensor
    ) -> torch.Tensor | None:
        """Return what the teacher says; the widest slice only where the step does not take it."""
        if self._outer_teacher is not None:
            return self._outer_teacher(chosen)
        if not self._rule.distillation or self._draw.teacher in widths:
            return None
        with torch.no_grad():
            return self._slices[self._draw.teacher].forward(self._tensors, x)

    def _distilled(
        self, loss: torch.Tensor, outputs: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        share = self._rule.distillation
        return (1 - share) * loss + share * distance(self._task, outputs, teacher)


class SlicedNetwork:
    """The network of one width, fed with slices of the tensors of the training width."""

    def __init__(self, model: SlimmableModel, width: float, outer: float, *, scaler: bool) -> None:
        """Build the network and work out the cuts.

        Args:
            model: what is trained.
            width: of the network.
            outer: training width, of the tensors it is fed with.
            scaler: see `slimmable.training_rule.TrainingRule`.
        """
        self._scaled = (model.spec, width) if scaler and width < 1 else None
        self._network = model.build(width).train()
        check_network(self._network, model, width)
        for parameter in self._network.parameters():
            parameter.data = torch.empty(0)  # never used: `forward` brings the weights
        self._network.to(torch_device())
        names = sorted(set(model.spec.tensors) - model.spec.statistics)
        self._cuts = {name: _cut(model.spec, name, width, outer) for name in names}

    def watched_by(self, guide: Guidance) -> None:
        """Let a guide see the features of the network."""
        guide.watch(self._network)

    def forward(self, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Return the outputs for ``x`` with the weights and constants of ``tensors``."""
        sliced = {name: cut(tensors[name]) for name, cut in self._cuts.items()}
        scaler = Scaler(*self._scaled, sliced) if self._scaled else nullcontext()
        with scaler:
            return torch.func.functional_call(self._network, sliced, (x,))  # type: ignore[no-any-return]


def _cut(spec: WidthSpec, name: str, width: float, outer: float) -> Cut:
    """Return the differentiable function that cuts tensor ``name`` of ``outer`` at ``width``."""
    steps: list[Cut] = []
    whole = spec.shape(name, outer)
    for dim, kept in enumerate(spec.indices_within(name, width, outer)):
        if len(kept) < whole[dim]:
            steps.append(_cut_dimension(dim, kept))

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        for step in steps:
            tensor = step(tensor)
        return tensor

    return cut


def _cut_dimension(dim: int, kept: Indices) -> Cut:
    if kept[-1] == len(kept) - 1:  # a prefix is a view: no copy
        return partial(torch.narrow, dim=dim, start=0, length=len(kept))
    return partial(torch.index_select, dim=dim, index=on_torch_device(kept))


def _present_classes(task: Task, samples: Samples) -> torch.Tensor | None:
    """Return which classes the samples have, (C,) of booleans; None where there are no classes."""
    if task.kind is not TaskKind.CLASSIFICATION:
        return None
    return on_torch_device(np.isin(np.arange(len(task.classes)), samples.y))


def _tensor(array: Array) -> torch.Tensor:
    return torch.tensor(array).to(torch_device())


def _mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if outputs.numel() != targets.numel():  # torch would broadcast (N,) against (N, 1)
        raise TaskError(
            f"outputs of shape {tuple(outputs.shape)} for targets of shape {tuple(targets.shape)}"
        )
    return nn.functional.mse_loss(outputs, targets.reshape(outputs.shape))


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield index batches for ever, reshuffled after each pass; all have the same size.

    What does not fill a batch is left out of that pass: batch norm fails on a batch of one.
    """
    size = min(size, count)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
