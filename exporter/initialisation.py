"""Build a network whose weights are about to be replaced. Imports torch.

Drawing eleven million random numbers takes longer than reading them from a file.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_FILLING = frozenset(
    {
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        torch.nn.init.kaiming_normal_,
        torch.nn.init.kaiming_uniform_,
        torch.nn.init.normal_,
        torch.nn.init.uniform_,
    }
)


class WithoutInitialValues(TorchFunctionMode):
    """Inside, parameters are left as memory happens to be instead of being filled with chance.

    For a network whose every parameter is set afterwards. Other tensors get their values: a buffer
    that is no part of the state dict is set by nobody else.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Skip what fills a parameter with random numbers; call everything else."""
        given = kwargs or {}
        if function in _FILLING:
            filled = args[0] if args else given.get("tensor")
            if isinstance(filled, nn.Parameter):
                return filled
        return function(*args, **given)
