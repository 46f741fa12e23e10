"""What other devices know, as a part of the training loss; and what a network can tell them.

Imports torch. Features are what goes into the last linear layer that a network calls: their number
must be the same for all who exchange prototypes, while everything before may differ.
"""

from collections.abc import Mapping

import torch
from torch import nn

from slimmable.evaluation import calibrate, load_network, network_outputs
from slimmable.knowledge import COUNT, MEAN
from slimmable.model import ModelError, SlimmableModel
from slimmable.state import Array
from slimmable.task import TaskKind
from slimmable.torch_device import on_torch_device, torch_device

PROTOTYPES, CLASS_SCORES, PUBLIC_SCORES = "prototypes", "class-scores", "public-scores"


class FeatureTap:
    """Remembers what went into the last linear layer of the networks that it watches."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._last: torch.Tensor | None = None

    def watch(self, network: nn.Module) -> None:
        """Watch one more network, in every call from now on."""
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(self._remember)

    def _remember(self, _module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self._last = given[0]  # the last call of a forward pass is the one that stays

    def features(self) -> torch.Tensor:
        """Return (N, D) features of the last call.

        Raises:
            ModelError: the network called no linear layer.
        """
        if self._last is None:
            raise ModelError(
                "the network has no linear layer, so it has no features to exchange: use"
                ' exchange = "class-scores"'
            )
        return self._last.flatten(1)


class Guidance:
    """Draws what a network says of a sample towards what is known of the sample's class.

    The loss gains weight times the mean squared distance of the features from the prototype of
    their class (FedProto; averaged over batch and features, as in its public code), or of the
    scores from the mean scores of their class (FedDistill). A class of which nothing is known adds
    nothing.
    """

    def __init__(self, exchange: str, knowledge: Mapping[str, Array], weight: float) -> None:
        """Take over what is known.

        Args:
            exchange: `PROTOTYPES` or `CLASS_SCORES`.
            knowledge: see `slimmable.knowledge`.
            weight: of the distance in the loss, lambda.
        """
        self._tap = FeatureTap() if exchange == PROTOTYPES else None
        self._mean = on_torch_device(knowledge[MEAN])
        self._known = on_torch_device(knowledge[COUNT] > 0)
        self._weight = weight

    def watch(self, network: nn.Module) -> None:
        """Watch a network that is going to be trained."""
        if self._tap:
            self._tap.watch(network)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return what a batch adds to the loss; its forward pass was the last one.

        Args:
            outputs: (N, classes) scores.
            labels: (N,) classes.
        """
        said = self._tap.features() if self._tap else outputs
        distance = (said - self._mean[labels]).square() * self._known[labels][:, None]
        return self._weight * distance.mean()


def row_size(model: SlimmableModel, exchange: str) -> int:
    """Return D, how many numbers a row of what a network can tell has.

    Raises:
        ModelError: it tells no classes apart, or has no linear layer.
    """
    if model.task.kind is not TaskKind.CLASSIFICATION:
        raise ModelError(
            f"model {model.name!r} is for {model.task.kind}: what is exchanged here is known of"
            " classes, so it must be a classifier"
        )
    if exchange != PROTOTYPES:
        return len(model.task.classes)
    network, tap = model.build(1.0).eval(), FeatureTap()
    tap.watch(network)
    with torch.no_grad():
        network(torch.zeros(2, *model.input_shape))
    return int(tap.features().shape[1])


def what_it_says(
    model: SlimmableModel,
    state: Mapping[str, Array],
    x: Array,
    exchange: str,
    calibrated_on: Array | None = None,
) -> Array:
    """Return (N, D) features or scores of samples, by a network at full width.

    Args:
        model: the network.
        state: its full state dict.
        x: (N, ...) inputs.
        exchange: `PROTOTYPES` for features, else scores.
        calibrated_on: inputs that running statistics are estimated on; without them, ``x``.
    """
    known = x if calibrated_on is None else calibrated_on
    filled = {**state, **calibrate(model, 1.0, state, known)}
    network = load_network(model, 1.0, filled).to(torch_device())
    if exchange != PROTOTYPES:
        return network_outputs(network, x)
    watched = _Features(network)
    return network_outputs(watched, x)


class _Features(nn.Module):
    """A network that says its features instead of its scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network, self._tap = network, FeatureTap()
        self._tap.watch(network)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._network(x)
        return self._tap.features()
