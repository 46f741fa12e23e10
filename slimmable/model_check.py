"""Check that a model keeps its promises before a fleet relies on it. Imports torch."""

from collections.abc import Iterable

import torch
from torch import nn

from slimmable.evaluation import check_network
from slimmable.model import ModelError, SlimmableModel, tied_parameters
from slimmable.task import TaskKind
from slimmable.torch_device import torch_device

BATCHES = (2, 3)  # two sizes: a batch size written into the network shows at the second


def check_model(model: SlimmableModel, widths: Iterable[float]) -> None:
    """Build the model at each width and run it on noise, on the torch device of this process.

    Args:
        model: of a user, or built in.
        widths: all that the fleet will offer.

    Raises:
        ModelError: network and width spec differ, two tensors are tied, or the outputs do not fit
            the task; the message says where.
    """
    for width in widths:
        with torch.random.fork_rng(devices=[]):
            network = model.build(width).eval().to(torch_device())
        _refuse_tied(network, model)
        check_network(network, model, width)
        for batch in BATCHES:
            _run(network, model, width, batch)


def _refuse_tied(network: nn.Module, model: SlimmableModel) -> None:
    tied = tied_parameters(network)
    if tied:
        raise ModelError(
            f"model {model.name!r}: {tied[0]!r} shares its values with another parameter;"
            " give each its own"
        )


def _run(network: nn.Module, model: SlimmableModel, width: float, batch: int) -> None:
    x = torch.randn(batch, *model.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            outputs = network(x.to(torch_device()))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"model {model.name!r} at width {width} fails on inputs of shape {tuple(x.shape)}:"
            f" {reason}"
        ) from error
    expected = {
        TaskKind.CLASSIFICATION: (batch, len(model.task.classes)),
        TaskKind.RECONSTRUCTION: tuple(x.shape),
        TaskKind.REGRESSION: (batch, *outputs.shape[1:]),
    }[model.task.kind]
    if tuple(outputs.shape) != expected:
        raise ModelError(
            f"model {model.name!r} at width {width} returns shape {tuple(outputs.shape)},"
            f" {model.task.kind} needs {expected}"
        )
