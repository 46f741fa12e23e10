"""The game of a round, played on the server's validation recordings. Imports torch.

Values, gradients and Hessian-vector products are all of the same function: minus the class-balanced
loss per block of recordings, averaged over the training grid. Where the validation data lacks a
class, that class says nothing: the classes that are present weigh the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from coordinator.aggregation.steps import Step, combine
from coordinator.contribution.evidence import EvidenceError
from coordinator.measuring import (
    Networks,
    Statistics,
    Validation,
    block_weights,
    fold_statistics,
    measured_outputs,
)
from slimmable.evaluation import EVALUATION_BATCH
from slimmable.model import SlimmableModel
from slimmable.slicing import Part, coverage
from slimmable.state import Array, ModelState
from slimmable.task import Task, TaskKind
from slimmable.torch_device import on_torch_device, torch_device
from slimmable.window import PREFIX, Place

Tensors = dict[str, torch.Tensor]


class RoundEvaluator:
    """`coordinator.contribution.evidence.Evaluator` on the validation data, over the training grid.

    Batch-norm statistics per width are fixed from the grand coalition, so that a device whose step
    is zero changes nothing at all.
    """

    def __init__(
        self,
        model: SlimmableModel,
        base: Mapping[str, Array],
        steps: Sequence[Step],
        grid: Sequence[float],
        validation: Validation,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: the model.
            base: full state w_t, to which each coalition's steps are added.
            steps: of everybody.
            grid: widths over which a value is averaged.
            validation: the data.
            weights: device -> relative weight in the aggregate, as the steps were made with; all
                the same where None.
        """
        self._model, self._base, self._grid = model, base, tuple(grid)
        self._steps = {step.device: step for step in steps}
        self._validation = validation
        self._shares = weights or dict.fromkeys(self._steps, 1.0)
        self._weights = block_weights(validation.samples, model.task)

    def value(self, coalition: frozenset[str]) -> Array:
        """Return v(coalition) per block, (B,)."""
        members = [step for device, step in self._steps.items() if device in coalition]
        return self._measured(combine(self._base, self._model.spec, members))

    def alone(self, device: str) -> Array:
        """Return the value of w_t plus the device's whole change, per block, (B,)."""
        step, share = self._steps[device], self._shares[device]
        change = {
            name: step.change[name] * self._holders[name][part] / share
            for name, part in self._covered[step.place].items()
        }
        own = replace(step, change=change)
        return self._measured(combine(self._base, self._model.spec, [own]))

    def slopes(self) -> dict[str, Array]:
        """Return device -> gradient of v at w_t times its step, per block, (B,).

        One pass over the data: each block's gradient takes only the block's own samples.
        """
        return self._along(None)

    def bends(self) -> dict[str, Array]:
        """Return device -> step times the Hessian of v at w_t times all steps, per block, (B,).

        Raises:
            EvidenceError: an operation of the network has no second derivative.
        """
        spec = self._model.spec
        nothing = {name: np.zeros_like(self._base[name]) for name in spec.parameters}
        everybody = combine(nothing, spec, self._steps.values())
        try:
            with sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated twice
                return self._along(everybody)
        except RuntimeError as error:
            raise EvidenceError(
                f"this network has no second derivative ({str(error).splitlines()[0]}): set"
                " contributions.method to 'first-order-loss'"
            ) from error

    @cached_property
    def _statistics(self) -> dict[float, Statistics]:
        everybody = combine(self._base, self._model.spec, self._steps.values())
        return {
            width: fold_statistics(self._model, width, everybody, self._validation)
            for width in self._grid
        }

    @cached_property
    def _covered(self) -> dict[Place, dict[str, Part]]:
        """Of each width of the grid and of each step, which part of each parameter it holds."""
        spec = self._model.spec
        measured = {(width, PREFIX) for width in self._grid}
        return {
            place: {name: coverage(spec, name, *place) for name in spec.parameters}
            for place in measured | {step.place for step in self._steps.values()}
        }

    @cached_property
    def _networks(self) -> dict[float, Networks]:
        """Per width, one network for each fold: two folds may be measured at the same moment."""
        folds = self._validation.folds
        return {
            width: tuple(self._model.build(width).eval().to(torch_device()) for _ in folds)
            for width in self._grid
        }

    @cached_property
    def _holders(self) -> ModelState:
        """Per coordinate, the weight of all devices whose slice holds it."""
        spec = self._model.spec
        total = {name: np.zeros(self._base[name].shape, np.float64) for name in spec.parameters}
        for step in self._steps.values():
            for name, part in self._covered[step.place].items():
                total[name][part] += self._shares[step.device]
        return total

    def _measured(self, state: ModelState) -> Array:
        said = measured_outputs(
            self._model, state, self._statistics, self._validation, self._networks
        )
        total = np.zeros(len(self._weights))
        for width in self._grid:
            losses = self._model.task.losses(said[width], self._validation.samples.y)
            total -= self._weights @ losses.astype(np.float64)
        return total / len(self._grid)

    def _along(self, direction: ModelState | None) -> dict[str, Array]:
        """Return device -> step times gradient, or times Hessian times ``direction``, (B,)."""
        found = {device: np.zeros(len(self._weights)) for device in self._steps}
        places = {step.place for step in self._steps.values()}
        for block in range(len(self._weights)):
            slope = self._derivative(block, direction)
            for place in places:
                cut = {
                    name: slope[name][part].ravel() for name, part in self._covered[place].items()
                }
                for device, step in self._steps.items():
                    if step.place == place:
                        found[device][block] = sum(
                            float(np.dot(cut[name], step.change[name].ravel())) for name in cut
                        )
        return found

    def _derivative(self, block: int, direction: ModelState | None) -> ModelState:
        """Return the gradient of one block's v at w_t, or its Hessian times ``direction``."""
        spec = self._model.spec
        total = {name: np.zeros(self._base[name].shape, np.float32) for name in spec.parameters}
        for width in self._grid:
            covered = self._covered[width, PREFIX]
            along = None
            if direction is not None:
                along = {name: _tensor(direction[name][part]) for name, part in covered.items()}
            for term in self._terms(width, block):
                for name, found in _differentiated(term, self._leaves[width], along).items():
                    total[name][covered[name]] += found / len(self._grid)
        return total

    def _terms(self, width: float, block: int) -> Iterator[torch.Tensor]:
        """Yield what sums to one block's v at w_t and ``width``, a part of the samples each."""
        start = 0
        folds, statistics = self._validation.folds, self._statistics[width]
        for fold, calibrated, network in zip(folds, statistics, self._networks[width], strict=True):
            weights = self._weights[block, start : start + len(fold.measurement)]
            start += len(fold.measurement)
            members = np.flatnonzero(weights)
            state = {**self._constants[width], **_tensors(calibrated), **self._leaves[width]}
            for chosen in np.array_split(members, -(-len(members) // EVALUATION_BATCH) or 1):
                if len(chosen):
                    x = on_torch_device(fold.measurement.x[chosen])
                    said = functional_call(network, state, (x,))
                    losses = _losses(self._model.task, said, fold.measurement.y[chosen])
                    yield -(on_torch_device(weights[chosen]) * losses).sum()

    @cached_property
    def _leaves(self) -> dict[float, Tensors]:
        """Per width, the parameters of w_t, to be differentiated by."""
        return {
            width: {
                name: _tensor(self._base[name][part]).requires_grad_()
                for name, part in self._covered[width, PREFIX].items()
            }
            for width in self._grid
        }

    @cached_property
    def _constants(self) -> dict[float, Tensors]:
        spec = self._model.spec
        return {
            width: _tensors(
                {
                    name: self._base[name][coverage(spec, name, width)]
                    for name in sorted(spec.constants)
                }
            )
            for width in self._grid
        }


def _tensor(array: Array) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32).to(torch_device())


def _tensors(state: Mapping[str, Array]) -> Tensors:
    return {name: torch.tensor(array).to(torch_device()) for name, array in state.items()}


def _losses(task: Task, said: torch.Tensor, targets: Array) -> torch.Tensor:
    """Return `slimmable.task.Task.losses`, differentiable, (N,) float64."""
    outputs = said.double()
    if task.kind is TaskKind.CLASSIFICATION:
        labels = on_torch_device(targets.astype(np.int64))
        return nn.functional.cross_entropy(outputs, labels, reduction="none")
    wanted = on_torch_device(targets.reshape(len(targets), -1).astype(np.float64))
    return (outputs.flatten(1) - wanted).square().mean(dim=1)


def _differentiated(term: torch.Tensor, leaves: Tensors, along: Tensors | None) -> dict[str, Array]:
    """Return the gradient by each leaf, or the Hessian times ``along``."""
    at = list(leaves.values())
    found = torch.autograd.grad(term, at, create_graph=along is not None, materialize_grads=True)
    if along is not None:
        slope = torch.stack(
            [(part * along[name]).sum() for name, part in zip(leaves, found, strict=True)]
        ).sum()
        if slope.requires_grad:
            found = torch.autograd.grad(slope, at, materialize_grads=True)
        else:  # v is linear in every parameter
            found = tuple(torch.zeros_like(part) for part in at)
    return {name: part.cpu().numpy() for name, part in zip(leaves, found, strict=True)}
