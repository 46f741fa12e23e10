"""Networks of the catalogue with random weights, and what it takes to compare two of them."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import nn

from benchmarks.networks.catalogue import CATALOGUE, TOKENS, Entry
from slimmable.from_module import slimmable_from_module
from slimmable.model import SlimmableModel
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState
from slimmable.task import regression

POSITIVE = ("running_var", "std", "gamma", "temperature", "original0")


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every float tensor of the state dict values that no default has, and return the module.

    Fresh layers hide errors: norms multiply by one, biases are zero, running means too.
    """
    generator = torch.Generator().manual_seed(seed)
    unsaved = {name for name, _ in network.named_buffers()} - set(network.state_dict())
    tensors = [*network.named_parameters(), *network.named_buffers()]
    with torch.no_grad():
        for name, tensor in tensors:
            if not tensor.is_floating_point() or name in unsaved:
                continue
            leaf = name.rpartition(".")[2]
            if leaf in POSITIVE or (leaf == "weight" and tensor.ndim == 1):
                values = 0.5 + torch.rand(tensor.shape, generator=generator)
            else:
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 4
                values = torch.randn(tensor.shape, generator=generator) * (1.5 / fan_in) ** 0.5
            tensor.copy_(values)
    return network


@cache
def user_network(name: str) -> nn.Module:
    """Return the network of the catalogue as its user has it: trained, so to speak."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(CATALOGUE[name].build()).eval()


@cache
def derived(name: str) -> SlimmableModel:
    """Return the slimmable model of the user's network."""
    return slimmable_from_module(name, user_network(name), CATALOGUE[name].inputs, regression())


@cache
def full_state(name: str) -> ModelState:
    """Return the tensors of the user's network that the spec names."""
    found = user_network(name).state_dict()
    return {tensor: found[tensor].numpy().copy() for tensor in derived(name).spec.tensors}


def cut_state(name: str, width: float) -> ModelState:
    """Return the user's weights, cut at ``width``."""
    return slice_state(full_state(name), derived(name).spec, width)


def native_network(
    entry: Entry, model: SlimmableModel, width: float, state: Mapping[str, Array]
) -> nn.Module:
    """Return the network that the user's own code builds at ``width``, with ``state`` loaded.

    Raises:
        AssertionError: its tensors are not those of the spec.
    """
    spec = model.spec
    with torch.random.fork_rng(devices=[]):
        network = entry.native(lambda name: spec.shape(name, width))
    found = network.state_dict()
    shapes = {
        name: tuple(tensor.shape) for name, tensor in found.items() if tensor.is_floating_point()
    }
    expected = {name: spec.shape(name, width) for name in spec.tensors}
    for alias, name in spec.aliases.items():
        expected[alias] = spec.shape(name, width)
    assert shapes == expected
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    absent, unknown = network.load_state_dict(tensors, strict=False)
    left = {name for name in absent if found[name].is_floating_point()}
    assert not unknown
    assert left <= set(spec.aliases), left
    return network.eval()


def samples(model: SlimmableModel, batch: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return random inputs, one tensor per input of the network."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randint(0, TOKENS, (batch, *each.shape), generator=generator)
        if each.dtype == "int64"
        else torch.randn(batch, *each.shape, generator=generator)
        for each in model.inputs
    )


def run(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Array, ...]:
    """Return all outputs of a network."""
    with torch.no_grad():
        found = network(*inputs)
    return tuple(each.numpy() for each in (found if isinstance(found, tuple | list) else (found,)))


def assert_equal_outputs(
    found: tuple[Array, ...], expected: tuple[Array, ...], tolerance: float = 1e-6
) -> None:
    """Check the same shapes, values within the tolerance, and the same largest entry per sample.

    Raises:
        AssertionError: they differ.
    """
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.isfinite(theirs).all()
        scale = max(1.0, float(np.abs(theirs).max()))
        assert float(np.abs(ours - theirs).max()) <= tolerance * scale
        for one, other in zip(ours, theirs, strict=True):
            assert one.argmax() == other.argmax()
