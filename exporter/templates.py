"""Templates: the ONNX graph of one model at one width, without its weights. Imports torch.

Tracing a network costs about a second, putting weights into a traced graph milliseconds; so the
graph is traced once per model and width and kept on disk. A template is exported *un-optimised*:
an optimised graph has folded and transposed its weights, which then cannot be replaced by name.
"""

import hashlib
import inspect
import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from torch import nn

from exporter.errors import TemplateError
from exporter.passes import strip_provenance
from journal.disk import make_folder, write_atomically
from slimmable.model import SlimmableModel

logger = logging.getLogger(__name__)

# The lowest opset that the exporter writes itself: ONNX Runtime reads it from 1.14 on.
OPSET = 18
INPUT_NAME = "input"
OUTPUT_NAME = "output"
TRACED_BATCH = 2  # a batch of 1 would be taken for a constant
TEMPLATE_FORMAT = 1

_USED = "slimfleet.template.used"
_CONSTANTS = "slimfleet.template.constants"
_SEAL_LENGTH = 64


@dataclass(frozen=True)
class Template:
    """The graph of one width.

    Attributes:
        graph: an ONNX model whose state tensors have a name, a type and a shape but no values.
        used: names of the state tensors that the network reads at inference. Taken from the traced
            program, not from the ONNX graph, so that one can be checked against the other.
        constants: names of tensors that are part of the network but not of its state.
        traced_now: False where it came from the disk and may stem from an older network.
    """

    graph: bytes
    used: frozenset[str]
    constants: frozenset[str]
    traced_now: bool


def trace_template(model: SlimmableModel, width: float) -> Template:
    """Trace the network of ``width`` and return its template.

    Raises:
        TemplateError: the network and its spec disagree, or the network cannot be traced.
    """
    network = model.build(width).eval()
    _fill_with_distinct_values(network, model, width)
    sample = torch.zeros((TRACED_BATCH, *model.input_shape))
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                network,
                (sample,),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except torch.onnx.OnnxExporterError as error:
        raise TemplateError(
            f"model {model.name!r} at width {width} cannot be traced: {_reason(error)}"
        ) from error
    if program is None or program.exported_program is None or len(program.model.graph.outputs) != 1:
        raise TemplateError(f"model {model.name!r} must return exactly one tensor")
    traced = program.exported_program
    strip_provenance(program.model)
    return Template(
        graph=_without_values(program.model, frozenset(model.spec.tensors)),
        used=_read_at_inference(traced) & frozenset(model.spec.tensors),
        constants=frozenset(traced.constants),
        traced_now=True,
    )


