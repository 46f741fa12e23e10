"""Networks drawn at random: layers in any order, tensors added, concatenated and gated."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn

PER_GROUP = 4
PIXELS = 4
IMAGE_CHANNELS = 3
CLASSES = 3
# At least four groups each, so that four widths keep different numbers of whole groups.
CHANNELS = (16, 24, 32, 48)
# Operations with a layer, and those without.
LAYERS = ("conv", "pointwise", "transposed", "grouped", "depthwise", "batch_norm", "group_norm")
JOINTS = ("relu", "cat", "add", "gate", "linear")


@dataclass(frozen=True)
class Step:
    """One operation: its name, which tensors it reads, and its channels at full width."""

    op: str
    reads: tuple[int, ...]
    channels: int


@dataclass(frozen=True)
class Plan:
    """What a network does; tensor 0 is a stem's output, tensor i+1 that of step i."""

    stem: int
    steps: tuple[Step, ...]
    flatten: bool

    def channels(self, tensor: int) -> int:
        """Return the channels of a tensor at full width."""
        return self.steps[tensor - 1].channels if tensor else self.stem


@st.composite
def plans(draw: st.DrawFn, longest: int = 8) -> Plan:
    """Draw a plan."""
    stem = draw(st.sampled_from(CHANNELS))
    steps: list[Step] = []
    for _ in range(draw(st.integers(2, longest))):
        lengths = [stem, *(step.channels for step in steps)]
        read = draw(st.integers(0, len(lengths) - 1))
        op = draw(st.sampled_from((*LAYERS, *JOINTS)))
        steps.append(_step(draw, op, read, lengths))
    return Plan(stem, tuple(steps), draw(st.booleans()))


def _step(draw: st.DrawFn, op: str, read: int, lengths: list[int]) -> Step:
    channels = lengths[read]
    if op in {"conv", "pointwise", "transposed", "linear"}:
        return Step(op, (read,), draw(st.sampled_from(CHANNELS)))
    if op == "grouped":
        return Step(op, (read,), channels * draw(st.sampled_from((1, 2))))
    if op == "cat":
        other = draw(st.integers(0, len(lengths) - 1))
        return Step(op, (read, other), channels + lengths[other])
    if op in {"add", "gate"}:
        same = [tensor for tensor, length in enumerate(lengths) if length == channels]
        return Step(op, (read, draw(st.sampled_from(same))), channels)
    return Step(op, (read,), channels)


class RandomNetwork(nn.Module):
    """Carries out a plan; every layer takes its lengths from ``shapes``."""

    def __init__(self, plan: Plan, shapes: Callable[[str], tuple[int, ...]]) -> None:
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleDict()
        self.layers["stem"] = _layer("conv", shapes("layers.stem.weight"))
        for number, step in enumerate(plan.steps):
            if step.op in LAYERS or step.op == "linear":
                name = f"step{number}"
                into = plan.channels(step.reads[0])
                per_group = step.channels * PER_GROUP // into
                self.layers[name] = _layer(step.op, shapes(f"layers.{name}.weight"), per_group)
        self.head = nn.Linear(shapes("head.weight")[1], CLASSES)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        tensors = [self.layers["stem"](x_BCHW)]
        for number, step in enumerate(self.plan.steps):
            read = [tensors[tensor] for tensor in step.reads]
            tensors.append(self._carry_out(f"step{number}", step.op, read))
        last = tensors[-1]
        return self.head(last.flatten(1) if self.plan.flatten else last.mean((2, 3)))

    def _carry_out(self, name: str, op: str, read: list[torch.Tensor]) -> torch.Tensor:
        if op == "linear":
            return self.layers[name](read[0].movedim(1, -1)).movedim(-1, 1)
        if op in LAYERS:
            return self.layers[name](read[0])
        if op == "relu":
            return torch.relu(read[0])
        if op == "cat":
            return torch.cat(read, dim=1)
        if op == "add":
            return read[0] + read[1]
        return read[0] * torch.sigmoid(read[1].mean((2, 3), keepdim=True))


def _layer(op: str, shape: tuple[int, ...], per_group: int = 1) -> nn.Module:
    if op == "batch_norm":
        return nn.BatchNorm2d(shape[0])
    if op == "group_norm":
        return nn.GroupNorm(shape[0] // PER_GROUP, shape[0])
    if op == "linear":
        return nn.Linear(shape[1], shape[0])
    out, into, kernel = shape[:3]
    if op == "transposed":
        return nn.ConvTranspose2d(out, into, kernel, padding=1)
    if op == "depthwise":
        return nn.Conv2d(out, out, kernel, padding=1, groups=out)
    if op == "grouped":
        return nn.Conv2d(into * out // per_group, out, kernel, padding=1, groups=out // per_group)
    return nn.Conv2d(into, out, kernel, padding=kernel // 2)


def full_shapes(plan: Plan) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every layer's weight at full width."""
    shapes: dict[str, tuple[int, ...]] = {"layers.stem.weight": (plan.stem, IMAGE_CHANNELS, 3, 3)}
    for number, step in enumerate(plan.steps):
        into, out = plan.channels(step.reads[0]), step.channels
        of_layer: dict[str, tuple[int, ...]] = {
            "conv": (out, into, 3, 3),
            "pointwise": (out, into, 1, 1),
            "transposed": (into, out, 3, 3),
            "grouped": (out, PER_GROUP, 3, 3),
            "depthwise": (out, 1, 3, 3),
            "linear": (out, into),
        }
        shapes[f"layers.step{number}.weight"] = of_layer.get(step.op, (out,))
    last = plan.channels(len(plan.steps))
    shapes["head.weight"] = (CLASSES, last * PIXELS**2 if plan.flatten else last)
    return shapes
