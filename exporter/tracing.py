"""Trace the network of one width into an ONNX graph without its weights. Imports torch.

The graph is kept *as traced*: an optimised one has folded and transposed its weights, which then
cannot be replaced by name. Beside it stands a second one that is optimised as far as that is
possible without knowing the weights; the first is what the second must agree with.
"""

import logging
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import numpy as np
import onnx
import onnx_ir
import torch
from torch import nn

from exporter.errors import TemplateError
from exporter.passes import prepare, strip_provenance
from slimmable.derivation.tracing import free_batches
from slimmable.model import SlimmableModel

# The lowest opset that torch's exporter writes itself: ONNX Runtime reads it from 1.14 on.
OPSET = 18
INPUT_NAME = "input"
OUTPUT_NAME = "output"
TRACED_BATCH = 2  # a batch of 1 would be taken for a constant


@dataclass(frozen=True)
class Template:
    """The graph of one width, its state tensors with name, type and shape but without values.

    Attributes:
        graph: ONNX model as traced; the state tensors are marked as stored elsewhere.
        prepared: the same, optimised as far as it can be before the weights are known.
        used: names of the state tensors that the network reads at inference. Taken from the traced
            program, not from the ONNX graph, so that one can be checked against the other.
        constants: names of tensors that are part of the network but not of its state.
        traced_now: False where it came from the disk and may stem from an older network.
    """

    graph: bytes
    prepared: bytes
    used: frozenset[str]
    constants: frozenset[str]
    traced_now: bool


def tensor_name(stem: str, position: int) -> str:
    """Return the name of an input or output: ``input``, ``input_1``, ``input_2``."""
    return f"{stem}_{position}" if position else stem


def trace_template(model: SlimmableModel, width: float) -> Template:
    """Trace the network of ``width`` and return its template.

    Raises:
        TemplateError: the network and its spec disagree, or the network cannot be traced.
    """
    network = model.build(width).eval()
    _fill_with_distinct_values(network, model, width)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                network,
                sample_inputs(model, TRACED_BATCH),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes=free_batches(network, len(model.inputs)),
            )
    except torch.onnx.OnnxExporterError as error:
        raise TemplateError(
            f"model {model.name!r} at width {width} cannot be traced: {_reason(error)}"
        ) from error
    if program is None or program.exported_program is None:
        raise TemplateError(f"model {model.name!r} at width {width} gives no program when traced")
    traced, graph = program.exported_program, program.model
    _name_ends(graph, model)
    _merge_tied(graph, model.spec.aliases)
    strip_provenance(graph)
    used = _used(graph, traced, model)
    return template_of(graph, frozenset(model.spec.tensors), used, frozenset(traced.constants))


def template_of(
    graph: onnx_ir.Model, state: frozenset[str], used: frozenset[str], constants: frozenset[str]
) -> Template:
    """Return the template of a graph as traced, which is changed on the way.

    Args:
        graph: with or without values in its state tensors.
        state: names of the tensors of the state dict.
        used: as in `Template`.
        constants: as in `Template`.
    """
    proto = _without_values(graph, state)
    prepare(graph, state)
    return Template(
        graph=proto,
        prepared=_without_values(graph, state),
        used=used,
        constants=constants,
        traced_now=True,
    )


def sample_inputs(model: SlimmableModel, batch: int) -> tuple[torch.Tensor, ...]:
    """Return inputs of zeros, which are valid indices too."""
    return tuple(
        torch.zeros((batch, *one.shape), dtype=getattr(torch, one.dtype)) for one in model.inputs
    )


def _name_ends(graph: onnx_ir.Model, model: SlimmableModel) -> None:
    """Give inputs and outputs our names.

    Raises:
        TemplateError: the network takes or returns something else than tensors.
    """
    ends = graph.graph
    if len(ends.inputs) != len(model.inputs) or not ends.outputs:
        raise TemplateError(
            f"model {model.name!r} takes {len(ends.inputs)} tensors and returns"
            f" {len(ends.outputs)}; declare each input, return one or more tensors"
        )
    if len(set(ends.outputs)) != len(ends.outputs) or set(ends.outputs) & set(ends.inputs):
        raise TemplateError(
            f"model {model.name!r} returns a tensor twice, or one of its inputs; return each once"
        )
    ours = {
        value: tensor_name(stem, position)
        for stem, values in ((INPUT_NAME, ends.inputs), (OUTPUT_NAME, ends.outputs))
        for position, value in enumerate(values)
    }
    taken = set(ends.initializers) & set(ours.values())
    if taken:
        raise TemplateError(
            f"model {model.name!r} has tensors called {sorted(taken)}, as inputs and outputs of an"
            " ONNX file are; give them other names"
        )
    _make_way(graph, {*ends.initializers, *ours.values()})
    for value, name in ours.items():
        value.name = name


