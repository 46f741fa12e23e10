"""A slimmable model: a network that can be built at any width, its width spec and its task.

Importing this module does not import torch; building a network does. A model is code, so it is
installed on server and devices; over the network go only its name and its options.
"""

import copy
import importlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimmable.spec import WidthSpec
from slimmable.task import Task

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINT_GROUP = "slimfleet.models"
BUILT_IN = {
    "mlp": "slimmable.models.mlp:mlp",
    "cnn1d": "slimmable.models.cnn1d:cnn1d",
    "cnn2d": "slimmable.models.cnn2d:cnn2d",
    "resnet18": "slimmable.models.resnet18:resnet18",
}


class ModelError(ValueError):
    """A model cannot be loaded. Check its name, its options and that its package is installed."""


INPUT_TYPES = ("float32", "int64")


@dataclass(frozen=True)
class ModelInput:
    """One input of a network.

    Attributes:
        shape: of one sample, without the batch dimension.
        dtype: "float32", or "int64" for tokens and other indices.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse what no tensor can be.

        Raises:
            ModelError: a length below 1, or another type.
        """
        if self.dtype not in INPUT_TYPES or any(length < 1 for length in self.shape):
            raise ModelError(
                f"input of shape {self.shape} and type {self.dtype!r}: lengths must be at least 1,"
                f" the type one of {INPUT_TYPES}"
            )


@dataclass(frozen=True)
class SlimmableModel:
    """One set of weights, many widths.

    Attributes:
        name: model id, part of every task, update and release.
        spec: how each tensor of the state dict scales.
        task: what the outputs mean.
        input_shape: of one sample, without the batch dimension.
        build: returns a fresh network of a width; its state dict has the shapes that the spec
            gives for that width. `slimmable.model_check.check_model` checks that.
        input_dtype: of the first input, see `ModelInput`.
        other_inputs: what the network takes besides. A fleet trains networks with one float32
            input; inspecting and exporting take any.
    """

    name: str
    spec: WidthSpec
    task: Task
    input_shape: tuple[int, ...]
    build: "Callable[[float], nn.Module]"
    input_dtype: str = "float32"
    other_inputs: tuple[ModelInput, ...] = ()

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """All inputs, in the order in which the network takes them."""
        return (ModelInput(self.input_shape, self.input_dtype), *self.other_inputs)


def load_model(name: str, options: Mapping[str, Any] | None = None) -> SlimmableModel:
    """Return the model called ``name``: built in, an entry point, or ``package.module:function``.

    Args:
        name: for example "cnn1d", or "plant.models:pump" for a function that returns a
            `SlimmableModel`. A built-in name always means the built-in model.
        options: keyword arguments of that function.

    Raises:
        ModelError: nothing of that name is installed, or it refused the options.
    """
    model = call_factory(find_factory(name), name, options)
    if not isinstance(model, SlimmableModel):
        raise ModelError(
            f"model {name!r} returned {type(model).__name__}, not a SlimmableModel; for a plain"
            " network return slimmable.from_module.slimmable_from_module(...)"
        )
    return model


def call_factory(
    factory: Callable[..., object], name: str, options: Mapping[str, Any] | None = None
) -> object:
    """Return what the function behind ``name`` makes of its options.

    Raises:
        ModelError: it refused them, or failed.
    """
    given = dict(options or {})
    try:
        return factory(**given)
    except ModelError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"model {name!r} refused its options {given}: {error}") from error
    except Exception as error:  # somebody else's function may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ModelError(
            f"model {name!r} failed at {Path(frame.filename).name}:{frame.lineno}:"
            f" {type(error).__name__}: {error}"
        ) from error


def find_factory(name: str) -> Callable[..., object]:
    """Return the function behind a model's name; see `load_model` for names.

    Raises:
        ModelError: nothing of that name is installed, or it cannot be imported.
    """
    path = BUILT_IN.get(name, name)
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    module, colon, function = path.partition(":")
    if not colon and name not in installed:
        raise ModelError(
            f"no model {name!r}: use one of {sorted(BUILT_IN)}, an entry point of"
            f" {ENTRY_POINT_GROUP!r}, or package.module:function"
        )
    try:
        if colon:
            factory = getattr(importlib.import_module(module), function)
        else:
            factory = installed[name].load()
    except Exception as error:  # somebody else's module may raise anything while it is imported
        hint = "; install slimfleet[train]" if _lacks_torch(error) else ""
        raise ModelError(
            f"model {name!r} cannot be loaded: {type(error).__name__}: {error}{hint}"
        ) from error
    if not callable(factory):
        raise ModelError(f"model {name!r} is a {type(factory).__name__}, a function is needed")
    return factory  # type: ignore[no-any-return]


def tied_parameters(module: "nn.Module") -> list[str]:
    """Return the names of parameters that are another one under a second name."""
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return sorted(names - {name for name, _ in module.named_parameters()})


def _lacks_torch(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == "torch"


def build_by_slicing(module: "nn.Module", spec: WidthSpec) -> "Callable[[float], nn.Module]":
    """Return a ``build`` for a module whose forward reads all sizes from its tensors.

    Linear, convolution with groups 1 and batch norm do; grouped convolution, group norm, recurrent
    layers and hard-coded view sizes do not: supply a function that builds those natively. Every
    network starts from the weights of ``module``, so the seed of a campaign does not change them.

    Args:
        module: the full-width network; it is not changed.
        spec: of its state dict.

    Raises:
        ModelError: the module lacks a tensor that the spec names, or has tied parameters.
    """
    absent = sorted(set(spec.tensors) - set(module.state_dict()))
    if absent:
        raise ModelError(f"the module has no tensor {absent[0]!r}, which the width spec names")
    tied = tied_parameters(module)
    if tied:
        raise ModelError(f"{tied[0]!r} shares its values with another parameter; give each its own")

    def build(width: float) -> "nn.Module":
        from torch import from_numpy, nn

        network = copy.deepcopy(module)
        for name in spec.tensors:
            path, _, leaf = name.rpartition(".")
            owner = network.get_submodule(path)
            tensor = getattr(owner, leaf)
            kept = tensor.detach()
            for dim, indices in enumerate(spec.indices(name, width)):
                kept = kept.index_select(dim, from_numpy(indices))
            if isinstance(tensor, nn.Parameter):
                setattr(owner, leaf, nn.Parameter(kept))
            else:
                owner.register_buffer(leaf, kept)
        return network

    return build
