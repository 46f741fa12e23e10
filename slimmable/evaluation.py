"""Calibrate batch-norm statistics for a width and compute outputs. Imports torch.

Batch-norm statistics differ between widths; sharing them costs tens of accuracy points at narrow
widths. They are estimated anew per width (Yu and Huang, US-Nets, ICCV 2019, section 3.4).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from slimmable.model import ModelError, SlimmableModel
from slimmable.samples import SamplesError
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState
from slimmable.torch_device import on_torch_device, torch_device

EVALUATION_BATCH = 200  # batches of 1000 cost twice as much a sample on a CPU
CALIBRATION_BATCH = 64
CALIBRATION_BATCHES = 8
BATCH_COUNTER = "num_batches_tracked"  # of torch's batch norms; means nothing after averaging


def initial_state(model: SlimmableModel, seed: int, width: float = 1.0) -> ModelState:
    """Return the freshly initialised state dict of a width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = model.build(width)
    return state_of(network, model)


def state_of(network: nn.Module, model: SlimmableModel) -> ModelState:
    """Return the tensors of a network that the spec names.

    Raises:
        ModelError: the network lacks one of them.
    """
    found = network.state_dict()
    lacking = sorted(set(model.spec.tensors) - set(found))
    if lacking:
        raise ModelError(
            f"model {model.name!r}: its width spec names {lacking[0]!r}, its network does not"
        )
    return {name: found[name].detach().numpy().copy() for name in model.spec.tensors}


def check_network(network: nn.Module, model: SlimmableModel, width: float) -> None:
    """Check that a network has exactly the tensors and shapes that the spec gives ``width``.

    Raises:
        ModelError: it has not; the message names the first tensor.
    """
    found = {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if name.rpartition(".")[2] != BATCH_COUNTER
    }
    for name in sorted({*found, *model.spec.tensors}):
        expected = model.spec.shape(name, width) if name in model.spec.tensors else None
        if found.get(name) != expected:
            raise ModelError(
                f"model {model.name!r} at width {width}: tensor {name!r} has shape"
                f" {found.get(name, 'none')} in the network, {expected or 'none'} in the width spec"
            )


def load_network(model: SlimmableModel, width: float, state: Mapping[str, Array]) -> nn.Module:
    """Return the network of ``width`` in evaluation mode with ``state`` (cut at that width).

    It is on the CPU, where networks are traced as well; who computes with it moves it.

    Raises:
        ValueError: the state holds other tensors or shapes than the network.
    """
    network = model.build(width)
    # Copied: a state read from bytes may be read-only, and torch must not write into it.
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    found = network.state_dict()
    for name in sorted({*found, *tensors}):
        if name in tensors and name in found and tensors[name].shape == found[name].shape:
            continue
        # A tied tensor is loaded under its first name; integers belong to the network.
        if name not in tensors and (
            name in model.spec.aliases or not found[name].is_floating_point()
        ):
            continue
        shapes = [tuple(t[name].shape) if name in t else "none" for t in (tensors, found)]
        raise ValueError(
            f"network of width {width} and state differ: tensor {name!r} has shape {shapes[0]}"
            f" in the state, {shapes[1]} in the network; cut the state at this width"
        )
    network.load_state_dict(tensors, strict=False)
    return network.eval()


def calibrate(
    model: SlimmableModel,
    width: float,
    state: Mapping[str, Array],
    x: Array | tuple[Array, ...],
) -> ModelState:
    """Return the running statistics of the sub-model at ``width``, estimated on ``x``.

    Weights frozen; statistics reset; batch i (from 0) enters with momentum 1/(i+1), which makes
    the result the plain mean over batches. At most `CALIBRATION_BATCHES` of `CALIBRATION_BATCH`
    samples are drawn, always the same ones, in batches of nearly equal size.

    Args:
        model: the model.
        width: which sub-model.
        state: state dict cut at ``width``; its statistics are ignored.
        x: (N, ...) inputs of known recordings, for a network with several inputs one array each;
            targets are not needed.

    Raises:
        ValueError: the state does not fit the network.
        SamplesError: fewer than two samples, which have no variance.
    """
    if not model.spec.statistics:
        return {}
    inputs = x if isinstance(x, tuple) else (x,)
    count = len(inputs[0])
    if count < 2:
        raise SamplesError(f"{count} samples to calibrate on; batch norm needs at least 2")
    network = load_network(model, width, state).to(torch_device())
    for norm in _norms(network, model):
        norm.reset_running_stats()
        norm.momentum = None  # None = cumulative mean
        norm.train()
    with torch.no_grad():
        for chosen in calibration_batches(count):
            network(*(on_torch_device(one[chosen]) for one in inputs))
    found = network.state_dict()
    return {name: found[name].cpu().numpy().copy() for name in sorted(model.spec.statistics)}


def calibration_batches(count: int) -> list[Array]:
    """Return which of ``count`` samples stand in which calibration batch."""
    order = np.random.default_rng(0).permutation(count)[: CALIBRATION_BATCH * CALIBRATION_BATCHES]
    return np.array_split(order, -(-len(order) // CALIBRATION_BATCH))


def _norms(network: nn.Module, model: SlimmableModel) -> list[nn.modules.batchnorm._NormBase]:
    owners = sorted({name.rpartition(".")[0] for name in model.spec.statistics})
    norms = []
    for owner in owners:
        norm = network.get_submodule(owner)
        if not isinstance(norm, nn.modules.batchnorm._NormBase):
            raise ModelError(
                f"model {model.name!r}: statistics of {owner!r}, a {type(norm).__name__}, cannot be"
                " calibrated; name only those of batch norms"
            )
        norms.append(norm)
    return norms


def outputs(model: SlimmableModel, width: float, state: Mapping[str, Array], x: Array) -> Array:
    """Return the network's outputs for ``x`` at ``width``; ``state`` is cut at that width."""
    network = load_network(model, width, state).to(torch_device())
    return network_outputs(network, x)


def network_outputs(network: nn.Module, x: Array | torch.Tensor) -> Array:
    """Return what a network says about ``x``, in batches.

    Args:
        network: in evaluation mode, on the torch device of this process.
        x: (N, ...) inputs; a tensor is not copied again where it is there already.
    """
    with torch.no_grad():
        return np.concatenate(
            [
                network(_moved(x[start : start + EVALUATION_BATCH])).cpu().numpy()
                for start in range(0, len(x), EVALUATION_BATCH)
            ]
        )


def _moved(batch: Array | torch.Tensor) -> torch.Tensor:
    tensor = batch if isinstance(batch, torch.Tensor) else torch.tensor(batch)
    return tensor.to(torch_device())


def calibrated_slices(
    model: SlimmableModel, state: Mapping[str, Array], widths: Sequence[float], x: Array
) -> dict[float, ModelState]:
    """Return, per width, the sliced state with statistics calibrated on ``x``."""
    slices = {}
    for width in widths:
        cut = slice_state(state, model.spec, width)
        slices[width] = {**cut, **calibrate(model, width, cut, x)}
    return slices
