"""Does the ONNX file compute what torch computes? Imports torch and onnxruntime.

A release that fails this is not a release.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnxruntime
import torch
from torch import nn

from exporter.errors import ParityError
from exporter.sessions import REFUSED, first_line, open_session
from exporter.tracing import INPUT_NAME, tensor_name
from slimmable.model import ModelInput, SlimmableModel
from slimmable.state import Array
from slimmable.task import TaskKind

TOLERANCE = 1e-4  # correct exports differ by less than 2e-6
TIE = 1e-6  # classes this close may swap places by rounding alone
# Two sizes, so that a baked-in batch size is noticed, and neither the one that was traced.
BATCHES = (1, 3)
TORCH = "torch"
UNTOUCHED = "the graph as traced"


def check_parity(
    onnx: bytes,
    network: nn.Module,
    model: SlimmableModel,
    tolerance: float = TOLERANCE,
    untouched: onnxruntime.InferenceSession | None = None,
) -> float:
    """Compare the file with torch on random inputs, at two batch sizes, output by output.

    Args:
        onnx: the file.
        network: the same sub-model in torch, in evaluation mode.
        model: says what the inputs are and what outputs mean.
        tolerance: on the difference, relative to the largest value of an output where that is above
            1.
        untouched: the same weights in the graph as it was traced; the file must agree with it too.

    Returns:
        The largest difference to torch.

    Raises:
        ParityError: they differ by more than ``tolerance``, choose other classes, or are not
            finite.
    """
    session = open_session(onnx)
    inputs = {tensor_name(INPUT_NAME, place): one for place, one in enumerate(model.inputs)}
    rng = np.random.default_rng(0)
    worst = 0.0
    for batch in BATCHES:
        feed = random_feed(inputs, batch, rng)
        found = _run(session, feed, batch)
        expected = network_results(network, feed)
        worst = max(worst, _difference(expected, found, model, tolerance, TORCH))
        if untouched is not None:
            traced = _run(untouched, feed, batch)
            _difference(traced, found, model, tolerance, UNTOUCHED)
    return worst


def random_feed(
    inputs: Mapping[str, ModelInput], batch: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Return noise for each input, by its name.

    Whole numbers are 0 or 1: valid in any embedding that is worth its name.
    """
    return {name: _random(one, batch, rng) for name, one in inputs.items()}


def network_results(network: nn.Module, feed: Mapping[str, Array]) -> list[Array]:
    """Return every output of a network in torch, in the order of the file's outputs.

    Raises:
        ParityError: the network returns something else than tensors.
    """
    with torch.no_grad():
        returned = network(*(torch.from_numpy(array) for array in feed.values()))
    return [tensor.numpy() for tensor in _tensors(returned)]


def _random(one: ModelInput, batch: int, rng: np.random.Generator) -> Array:
    shape = (batch, *one.shape)
    if one.dtype == "int64":
        return rng.integers(0, 2, shape)
    return rng.standard_normal(shape).astype(one.dtype)


def _tensors(returned: object) -> Iterator[torch.Tensor]:
    if isinstance(returned, torch.Tensor):
        yield returned
    elif isinstance(returned, list | tuple):
        for part in returned:
            yield from _tensors(part)
    else:
        raise ParityError(
            f"the network returns {type(returned).__name__}; return one or several tensors"
        )


def _run(
    session: onnxruntime.InferenceSession, feed: Mapping[str, Array], batch: int
) -> list[Array]:
    wanted = {one.name for one in session.get_inputs()}
    try:
        return list(session.run(None, {name: x for name, x in feed.items() if name in wanted}))
    except (*REFUSED, ValueError) as error:  # ValueError: an input is lacking
        raise ParityError(
            f"the file does not run with a batch of {batch}: {first_line(error)}"
        ) from error


def _difference(
    expected: Sequence[Array],
    found: Sequence[Array],
    model: SlimmableModel,
    tolerance: float,
    other: str,
) -> float:
    if len(expected) != len(found):
        raise ParityError(
            f"model {model.name!r}: the file gives {len(found)} outputs, {other} {len(expected)}"
        )
    worst = 0.0
    for position, (one, its) in enumerate(zip(expected, found, strict=True)):
        where = f"model {model.name!r}, batch of {len(one)}"
        if len(expected) > 1:
            where += f", output {position}"
        worst = max(worst, _output_difference(one, its, where, tolerance, other))
    if model.task.kind is TaskKind.CLASSIFICATION and len(expected) == 1:
        _check_classes(expected[0], found[0], model, other)
    return worst


def _output_difference(
    expected: Array, found: Array, where: str, tolerance: float, other: str
) -> float:
    if expected.shape != found.shape:
        raise ParityError(f"{where}: shape {found.shape}, {other} gives {expected.shape}")
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        raise ParityError(f"{where}: outputs hold NaN or infinity; do not release these weights")
    worst = _scaled(expected, found)
    if worst > tolerance:
        raise ParityError(
            f"{where}: ONNX Runtime and {other} differ by {worst:.2g}, allowed are"
            f" {tolerance:.2g}; do not release this file"
        )
    return worst


def _scaled(expected: Array, found: Array) -> float:
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    difference = expected.astype(np.float64) - found.astype(np.float64)
    return float(np.abs(difference).max(initial=0.0)) / scale


def _check_classes(expected: Array, found: Array, model: SlimmableModel, other: str) -> None:
    chosen = np.take_along_axis(expected, found.argmax(axis=1, keepdims=True), axis=1)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    lead = float((expected.max(axis=1, keepdims=True) - chosen).max()) / scale
    if lead > TIE:
        raise ParityError(
            f"model {model.name!r}, batch of {len(expected)}: ONNX Runtime chooses another class"
            f" than {other}, {lead:.2g} behind; do not release this file"
        )
