"""What an ONNX file says about itself, kept when other tools rewrite the file. Imports onnx."""

from collections.abc import Iterator, Mapping

import onnx

from slimmable.model import ModelInput

ENCODING_KEY = "slimfleet.encoding"
FLOAT32 = "onnx-f32"
INT8_STATIC = "onnx-int8-static"
INT8_DYNAMIC = "onnx-int8-dynamic"
PRODUCER = "slimfleet"

_FACT_PREFIX = "slimfleet."


def read_model(onnx_file: bytes) -> onnx.ModelProto:
    """Return the parsed file.

    Raises:
        ValueError: the bytes are no ONNX file.
    """
    try:
        return onnx.load_model_from_string(onnx_file)
    except Exception as error:  # protobuf's DecodeError is a bare Exception
        raise ValueError(f"not an ONNX file: {error}") from error


def facts_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the facts that the exporter wrote into the file."""
    return {
        entry.key: entry.value
        for entry in model.metadata_props
        if entry.key.startswith(_FACT_PREFIX)
    }


def file_inputs(model: onnx.ModelProto) -> dict[str, ModelInput]:
    """Return what a caller has to supply, by name, in the order of the graph.

    Raises:
        ModelError: an input is no tensor of a type and shape that we know.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    return {
        entry.name: _input(entry.type.tensor_type)
        for entry in model.graph.input
        if entry.name not in held
    }


def used_domains(model: onnx.ModelProto) -> frozenset[str]:
    """Return the operator sets that the nodes of the file belong to."""
    return frozenset(
        "" if node.domain == "ai.onnx" else node.domain for node in _nodes(model.graph.node)
    )


def restored(
    rewritten: onnx.ModelProto, original: onnx.ModelProto, facts: Mapping[str, str]
) -> bytes:
    """Return a rewritten file in the form of ours: its facts, its IR version, nothing besides.

    ONNX Runtime lists every operator set that it knows in the files it writes, in the newest
    version, and an older ONNX Runtime then refuses to load them. Only those in use stay.
    """
    domains = used_domains(rewritten) | {""}
    kept = [entry for entry in rewritten.opset_import if entry.domain in domains]
    imports = sorted({(entry.domain, entry.version) for entry in kept})
    del rewritten.opset_import[:]
    for domain, version in imports:
        rewritten.opset_import.add(domain=domain, version=version)
    rewritten.ir_version = original.ir_version
    rewritten.producer_name = PRODUCER
    rewritten.ClearField("producer_version")
    rewritten.ClearField("doc_string")
    rewritten.graph.name = original.graph.name
    rewritten.graph.ClearField("doc_string")
    del rewritten.graph.value_info[:]  # any runtime infers them
    del rewritten.metadata_props[:]
    for key, value in facts.items():
        rewritten.metadata_props.add(key=key, value=value)
    return bytes(rewritten.SerializeToString(deterministic=True))


def _input(kind: onnx.TypeProto.Tensor) -> ModelInput:
    shape = tuple(dim.dim_value for dim in kind.shape.dim[1:])
    return ModelInput(shape, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))


def _nodes(nodes: "Iterator[onnx.NodeProto] | list[onnx.NodeProto]") -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)
            for graph in attribute.graphs:
                yield from _nodes(graph.node)
