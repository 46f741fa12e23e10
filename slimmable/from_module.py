"""Any network as a slimmable model. Imports torch."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from slimmable.derivation.derive import Derivation, derive
from slimmable.derivation.errors import DerivationError
from slimmable.derivation.network import DerivedNetwork
from slimmable.derivation.scaling import ScalingSettings
from slimmable.derivation.self_check import check_derivation
from slimmable.model import ModelInput, SlimmableModel
from slimmable.task import Task


def slimmable_from_module(
    name: str,
    module: nn.Module | Callable[[], nn.Module],
    inputs: Sequence[ModelInput],
    task: Task,
    *,
    settings: ScalingSettings | None = None,
) -> SlimmableModel:
    """Return the slimmable model of any network, its width spec derived and checked.

    Networks narrower than 1.0 start from slices of the given network's weights. So does the full
    one, unless a function is given that makes the network: then it is made anew under the seed of
    whoever builds it, as a campaign does.

    Args:
        name: of the model.
        module: a network, which is not changed, or a function without arguments that makes one.
        inputs: what it takes, see `ModelInput`.
        task: what its outputs mean.
        settings: offered widths, rounding, which factor of a product scales.

    Raises:
        DerivationError: it cannot be traced, or the derived networks are not the original one.
    """
    settings = settings or ScalingSettings()
    make = None if isinstance(module, nn.Module) else module
    if not inputs:
        raise DerivationError("the network needs at least one input; give their shapes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        original = module if isinstance(module, nn.Module) else module()
        if not isinstance(original, nn.Module):
            raise DerivationError(
                f"{name!r} made a {type(original).__name__}: return a torch.nn.Module"
            )
        derivation = derive(original, inputs, settings, make)
        check_derivation(derivation, original, settings.widths)
    return SlimmableModel(
        name=name,
        spec=derivation.spec,
        task=task,
        input_shape=inputs[0].shape,
        build=_Build(derivation),
        input_dtype=inputs[0].dtype,
        other_inputs=tuple(inputs[1:]),
    )


def derivation_of(model: SlimmableModel) -> Derivation | None:
    """Return how a model's spec was derived; None for one whose spec was written by hand."""
    return model.build.derivation if isinstance(model.build, _Build) else None


class _Build:
    """Builds networks, and remembers how they were derived."""

    def __init__(self, derivation: Derivation) -> None:
        self.derivation = derivation

    def __call__(self, width: float) -> DerivedNetwork:
        return self.derivation.build(width)
