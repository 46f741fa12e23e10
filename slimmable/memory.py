"""How many bytes of activations a network holds, in training and at inference. Imports torch."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimmable.macs import example_tensors, run_once
from slimmable.model import ModelInput

PROBED_BATCHES = (2, 4)  # a batch norm cannot train on one sample


def saved_bytes(network: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes that ``forward`` saves for its backward pass, parameters not counted.

    A storage that several operators save counts once.

    Args:
        network: whose parameters are left out.
        forward: runs it and returns what must stay alive, such as the loss.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    saved: dict[int, int] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        # Detached: an output that its own backward needs would keep itself alive for ever.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        # Held until the count is done: a freed storage's address would be given out again.
        outputs = forward()
    total = sum(size for address, size in saved.items() if address not in weights)
    del outputs
    return total


def training_activations(network: nn.Module, inputs: Sequence[ModelInput], batch: int) -> int:
    """Return the bytes that one training step on ``batch`` samples saves for its backward pass.

    Every activation has the batch as a factor, so two small batches give the size at any other.

    Args:
        network: is put into training mode, and its running statistics move.
        inputs: of one sample.
        batch: samples a step.
    """
    network.train()
    few, more = (
        saved_bytes(network, lambda size=size: network(*example_tensors(inputs, size)))  # type: ignore[misc]
        for size in PROBED_BATCHES
    )
    per_sample = (more - few) / (PROBED_BATCHES[1] - PROBED_BATCHES[0])
    return round(few + (batch - PROBED_BATCHES[0]) * per_sample)


def live_activations(network: nn.Module, inputs: Sequence[ModelInput], batch: int = 1) -> int:
    """Return the most bytes of activations alive at one time during inference.

    Counted while the network runs in evaluation mode: a tensor's storage lives from the operator
    that makes it until nothing refers to it any more. Inputs count, parameters do not.
    """
    tensors = example_tensors(inputs, batch)
    meter = _LiveBytes()
    for tensor in tensors:
        meter.follow(tensor)
    run_once(network, tensors, meter)
    return meter.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operator makes, until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._followed: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._followed:
            return
        size = storage.nbytes()
        self._followed.add(storage)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self._live -= size

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {_address(one) for one in _tensors([args, kwargs])}
        for tensor in _tensors(output):
            # A view, or an operator in place, makes nothing new.
            if _address(tensor) not in given:
                self.follow(tensor)
        return output


def _tensors(tree: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
