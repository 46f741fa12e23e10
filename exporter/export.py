"""Export the sub-model of one width: template, weights, passes, parity. Imports torch."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from exporter.errors import InjectionError, ParityError
from exporter.file_facts import ENCODING_KEY, FLOAT32
from exporter.initialisation import WithoutInitialValues
from exporter.injection import inject, open_untouched
from exporter.manifest import ExportedModel
from exporter.parity import check_parity
from exporter.passes import IR_VERSION, fold_weights, stamp
from exporter.serialise import to_bytes
from exporter.templates import TemplateCache
from exporter.tracing import OPSET, Template
from slimmable.evaluation import load_network
from slimmable.model import SlimmableModel
from slimmable.slicing import check_state
from slimmable.state import Array

logger = logging.getLogger(__name__)


def export_width(
    model: SlimmableModel,
    width: float,
    state: Mapping[str, Array],
    cache: TemplateCache,
    *,
    round: int = 0,  # noqa: A002 - the field's word
    scale: str = "",
    run: str = "",
    weights: str = "",
) -> ExportedModel:
    """Return the ONNX file of one width, checked against torch.

    The same arguments give the same bytes, also after a restart.

    Args:
        model: the model.
        width: which sub-model.
        state: state dict cut at ``width``, with the statistics calibrated for it.
        cache: where templates are kept.
        round: of the weights; written into the file.
        scale: expected input preprocessing in one line for people; written into the file.
        run: fleet or file that the weights come from; written into the file.
        weights: digest of the full-width weights, their version; written into the file.

    Raises:
        SpecError: the state is not one of this model at this width.
        TemplateError: the network cannot be traced.
        InjectionError: state and graph do not belong together.
        ParityError: the file does not compute what torch computes.
    """
    check_state(state, model.spec, width)
    _check_finite(state, model)
    with WithoutInitialValues():
        network = load_network(model, width, state)
    facts = {
        **_facts(model, width, round, scale),
        "slimfleet.run": run,
        "slimfleet.weights": weights,
    }
    template = cache.get(model, width, network)
    try:
        file = _assemble(template, state, facts, network, model)
    except (InjectionError, ParityError) as error:
        if template.traced_now:
            raise
        # The model's code may have changed in a way that its fingerprint does not show.
        logger.warning(
            "template of %s at width %s is out of date (%s); tracing it anew",
            model.name,
            width,
            error,
        )
        file = _assemble(cache.renew(model, width), state, facts, network, model)
    return ExportedModel(
        onnx=file.onnx,
        width=width,
        round=round,
        scale=scale,
        parity=file.parity,
        opset=OPSET,
        ir_version=IR_VERSION,
        inputs=file.inputs,
        outputs=file.outputs,
        encoding=FLOAT32,
    )


@dataclass(frozen=True)
class _File:
    onnx: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parity: float


def _facts(model: SlimmableModel, width: float, number: int, scale: str) -> dict[str, str]:
    return {
        "slimfleet.model": model.name,
        "slimfleet.width": repr(float(width)),
        "slimfleet.spec_hash": model.spec.spec_hash,
        "slimfleet.round": str(number),
        "slimfleet.task": model.task.kind.value,
        "slimfleet.classes": json.dumps(list(model.task.classes), ensure_ascii=False),
        "slimfleet.scale": scale,
        ENCODING_KEY: FLOAT32,
    }


def _check_finite(state: Mapping[str, Array], model: SlimmableModel) -> None:
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise ParityError(
                f"model {model.name!r}: tensor {name!r} holds NaN or infinity; do not release these"
                " weights"
            )


def _assemble(
    template: Template,
    state: Mapping[str, Array],
    facts: Mapping[str, str],
    network: nn.Module,
    model: SlimmableModel,
) -> _File:
    graph = inject(template, state)
    fold_weights(graph)
    stamp(graph, facts)
    onnx = to_bytes(graph)
    return _File(
        onnx=onnx,
        inputs=tuple(str(value.name) for value in graph.graph.inputs),
        outputs=tuple(str(value.name) for value in graph.graph.outputs),
        parity=check_parity(onnx, network, model, untouched=open_untouched(template, state)),
    )