def _make_way(graph: onnx_ir.Model, names: Collection[str]) -> None:
    """Rename results of nodes that have one of these names.

    The exporter may call the mean of something ``mean``, though a buffer is called so.
    """
    results = [value for node in graph.graph for value in node.outputs]
    free = {str(value.name) for value in results}.union(names)
    for value in results:
        if value.name in names:
            number = next(n for n in count(1) if f"{value.name}_{n}" not in free)
            value.name = f"{value.name}_{number}"
            free.add(value.name)


def _merge_tied(graph: onnx_ir.Model, aliases: Mapping[str, str]) -> None:
    """Leave each tied tensor once, under the name that the width spec has for it."""
    held = graph.graph.initializers
    for alias, name in aliases.items():
        second = held.pop(alias, None)
        if second is None:
            continue
        if name in held:
            second.replace_all_uses_with(held[name])
        else:
            second.name = name
            held[name] = second


def _fill_with_distinct_values(network: nn.Module, model: SlimmableModel, width: float) -> None:
    """Make all tensors of the network unlike each other.

    Fresh batch norms hold equal ones and zeros; an exporter that merges equal tensors would then
    leave fewer names than there are tensors. Values stay positive, as variances must.
    """
    rng = np.random.default_rng(0)
    found = network.state_dict()
    for name in sorted(model.spec.tensors):
        try:
            tensor = found[name]
        except KeyError:
            raise TemplateError(
                f"model {model.name!r}: its spec names {name!r}, its network has no such tensor;"
                " correct the spec"
            ) from None
        expected = model.spec.shape(name, width)
        if tuple(tensor.shape) != expected:
            raise TemplateError(
                f"model {model.name!r}: {name!r} has shape {tuple(tensor.shape)} in the network of"
                f" width {width}, its spec says {expected}; correct the spec or the build function"
            )
        if tensor.is_floating_point():
            # The tensors of a state dict share memory with the network.
            tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape)))


def _used(
    graph: onnx_ir.Model, traced: torch.export.ExportedProgram, model: SlimmableModel
) -> frozenset[str]:
    """Return the state tensors that the network reads, all of which the graph must hold.

    Raises:
        TemplateError: the graph computes without one of them.
    """
    signature = traced.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    read = (
        names[node.name]
        for node in traced.graph.nodes
        if node.op == "placeholder" and node.users and node.name in names
    )
    aliases = model.spec.aliases
    used = frozenset(aliases.get(name, name) for name in read) & frozenset(model.spec.tensors)
    lost = sorted(used - set(graph.graph.initializers))
    if lost:
        raise TemplateError(
            f"model {model.name!r}: the network reads {lost[:3]}, its ONNX graph does not; torch's"
            " exporter ignores a part of some operator there, compute it from others"
        )
    return used


def _without_values(graph: onnx_ir.Model, state: frozenset[str]) -> bytes:
    """Return the graph with empty state tensors, so that none can stay in by mistake."""
    proto = onnx_ir.to_proto(graph)
    for tensor in proto.graph.initializer:
        if tensor.name in state:
            tensor.ClearField("raw_data")
            # Only so does ONNX Runtime take its values from the caller.
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value="state")
    return bytes(proto.SerializeToString(deterministic=True))


def _reason(error: Exception) -> str:
    """Return the exporter's complaint in one line, with the line of the model it is about."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    place = re.search(r'File "([^"]+)", line (\d+), in forward\n\s*(.+)', str(cause))
    where = f" ({place[1]}:{place[2]}: {place[3].strip()})" if place else ""
    unknown = re.search(r"translating node .*?target=torch\.ops\.([\w.]+)\]", str(cause))
    if unknown:
        return f"the operator {unknown[1]} has no ONNX form; compute it from others{where}"
    return f"{lines[0] if lines else type(cause).__name__}{where}"


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what torch's exporter says: nothing a user can act on, the result is checked."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # one line per operator of the absent torchvision
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        registration.setLevel(level)
