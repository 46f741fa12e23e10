"""A torch device that computes what the CPU does, and is as strict as a GPU about who is where.

Each of its tensors holds one of the CPU. Like CUDA's they cannot be read by numpy, and no operation
takes them together with the CPU's, except for copies and for numbers (tensors without dimensions).
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from slimmable import torch_device

CPU = torch.device("cpu")
STAND_IN = torch.device("lazy")  # a name that torch knows and no build of it computes on
COPIES = {"_to_copy", "copy_"}
NETWORKS = {"addmm", "mm", "convolution", "native_batch_norm", "convolution_backward"}


class WrongDeviceError(RuntimeError):
    """An operation that fails on a GPU, or that was meant for it and ran on the CPU."""


class _There(torch.Tensor):
    """A tensor of the stand-in."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=STAND_IN
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise WrongDeviceError(f"{operation} outside the block of the stand-in")


class _Rules(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.computed = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation._schema.name.removeprefix("aten::")
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        there = [one for one in given if isinstance(one, _There)]
        asked = kwargs.get("device")
        if not there and asked != STAND_IN:
            if name in NETWORKS:
                raise WrongDeviceError(f"{name} ran on the CPU")
            return operation(*args, **kwargs)
        if there and name not in COPIES and any(one.dim() for one in _others(given)):
            raise WrongDeviceError(f"{name} takes tensors of both devices")
        if asked is not None:
            kwargs = {**kwargs, "device": CPU}
        found = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
        if asked == CPU:
            return found
        self.computed.add(name)
        # What an operation changes in place comes back as the very tensor that it was given.
        same = {id(one.held): one for one in there}
        return tree_map(lambda one: _wrapped(one, same), found)


def _others(given):
    return [one for one in given if not isinstance(one, _There)]


def _held(value):
    return value.held if isinstance(value, _There) else value


def _wrapped(value, same):
    if not isinstance(value, torch.Tensor):
        return value
    return same[id(value)] if id(value) in same else _There(value)


@contextmanager
def stand_in_gpu(monkeypatch):
    """Let this thread compute on the stand-in; what is yielded names what was computed there."""
    with monkeypatch.context() as patch, _Rules() as rules:
        patch.setattr(torch_device, "_chosen", STAND_IN)
        yield rules.computed
