"""Slimmable models so small that tracing them is the only cost of a test."""

from collections.abc import Sequence

import torch
from torch import nn

from slimmable.model import SlimmableModel
from slimmable.models.spec_builder import SpecBuilder
from slimmable.task import Task, TaskKind, classification


class ToyNetwork(nn.Module):
    """Two linear layers; the inputs are centred by constants that are no part of the state."""

    gain = 1.0  # of the class: no fingerprint sees it
    centre: torch.Tensor

    def __init__(self, into: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(into, hidden)
        self.second = nn.Linear(hidden, out)
        self.register_buffer("centre", torch.linspace(-1.0, 1.0, into), persistent=False)

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        hidden_BH = torch.relu(self.first(x_BF - self.centre))
        out_BO: torch.Tensor = self.second(hidden_BH)
        return out_BO * self.gain + torch.tensor([0.5])


class UndecidedNetwork(ToyNetwork):
    """Branches on the data, which no graph can hold."""

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        if x_BF.sum() > 0:
            return super().forward(x_BF)
        return -x_BF


def toy(
    *,
    into: int = 4,
    hidden: int = 16,
    out: int = 3,
    kind: str = "regression",
    classes: Sequence[str] = (),
    network: type[nn.Module] = ToyNetwork,
    missing: str = "",
) -> SlimmableModel:
    """Return a model with batch-norm-free linear layers, for any task."""
    spec = SpecBuilder()
    middle = spec.scaling(hidden)
    ends = spec.fixed(into), spec.fixed(out)
    spec.linear("first", middle, ends[0])
    spec.linear("second", ends[1], middle)
    if missing:
        spec.tensors[missing] = (middle,)
    finished = spec.spec()
    task = classification(classes) if classes else Task(TaskKind(kind))

    def build(width: float) -> nn.Module:
        return network(into, finished.axes[middle.axis].keep(width), out)

    return SlimmableModel("toy", finished, task, (into,), build)
