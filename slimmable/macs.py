"""Count the multiply-accumulate operations of one forward pass, layer by layer. Imports torch.

The network is run once on the CPU and every operator that multiplies matrices is counted from the
shapes that it got, so any control flow and any module is counted as it ran. Element-wise operators,
norms, pooling and look-ups count as nothing, as usual. Padding counts as pixels do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimmable.model import ModelInput

Formula = Callable[[Sequence[Any], Any], int]  # (arguments, output) -> MACs


@dataclass(frozen=True)
class MacCount:
    """The multiply-accumulates of one forward pass.

    Attributes:
        total: of the whole network.
        by_layer: module path -> its own, largest first. What multiplies two activations, such as
            attention, counts for the module that was running; "" is the network itself.
    """

    total: int
    by_layer: Mapping[str, int]


def count_macs(network: nn.Module, inputs: Sequence[ModelInput], batch: int = 1) -> MacCount:
    """Return the multiply-accumulates of a network in evaluation mode.

    Args:
        network: any module that takes ``inputs``; its mode and weights stay as they are.
        inputs: of one sample.
        batch: how many samples.
    """
    meter = _MacMeter(network)
    with torch.random.fork_rng(devices=[]), meter.following_modules():
        run_once(network, example_tensors(inputs, batch), meter)
    ordered = sorted(meter.by_layer.items(), key=lambda item: (-item[1], item[0]))
    return MacCount(sum(meter.by_layer.values()), dict(ordered))


def example_tensors(inputs: Sequence[ModelInput], batch: int) -> tuple[torch.Tensor, ...]:
    """Return one tensor per input: noise, and index 0 for tokens, which every table has."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(batch, *one.shape, generator=generator)
        if one.dtype == "float32"
        else torch.zeros(batch, *one.shape, dtype=torch.int64)
        for one in inputs
    )


def run_once(
    network: nn.Module, tensors: Sequence[torch.Tensor], watched_by: TorchDispatchMode
) -> object:
    """Run a network in evaluation mode under a dispatch mode, and return its outputs.

    Fused kernels that would hide several layers in one operator are switched off.
    """
    modes = {module: module.training for module in network.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        network.eval()
        with torch.no_grad(), watched_by:
            return network(*tensors)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes.items():
            module.training = training


class _MacMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below autograd, where composite ones have been taken apart."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_layer: dict[str, int] = {}
        self._network = network
        self._running = [""]
        # A weight reaches an operator transposed, split or viewed: the storage says whose it is.
        self._owners = {
            _address(parameter): name.rpartition(".")[0]
            for name, parameter in network.named_parameters()
            if parameter.numel()
        }

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Know which module is running, until the end of the block."""
        handles = []
        for name, module in self._network.named_modules():
            handles += [
                module.register_forward_pre_hook(partial(self._enter, name)),
                module.register_forward_hook(self._leave, always_call=True),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, _module: nn.Module, _arguments: object) -> None:
        self._running.append(name)

    def _leave(self, _module: nn.Module, _arguments: object, _output: object) -> None:
        self._running.pop()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            layer = self._layer(args)
            self.by_layer[layer] = self.by_layer.get(layer, 0) + formula(args, output)
        return output

    def _layer(self, arguments: Sequence[Any]) -> str:
        tensors = (one for one in arguments if isinstance(one, torch.Tensor))
        owners = (self._owners.get(_address(tensor)) for tensor in tensors)
        return next((owner for owner in owners if owner is not None), self._running[-1])


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _convolution(arguments: Sequence[Any], output: torch.Tensor) -> int:
    x, weight, transposed = arguments[0], arguments[1], arguments[6]
    # Each pixel of the output is read through a filter; a transposed one writes each of the input.
    pixels = x if transposed else output
    return int(pixels.numel() * prod(weight.shape[1:]))


def _product(first: int, second: int, arguments: Sequence[Any], _output: Any) -> int:
    """Rows by columns: (..., n, k) times (..., k, m), or a vector (k)."""
    left, right = arguments[first], arguments[second]
    columns = right.shape[-1] if right.dim() > 1 else 1
    return int(left.numel() * columns)


def _attention(arguments: Sequence[Any], _output: Any) -> int:
    """Scores, then their product with the values; query (B, heads, Tq, D), value (B, ., Tk, Dv)."""
    query, key, value = arguments[:3]
    rows = prod(query.shape[:-1])
    return int(rows * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _recurrent(arguments: Sequence[Any], _output: Any) -> int:
    """One layer and direction: x (T, B, in), weights (gates * H, in) and (gates * H, H)."""
    x, from_input, from_hidden = arguments[:3]
    return int(prod(x.shape[:2]) * (from_input.numel() + from_hidden.numel()))


def _bilinear(arguments: Sequence[Any], _output: Any) -> int:
    """Through the weight, then with the other: x (B, I), weight (O, I, J), y (B, J)."""
    x, weight = arguments[:2]
    out, left, right = weight.shape
    return int(x.shape[0] * (out * left * right + out * right))


_ATEN = torch.ops.aten
_FORMULAS: dict[Any, Formula] = {
    _ATEN.convolution: _convolution,
    _ATEN.mm: partial(_product, 0, 1),
    _ATEN.bmm: partial(_product, 0, 1),
    _ATEN.mv: partial(_product, 0, 1),
    _ATEN.dot: partial(_product, 0, 1),
    _ATEN.addmm: partial(_product, 1, 2),
    _ATEN.addmv: partial(_product, 1, 2),
    _ATEN.baddbmm: partial(_product, 1, 2),
    _ATEN.addbmm: partial(_product, 1, 2),
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._trilinear: _bilinear,
    # The fused LSTM of CPUs; other recurrent layers arrive as the products that they are made of.
    _ATEN.mkldnn_rnn_layer: _recurrent,
}
