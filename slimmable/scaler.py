"""HeteroFL's scaler: what a narrow slice's layers give is kept at the size of the full network's.

A layer of a slice sums over fewer inputs, so what it gives is smaller. After each layer with
parameters whose outputs scale with the width, HeteroFL (Diao et al., ICLR 2021, section 3,
"Scaler") divides by the width while it trains, and by nothing afterwards: at full width nothing
changes.

Layers are found in the calls, not in the modules: every `linear`, convolution or transposed
convolution whose weight is a tensor of the state, and whose output dimension the width spec scales.
So it works for networks of modules and for derived ones, which have none. Recurrent layers, fused
attention, embeddings and weights that the network first computes something of are left as they are.

Where a batch, layer or group norm follows, the division changes nothing but the weight of the
norm's epsilon: a norm takes out what a factor brings in. Imports torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from slimmable.spec import WidthSpec

# Operator -> the dimension of its weight that its outputs have.
LAYERS = {
    "linear": 0,
    **{f"conv{dims}d": 0 for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": 1 for dims in (1, 2, 3)},
    "conv_transpose2d_input": 1,
    "conv_transpose3d_input": 1,
}


class Scaler(TorchFunctionMode):
    """Divides what layers give while it is entered."""

    def __init__(self, spec: WidthSpec, width: float, tensors: Mapping[str, torch.Tensor]) -> None:
        """Prepare for one pass.

        Args:
            spec: of the model.
            width: of the slice.
            tensors: name -> the very tensors that the network is called with.
        """
        super().__init__()
        self._width = width
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._spec = spec

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call an operator, and divide what it gives where it is such a layer."""
        given = dict(kwargs or {})
        found = func(*args, **given)
        # "linear" of torch.nn.functional, "conv2d.default" and "conv2d.padding" of a derived graph.
        dim = LAYERS.get(getattr(func, "__name__", "").partition(".")[0])
        if dim is None:
            return found
        weight = args[1] if len(args) > 1 else given.get("weight")
        return found / self._width if self._scales(weight, dim) else found

    def _scales(self, weight: Any, dim: int) -> bool:
        name = self._names.get(id(weight))
        if name is None:
            return False
        term = self._spec.dims(name)[dim]
        return self._spec.length(term, self._width) < self._spec.length(term, 1.0)
