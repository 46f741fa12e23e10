"""Train a sub-model with ordered dropout. Imports torch.

Ordered dropout (Horvath et al., FjORD, NeurIPS 2021): each step draws one width from those that lie
inside the device's training width and takes a gradient step on that slice.

The leaves are the tensors of the training width, so nothing can move what the device does not hold.
Inside it the optimiser is SGD over all the leaves, whatever width a step drew: outside the drawn
slice the gradient is zero, but momentum goes on and weights decay, as in FjORD. Every coordinate
then decays equally often; had only the drawn slice decayed, the inner coordinates, which lie in
every slice, would be held down more than the outer ones.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from slimmable.evaluation import check_network
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.slicing import check_state
from slimmable.spec import Indices, WidthSpec
from slimmable.state import Array, ModelState
from slimmable.task import Task, TaskError, TaskKind

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Cut = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class TrainingRule:
    """How a device trains in a round.

    Attributes:
        steps: gradient steps.
        batch_size: samples a step.
        learning_rate: of SGD with momentum.
        momentum: 0 to below 1.
        weight_decay: L2 factor.
        widths: the training grid; each step draws from those inside the training width.
    """

    steps: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    widths: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse numbers that no training can use.

        Raises:
            ValueError: the message names the number.
        """
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"{self.steps} steps of {self.batch_size} samples: both must be at least 1"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning rate {self.learning_rate} must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} must be from 0 to below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight decay {self.weight_decay} must be at least 0")


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
            result on the same machine.
        after_step: called with the number of finished steps.

    Raises:
        SpecError: the state is not one of ``width``.
        SamplesError: the targets do not fit the task.
        FloatingPointError: the loss or a weight became NaN or infinite.
    """
    names = model.spec.parameters
    check_state(state, model.spec, width, names=names)
    model.task.check_targets(samples.y)
    leaves = {name: torch.tensor(state[name], requires_grad=True) for name in names}
    # Written out because torch.optim imports the compiler: 1.3 CPU seconds and 50 MB per process.
    velocity = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    inner = tuple(offered for offered in rule.widths if offered <= width) or (width,)
    loss_of = loss_function(model.task)
    batches = _batches(len(samples), rule.batch_size, rng)
    total = 0.0
    # Layers that draw numbers use torch's global generator: seeded here, put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        networks = {offered: _Slice(model, offered, width) for offered in inner}
        for step in range(rule.steps):
            chosen = next(batches)
            network = networks[inner[int(rng.integers(len(inner)))]]
            outputs = network.forward(leaves, torch.from_numpy(samples.x[chosen]))
            loss = loss_of(outputs, torch.from_numpy(samples.y[chosen]))
            reached = float(loss.detach())
            if not math.isfinite(reached):
                raise FloatingPointError(
                    f"loss is {reached} at step {step}; lower the learning rate"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            _sgd_step(leaves, velocity, rule)
            total += reached
            after_step(step + 1)
    trained = {name: leaf.detach().numpy().copy() for name, leaf in leaves.items()}
    for name, array in trained.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(f"tensor {name!r} became infinite; lower the learning rate")
    return {**{name: np.array(state[name]) for name in state}, **trained}, total / rule.steps


class _Slice:
    """The network of one width, fed with slices of the tensors of the training width."""

    def __init__(self, model: SlimmableModel, width: float, outer: float) -> None:
        """Build the network and work out the cuts.

        Args:
            model: what is trained.
            width: of the network.
            outer: training width, of the tensors it is fed with.
        """
        self._network = model.build(width).train()
        check_network(self._network, model, width)
        for parameter in self._network.parameters():
            parameter.data = torch.empty(0)  # never used: `forward` brings the weights
        self._cuts = {name: _cut(model.spec, name, width, outer) for name in model.spec.parameters}

    def forward(self, leaves: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Return the outputs for ``x`` with the weights of ``leaves``."""
        parameters = {name: cut(leaves[name]) for name, cut in self._cuts.items()}
        return torch.func.functional_call(self._network, parameters, (x,))  # type: ignore[no-any-return]


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
    return partial(torch.index_select, dim=dim, index=torch.from_numpy(kept))


def _mean_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if outputs.numel() != targets.numel():  # torch would broadcast (N,) against (N, 1)
        raise TaskError(
            f"outputs of shape {tuple(outputs.shape)} for targets of shape {tuple(targets.shape)}"
        )
    return nn.functional.mse_loss(outputs, targets.reshape(outputs.shape))


def _sgd_step(
    leaves: Mapping[str, torch.Tensor], velocity: Mapping[str, torch.Tensor], rule: TrainingRule
) -> None:
    with torch.no_grad():
        for name, leaf in leaves.items():
            if leaf.grad is None:
                continue
            gradient = leaf.grad.add(leaf, alpha=rule.weight_decay)
            velocity[name].mul_(rule.momentum).add_(gradient)
            leaf.sub_(velocity[name], alpha=rule.learning_rate)
            leaf.grad = None


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield index batches for ever, reshuffled after each pass; all have the same size.

    What does not fill a batch is left out of that pass: batch norm fails on a batch of one.
    """
    size = min(size, count)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