def network_fingerprint(model: SlimmableModel, network: nn.Module) -> str:
    """Return a hash of everything that shapes the graph of a network, its weights left out.

    Two models may share a width spec and differ in padding, activation or input length, so the
    layers, the plain attributes and the source of the model's own classes enter too.
    """
    parts: list[str] = [model.name, repr(model.input_shape), repr(network)]
    for name, module in network.named_modules():
        owner = type(module)
        if owner.__module__.split(".")[0] == "torch":
            continue
        plain = {
            key: value
            for key, value in sorted(vars(module).items())
            if _is_plain(value) and key != "training"
        }
        parts.append(f"{name} {owner.__module__}.{owner.__qualname__} {plain} {_source(owner)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class TemplateCache:
    """Templates in a folder, one file per model, width, torch version and opset.

    An entry begins with its own SHA-256. One that is damaged is traced anew; a folder that cannot
    be written costs time and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which is created when the first template is kept."""
        self._folder = folder

    def get(
        self, model: SlimmableModel, width: float, network: nn.Module | None = None
    ) -> Template:
        """Return the template of ``width``, from the folder or newly traced.

        Args:
            model: the model.
            width: which sub-model.
            network: that sub-model where it is at hand; spares building it.

        Raises:
            TemplateError: there is none yet and the network cannot be traced.
        """
        path = self.path(model, width, model.build(width) if network is None else network)
        try:
            return _unpack(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("template %s is damaged (%s); tracing it anew", path, error)
        return self._trace_and_keep(model, width, path)

    def renew(self, model: SlimmableModel, width: float) -> Template:
        """Trace the template of ``width`` anew and replace the one in the folder.

        Raises:
            TemplateError: the network cannot be traced.
        """
        return self._trace_and_keep(model, width, self.path(model, width, model.build(width)))

    def path(self, model: SlimmableModel, width: float, network: nn.Module) -> Path:
        """Return the file of a template; its name says what the template depends on."""
        key = {
            "format": TEMPLATE_FORMAT,
            "spec": model.spec.spec_hash,
            "network": network_fingerprint(model, network),
            "width": width,
            "torch": torch.__version__,
            "opset": OPSET,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9._-]", "-", model.name)
        return self._folder / f"{name}-w{width:.4f}-{digest[:24]}.template"

    def _trace_and_keep(self, model: SlimmableModel, width: float, path: Path) -> Template:
        template = trace_template(model, width)
        try:
            make_folder(path.parent)
            write_atomically(path, _pack(template), mode=0o644)
        except OSError as error:
            logger.warning("template %s is not kept (%s); it is traced each time", path, error)
        return template


def warm_templates(model: SlimmableModel, widths: Iterable[float], cache: TemplateCache) -> int:
    """Trace the templates that are still missing, before they are needed.

    Returns:
        How many were traced.

    Raises:
        TemplateError: the network cannot be traced.
    """
    return sum(cache.get(model, width).traced_now for width in sorted(set(widths)))


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


def _read_at_inference(traced: torch.export.ExportedProgram) -> frozenset[str]:
    signature = traced.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return frozenset(
        names[node.name]
        for node in traced.graph.nodes
        if node.op == "placeholder" and node.users and node.name in names
    )


def _without_values(graph: onnx_ir.Model, state_names: frozenset[str]) -> bytes:
    """Return the graph with empty state tensors, so that none can stay in by mistake."""
    proto = onnx_ir.to_proto(graph)
    for tensor in proto.graph.initializer:
        if tensor.name in state_names:
            tensor.ClearField("raw_data")
    return bytes(proto.SerializeToString())


def _pack(template: Template) -> bytes:
    proto = onnx.ModelProto.FromString(template.graph)
    for key, names in ((_USED, template.used), (_CONSTANTS, template.constants)):
        proto.metadata_props.add(key=key, value=json.dumps(sorted(names)))
    body = proto.SerializeToString(deterministic=True)
    return hashlib.sha256(body).hexdigest().encode() + bytes(body)


def _unpack(entry: bytes) -> Template:
    seal, body = entry[:_SEAL_LENGTH], entry[_SEAL_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise ValueError("content and checksum differ")
    proto = onnx.ModelProto.FromString(body)
    notes = {note.key: note.value for note in proto.metadata_props}
    del proto.metadata_props[:]
    return Template(
        graph=bytes(proto.SerializeToString()),
        used=frozenset(json.loads(notes[_USED])),
        constants=frozenset(json.loads(notes[_CONSTANTS])),
        traced_now=False,
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)


def _source(owner: type[Any]) -> str:
    try:
        return inspect.getsource(owner)
    except (OSError, TypeError):  # typed at a prompt, or made by a decorator
        return ""


def _reason(error: Exception) -> str:
    """Return the exporter's complaint in one line, with the line of the model it is about."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    place = re.search(r'File "([^"]+)", line (\d+), in forward\n\s*(.+)', str(cause))
    where = f" ({place[1]}:{place[2]}: {place[3].strip()})" if place else ""
    return f"{lines[0] if lines else type(cause).__name__}{where}"


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what torch's exporter says about itself: nothing a user of ours can act on."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # one line per operator of the absent torchvision
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        registration.setLevel(level)
