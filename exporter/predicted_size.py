"""Predict the size of an ONNX file without exporting it. Imports torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from slimmable.macs import example_tensors
from slimmable.model import ModelInput

# What is not weights: metadata, inputs and outputs; then a node, its name and its attributes.
# Fitted to the files of 20 networks.
FILE_BYTES = 500
NODE_BYTES = 165
# Calls that become many nodes: projections, reshapes, scores; weights in ONNX's order of gates.
NODES_OF = {
    "group_norm": 5,
    "gru": 25,
    "lstm": 25,
    "multi_head_attention_forward": 30,
    "rnn_relu": 25,
    "rnn_tanh": 25,
    "scaled_dot_product_attention": 16,
}


def predict_onnx_bytes(network: nn.Module, inputs: Sequence[ModelInput]) -> int:
    """Return the predicted size of a network's ONNX file in float32.

    The weights are counted as they will be in the file: only those that inference reads, a batch
    norm behind a convolution as a bias of that. What else is in a file is estimated from the
    number of operators.

    Args:
        network: of one width; its mode stays as it is.
        inputs: of one sample.
    """
    modes = {module: module.training for module in network.modules()}
    meter = _FileMeter(network)
    tensors = example_tensors(inputs, 1)
    try:
        network.eval()
        with torch.no_grad(), meter:
            network(*tensors)
    finally:
        for module, training in modes.items():
            module.training = training
    return FILE_BYTES + NODE_BYTES * meter.nodes + meter.weight_bytes()


class _FileMeter(TorchFunctionMode):
    """Sees the calls of torch as the network makes them, which is about what nodes are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.nodes = 0
        self._held = {
            _address(tensor): tensor.nbytes
            for tensor in [*network.parameters(), *network.buffers()]
            if tensor.numel()
        }
        self._read: set[int] = set()
        self._folded = 0
        # Address of a convolution's result -> whether it has a bias.
        self._convolved: dict[int, bool] = {}

    def weight_bytes(self) -> int:
        """Return the bytes of all tensors that were read, batch norms folded."""
        return sum(self._held[address] for address in self._read) - self._folded

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]
        self._read |= {_address(one) for one in _tensors([args, given])} & self._held.keys()
        if name == "batch_norm":
            self._fold([*args, *(given.get(leaf) for leaf in ("weight", "bias"))])
        output = func(*args, **given)
        made = _tensors(output)
        if made and name != "__get__":
            self.nodes += NODES_OF.get(name, 1)
            for tensor in made:
                self._convolved.pop(_address(tensor), None)
            if name.startswith("conv") or name == "linear":
                bias = given.get("bias", args[2] if len(args) > 2 else None)
                self._convolved[_address(made[0])] = bias is not None
        return output

    def _fold(self, arguments: Sequence[Any]) -> None:
        has_bias = self._convolved.get(_address(arguments[0]))
        if has_bias is None:
            return
        vectors = [one for one in arguments[1:] if isinstance(one, torch.Tensor)]
        self._folded += sum(vector.nbytes for vector in vectors)
        if not has_bias and vectors:
            self._folded -= vectors[0].nbytes


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
