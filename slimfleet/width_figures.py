"""What each width of a model costs: parameters, MACs, file, memory. Imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.predicted_size import predict_onnx_bytes
from profiler.prediction import TRAINING_BASELINE, predict_inference_memory, predict_memory
from slimfleet.inspection import WidthFigures
from slimmable.evaluation import check_network
from slimmable.macs import MacCount, count_macs
from slimmable.memory import live_activations, training_activations
from slimmable.model import ModelError, SlimmableModel

if TYPE_CHECKING:
    from torch import nn

TRAINING_BATCH = 32


@dataclass(frozen=True)
class _Probe:
    """What running one width showed."""

    macs: MacCount
    tensor_bytes: int
    file_bytes: int
    saved_bytes: int
    live_bytes: int


def width_figures(
    model: SlimmableModel, widths: Sequence[float]
) -> tuple[tuple[WidthFigures, ...], tuple[MacCount, ...]]:
    """Build and run each width once, and return its figures and its MACs by layer.

    Args:
        model: any.
        widths: ascending, the last one 1.0.

    Raises:
        ModelError: network and spec differ, or the network fails on inputs of its shape.
    """
    probes = [_probe(model, width) for width in widths]
    full = model.spec.parameter_count(1.0)
    full_macs = probes[-1].macs.total
    figures = tuple(
        WidthFigures(
            width=width,
            parameters=(count := model.spec.parameter_count(width)),
            parameter_share=count / full if full else 1.0,
            macs=probe.macs.total,
            mac_share=probe.macs.total / full_macs if full_macs else 1.0,
            file_bytes=probe.file_bytes,
            training_bytes=predict_memory(TRAINING_BASELINE, probe.tensor_bytes, probe.saved_bytes),
            inference_bytes=predict_inference_memory(probe.file_bytes, probe.live_bytes),
        )
        for width, probe in zip(widths, probes, strict=True)
    )
    return figures, tuple(probe.macs for probe in probes)


def _probe(model: SlimmableModel, width: float) -> _Probe:
    network = model.build(width)
    check_network(network, model, width)
    try:
        return _Probe(
            macs=count_macs(network, model.inputs),
            tensor_bytes=_bytes_of(network),
            file_bytes=predict_onnx_bytes(network, model.inputs),
            live_bytes=live_activations(network, model.inputs),
            saved_bytes=training_activations(network, model.inputs, TRAINING_BATCH),
        )
    except Exception as error:  # somebody else's network may raise anything
        raise ModelError(
            f"model {model.name!r} at width {width:g} fails on inputs of"
            f" {', '.join(str(one.shape) for one in model.inputs)}:"
            f" {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _bytes_of(network: "nn.Module") -> int:
    return sum(tensor.nbytes for tensor in network.parameters())
