"""Put the important entries of each axis first without changing what the network computes.

`slimmable.importance` says which entries matter and permutes them; here the network itself is asked
whether the permutation left its function alone. A width spec ties dimensions together, it does not
say that their entries are interchangeable: a convolution along the axis, a sort, a cumulative sum
or a fixed table of positions treat them differently. Axes where that shows stay as they are.
Imports torch.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from slimmable.evaluation import load_network
from slimmable.importance import (
    Importance,
    Order,
    occurrences,
    order_of,
    reorder,
)
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState
from slimmable.training import loss_function

TOLERANCE = 1e-5  # of the outputs, relative to the largest; sums in another order differ by less
GRADIENT_BATCH = 16  # small: over many samples the gradients of a trained network cancel out
GRADIENT_BATCHES = 64
NAMED = 3  # tensors of an axis that a message lists


@dataclass(frozen=True)
class Ordering:
    """A network whose important entries come first.

    Attributes:
        state: full-width state dict.
        order: of the axes that were permuted.
        unmovable: axes that stay as they were: permuted, they change the network's outputs.
        difference: largest difference of the full-width outputs, relative to the largest output.
    """

    state: ModelState
    order: Order
    unmovable: tuple[int, ...]
    difference: float


def order_network(
    model: SlimmableModel,
    state: Mapping[str, Array],
    importance: Importance,
    inputs: Sequence[Array],
) -> Ordering:
    """Permute the axes of a network by importance, those that do not change its function.

    Args:
        model: what the state is of.
        state: full-width state dict.
        importance: of the axes that are to be permuted.
        inputs: one array per input of the network, a few samples to compare its function on.
    """
    trial = _Trial(model, state, order_of(importance), inputs)
    axes = sorted(importance)
    unmovable = trial.offending(axes)
    kept = [axis for axis in axes if axis not in unmovable]
    if trial.difference(kept) > TOLERANCE:
        # Each alone is harmless, together they are not.
        kept = trial.largest_harmless(kept)
    return Ordering(
        trial.state(kept),
        trial.order(kept),
        tuple(axis for axis in axes if axis not in kept),
        trial.difference(kept),
    )


def gradient_products(
    model: SlimmableModel, state: Mapping[str, Array], samples: Samples, rng: np.random.Generator
) -> Iterator[dict[str, Array]]:
    """Yield weight times gradient of the task's loss for each of some small batches.

    The network is in evaluation mode, at full width.

    Args:
        model: what the state is of.
        state: full-width state dict.
        samples: with targets.
        rng: draws the samples.
    """
    network = load_network(model, 1.0, state)
    loss_of = loss_function(model.task)
    chosen = rng.permutation(len(samples))[: GRADIENT_BATCH * GRADIENT_BATCHES]
    for batch in np.array_split(chosen, -(-len(chosen) // GRADIENT_BATCH)):
        network.zero_grad(set_to_none=True)
        outputs = network(torch.from_numpy(samples.x[batch]))
        loss_of(outputs, torch.from_numpy(samples.y[batch])).backward()  # type: ignore[no-untyped-call]
        parameters = dict(network.named_parameters())
        yield {name: _product(parameters[name]) for name in model.spec.parameters}


def describe_axis(spec: WidthSpec, axis: int) -> str:
    """Return an axis in words: its size and where it stands."""
    places = [f"{at.tensor} dimension {at.dim}" for at in occurrences(spec) if at.axis == axis]
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return f"{spec.axes[axis].size} entries of {', '.join(places[:NAMED])}{more}"


class _Trial:
    """Tries orders of some axes and compares the full-width outputs with those before."""

    def __init__(
        self,
        model: SlimmableModel,
        state: Mapping[str, Array],
        order: Order,
        inputs: Sequence[Array],
    ) -> None:
        self._spec, self._state, self._order = model.spec, state, order
        self._network = load_network(model, 1.0, state)
        self._inputs = [torch.tensor(array) for array in inputs]
        self._wanted = self._outputs()

    def order(self, axes: Collection[int]) -> dict[int, Array]:
        return {axis: self._order[axis] for axis in sorted(axes)}

    def state(self, axes: Collection[int]) -> ModelState:
        return reorder(self._state, self._spec, self.order(axes))

    def difference(self, axes: Collection[int]) -> float:
        """Return how far the outputs move when ``axes`` are permuted."""
        tensors = {name: torch.from_numpy(array) for name, array in self.state(axes).items()}
        self._network.load_state_dict(tensors, strict=False)
        pairs = zip(self._outputs(), self._wanted, strict=True)
        return max(_relative_difference(found, wanted) for found, wanted in pairs)

    def offending(self, axes: Sequence[int]) -> list[int]:
        """Return the axes that change the outputs, found by halving."""
        if not axes or self.difference(axes) <= TOLERANCE:
            return []
        if len(axes) == 1:
            return list(axes)
        middle = len(axes) // 2
        return [*self.offending(axes[:middle]), *self.offending(axes[middle:])]

    def largest_harmless(self, axes: Sequence[int]) -> list[int]:
        """Return axes that together change nothing, taken one after the other."""
        kept: list[int] = []
        for axis in axes:
            if self.difference([*kept, axis]) <= TOLERANCE:
                kept.append(axis)
        return kept

    def _outputs(self) -> list[torch.Tensor]:
        with torch.no_grad():
            outputs = self._network(*self._inputs)
        return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def _relative_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    largest = float((found - wanted).abs().max())
    scale = max(float(wanted.abs().max()), float(torch.finfo(wanted.dtype).tiny))
    return largest / scale if np.isfinite(largest) else float("inf")


def _product(parameter: nn.Parameter) -> Array:
    if parameter.grad is None:  # not in use in evaluation mode
        return np.zeros(tuple(parameter.shape), dtype=np.float32)
    product: Array = (parameter.detach() * parameter.grad).numpy()
    return product
