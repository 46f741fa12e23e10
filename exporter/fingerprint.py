"""A hash of what shapes the graph of a network, its weights left out. Imports torch."""

import hashlib
import inspect
from functools import lru_cache

import torch
from torch import nn
from torch.fx import GraphModule

from slimmable.model import SlimmableModel


def network_fingerprint(model: SlimmableModel, network: nn.Module) -> str:
    """Return a hash of everything that shapes the graph of a network, its weights left out.

    Two models may share a width spec and differ in padding, activation or input length, so the
    layers, the plain attributes, the source of the model's own classes and all tensors that are no
    part of the state enter too.
    """
    parts: list[str] = [model.name, repr(model.inputs), repr(network)]
    for name, module in network.named_modules():
        parts.extend(_constants(name, module, model))
        if isinstance(module, GraphModule):
            parts.append(f"{name} {module.code}")
            continue
        owner: type = type(module)
        if owner.__module__.split(".")[0] == "torch":
            continue
        plain = {
            key: value
            for key, value in sorted(vars(module).items())
            if _is_plain(value) and key != "training"
        }
        parts.append(f"{name} {owner.__module__}.{owner.__qualname__} {plain} {_source(owner)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _constants(path: str, module: nn.Module, model: SlimmableModel) -> list[str]:
    """Describe the tensors of one module that belong to the network and not to its state."""
    prefix = f"{path}." if path else ""
    held = {
        key: value
        for key, value in (*module.named_buffers(recurse=False), *vars(module).items())
        if isinstance(value, torch.Tensor) and prefix + key not in model.spec.tensors
    }
    return [f"{prefix}{key} {_digest(held[key])}" for key in sorted(held)]


def _digest(tensor: torch.Tensor) -> str:
    values = tensor.detach().contiguous()
    content = hashlib.sha256(values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    return f"{values.dtype} {tuple(values.shape)} {content}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)


@lru_cache(maxsize=256)  # reading a class's source means parsing its file
def _source(owner: type[object]) -> str:
    try:
        return inspect.getsource(owner)
    except (OSError, TypeError):  # typed at a prompt, or made by a decorator
        return ""
