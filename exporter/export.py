"""Export the sub-model of one width: template, weights, passes, parity. Imports torch."""

import json
import logging
from collections.abc import Mapping

import numpy as np
import onnx_ir
from torch import nn

from exporter.errors import InjectionError, ParityError
from exporter.injection import inject
from exporter.manifest import ExportedModel
from exporter.parity import check_parity
from exporter.passes import IR_VERSION, optimise, stamp, strip_provenance
from exporter.templates import INPUT_NAME, OPSET, OUTPUT_NAME, Template, TemplateCache
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
) -> ExportedModel:
    """Return the ONNX file of one width, checked against torch.

    The same model, width, state, round and scale give the same bytes, also after a restart.

    Args:
        model: the model.
        width: which sub-model.
        state: state dict cut at ``width``, with the statistics calibrated for it.
        cache: where templates are kept.
        round: of the weights; written into the file.
        scale: expected input preprocessing in one line for people; written into the file.

    Raises:
        SpecError: the state is not one of this model at this width.
        TemplateError: the network cannot be traced.
        InjectionError: state and graph do not belong together.
        ParityError: the file does not compute what torch computes.
    """
    check_state(state, model.spec, width)
    _check_finite(state, model)
    network = load_network(model, width, state)
    facts = _facts(model, width, round, scale)
    template = cache.get(model, width, network)
    try:
        onnx, parity = _assemble(template, state, facts, network, model)
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
        onnx, parity = _assemble(cache.renew(model, width), state, facts, network, model)
    return ExportedModel(
        onnx=onnx,
        width=width,
        round=round,
        scale=scale,
        parity=parity,
        opset=OPSET,
        ir_version=IR_VERSION,
        input_name=INPUT_NAME,
        output_name=OUTPUT_NAME,
    )


def _facts(model: SlimmableModel, width: float, number: int, scale: str) -> dict[str, str]:
    return {
        "slimfleet.model": model.name,
        "slimfleet.width": repr(float(width)),
        "slimfleet.spec_hash": model.spec.spec_hash,
        "slimfleet.round": str(number),
        "slimfleet.task": model.task.kind.value,
        "slimfleet.classes": json.dumps(list(model.task.classes), ensure_ascii=False),
        "slimfleet.scale": scale,
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
) -> tuple[bytes, float]:
    graph = inject(template, state)
    optimise(graph)
    strip_provenance(graph)
    stamp(graph, facts)
    onnx = bytes(onnx_ir.to_proto(graph).SerializeToString(deterministic=True))
    return onnx, check_parity(onnx, network, model)
