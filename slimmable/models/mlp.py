"""A multilayer perceptron for feature vectors: classes, values, or the input itself."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from slimmable.model import SlimmableModel
from slimmable.models.spec_builder import SpecBuilder
from slimmable.task import TaskKind, classification, reconstruction, regression


class Mlp(nn.Module):
    """Linear layers with ReLU between them, on the flattened input."""

    def __init__(self, sizes: Sequence[int], output_shape: Sequence[int]) -> None:
        """Build the network.

        Args:
            sizes: features before, between and after the layers.
            output_shape: of one sample.
        """
        super().__init__()
        self.layer = nn.ModuleList(nn.Linear(into, out) for into, out in pairwise(sizes))
        self.output_shape = tuple(output_shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs of shape (batch, *output_shape) for inputs of shape (batch, ...)."""
        x_BF = x.flatten(1)
        for number, layer in enumerate(self.layer):
            x_BF = layer(x_BF if number == 0 else torch.relu(x_BF))
        return x_BF.reshape(-1, *self.output_shape)


def mlp(
    *,
    input_shape: Sequence[int],
    task: str = "classification",
    classes: Sequence[str] = (),
    outputs: int = 1,
    hidden: Sequence[int] | None = None,
    granule: int = 4,
) -> SlimmableModel:
    """Return the slimmable multilayer perceptron.

    For reconstruction the narrowest of the hidden layers is what the network must squeeze its
    input through. Anomalies come back badly only if that is fewer numbers than normal inputs need.

    Args:
        input_shape: of one sample, for example [12] or [6, 100].
        task: "classification", "regression" or "reconstruction".
        classes: class names, for classification.
        outputs: predicted values a sample, for regression.
        hidden: sizes of the hidden layers; [64, 64], or [64, 16, 64] for reconstruction.
        granule: their rounding, see `slimmable.width.Axis`.

    Raises:
        ValueError: there is no such task, or no hidden layer.
    """
    kind = TaskKind(task)
    output_shape: tuple[int, ...]
    if kind is TaskKind.CLASSIFICATION:
        meaning, output_shape = classification(classes), (len(classes),)
    elif kind is TaskKind.REGRESSION:
        meaning, output_shape = regression(), (outputs,)
    else:
        meaning, output_shape = reconstruction(), tuple(input_shape)
    if hidden is None:
        hidden = (64, 16, 64) if kind is TaskKind.RECONSTRUCTION else (64, 64)
    if not hidden:
        raise ValueError("no hidden layer, so no width to choose; give hidden at least one size")
    spec = SpecBuilder()
    between = [spec.scaling(size, granule) for size in hidden]
    ends = [spec.fixed(math.prod(shape)) for shape in (input_shape, output_shape)]
    terms = [ends[0], *between, ends[1]]
    for number, (into, out) in enumerate(pairwise(terms)):
        spec.linear(f"layer.{number}", out, into)
    finished = spec.spec()

    def build(width: float) -> nn.Module:
        return Mlp([finished.axes[term.axis].keep(width) for term in terms], output_shape)

    return SlimmableModel("mlp", finished, meaning, tuple(input_shape), build)
