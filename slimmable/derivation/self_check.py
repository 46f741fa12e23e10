"""Check a derivation before anybody relies on it. Imports torch."""

import copy
import math

import numpy as np
import torch
from torch import nn

from slimmable.derivation.derive import Derivation
from slimmable.derivation.errors import DerivationError
from slimmable.derivation.network import DerivedNetwork
from slimmable.derivation.tracing import quiet, sample_inputs

BATCHES = (1, 3)  # neither is the traced one
TOLERANCE = 1e-5  # of the largest output


def check_derivation(derivation: Derivation, module: nn.Module, widths: tuple[float, ...]) -> None:
    """Run the derived networks and compare the full one with the original.

    Every width: the slices lie inside those of the next width, and the network runs at two batch
    sizes. Full width: with all weights drawn at random, since fresh ones hide errors, it gives what
    the original gives.

    Args:
        derivation: of ``module``.
        module: the original, which is not changed.
        widths: all that will be offered.

    Raises:
        DerivationError: something differs; the network must not be used.
    """
    generator = torch.Generator().manual_seed(0)
    values = _random_state(derivation, generator)
    with quiet(), torch.random.fork_rng(devices=[]):
        for narrow, wide in zip(widths, (*widths[1:], 1.0), strict=True):
            _check_nesting(derivation, narrow, wide)
            network = _load(derivation, values, narrow)
            for batch in BATCHES:
                samples = sample_inputs(derivation.inputs, batch, generator)
                _check_outputs(derivation, network, samples, narrow)
            if narrow == widths[0]:
                _check_training(derivation, network, generator, narrow)
        _compare(derivation, module, values, generator)


def _check_nesting(derivation: Derivation, narrow: float, wide: float) -> None:
    spec = derivation.spec
    for name in spec.tensors:
        for inner, outer in zip(spec.indices(name, narrow), spec.indices(name, wide), strict=True):
            if len(inner) == 0 or not np.isin(inner, outer).all():
                raise DerivationError(
                    f"{name!r} at width {narrow} does not lie inside width {wide}"
                )


def _random_state(derivation: Derivation, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return random values for all that is trained or estimated.

    They are of a size that keeps the outputs of a deep network finite.
    """
    values = {}
    spec = derivation.spec
    for name in sorted({*spec.parameters, *spec.statistics}):
        shape = spec.shape(name, 1.0)
        if len(shape) > 1:
            scale = math.sqrt(max(1, math.prod(shape[1:])))
            values[name] = torch.randn(shape, generator=generator) / scale
        else:
            values[name] = 0.5 + torch.rand(shape, generator=generator)
    return values


def _load(derivation: Derivation, values: dict[str, torch.Tensor], width: float) -> DerivedNetwork:
    network = derivation.build(width)
    found = network.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            cut = value
            for dim, kept in enumerate(derivation.spec.indices(name, width)):
                cut = cut.index_select(dim, torch.from_numpy(kept))
            if name not in found or found[name].shape != cut.shape:
                raise DerivationError(f"{name!r} has another shape in the network of width {width}")
            found[name].copy_(cut)
    return network.eval()


def _run(network: nn.Module, samples: tuple[torch.Tensor, ...], width: float) -> list[torch.Tensor]:
    try:
        with torch.no_grad():
            outputs = network(*samples)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise DerivationError(
            f"the derived network of width {width} fails on a batch of {len(samples[0])}: {reason}"
        ) from error
    found = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    return [output for output in found if isinstance(output, torch.Tensor)]


def _run_original(network: nn.Module, samples: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Return what the original gives; nothing where it fails on a batch of one, as some do."""
    try:
        return _run(network, samples, 1.0)
    except DerivationError:
        if len(samples[0]) == 1:
            return []
        raise


def _check_outputs(
    derivation: Derivation,
    network: nn.Module,
    samples: tuple[torch.Tensor, ...],
    width: float,
) -> None:
    shapes = [tuple(output.shape) for output in _run(network, samples, width)]
    expected = [(len(samples[0]), *shape) for shape in derivation.output_shapes]
    if shapes != expected:
        raise DerivationError(
            f"the derived network of width {width} returns shapes {shapes}, not {expected}"
        )


def _check_training(
    derivation: Derivation, network: nn.Module, generator: torch.Generator, width: float
) -> None:
    samples = sample_inputs(derivation.inputs, BATCHES[-1], generator)
    network.train()
    _check_outputs(derivation, network, samples, width)


def _compare(
    derivation: Derivation,
    module: nn.Module,
    values: dict[str, torch.Tensor],
    generator: torch.Generator,
) -> None:
    original = copy.deepcopy(module).cpu().eval()
    tensors = {**dict(original.named_parameters()), **dict(original.named_buffers())}
    derived = _load(derivation, values, 1.0)
    for name, value in derived.state_dict().items():
        if name in tensors and name in derivation.spec.tensors:
            tensors[name].data.copy_(value)
    for batch in BATCHES:
        samples = sample_inputs(derivation.inputs, batch, generator)
        expected, found = _run_original(original, samples), _run(derived, samples, 1.0)
        if [one.shape for one in expected] != [other.shape for other in found] and batch == 1:
            continue  # its code takes a batch of one for a dimension to drop
        for one, other in zip(expected, found, strict=True):
            largest = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
            if not torch.allclose(one, other, rtol=0, atol=TOLERANCE * largest, equal_nan=True):
                difference = float((one - other).abs().max())
                raise DerivationError(
                    "the derived network differs from the original by"
                    f" {difference:.2g} at full width: does its output depend on chance, or on"
                    " something that it remembers from the call before?"
                )
