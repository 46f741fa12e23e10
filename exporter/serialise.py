"""The bytes of an ONNX graph, without copying its weights more than once. Imports onnx_ir.

Protobuf's own serialiser copies large tensors four times: into the message, into a growing buffer
and out of it. But a message is a sequence of tagged fields that may stand in any order and in
several pieces (protobuf.dev, "Encoding"), so the large tensors can be laid beside the rest.
"""

import sys

import numpy as np
import onnx
import onnx_ir

LARGE = 4096  # bytes from which a tensor is laid beside

# Field numbers of onnx.proto, all of wire type 2: a length, then as many bytes.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9


def to_bytes(model: onnx_ir.Model) -> bytes:
    """Return the file of a graph; equal graphs give equal bytes.

    The order of the initializers is that of the graph, but for the large ones, which come last.
    """
    held = model.graph.initializers
    large = {
        name: value
        for name, value in held.items()
        if value.const_value is not None and _is_large(value.const_value)
    }
    order = list(held.items())
    try:
        for name in large:
            del held[name]
        proto = onnx_ir.to_proto(model)
    finally:
        held.clear()
        held.update(order)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    pieces = [graph]
    for name, value in large.items():
        pieces.extend(_initializer(name, value.const_value))
    size = sum(len(piece) for piece in pieces)
    head = proto.SerializeToString(deterministic=True)
    return b"".join([head, _tag(_MODEL_GRAPH, size), *pieces])


def _is_large(tensor: onnx_ir.TensorProtocol) -> bool:
    return sys.byteorder == "little" and tensor.nbytes >= LARGE and tensor.dtype.itemsize >= 1


def _initializer(name: str, tensor: onnx_ir.TensorProtocol | None) -> list[bytes | memoryview]:
    assert tensor is not None
    values = np.ascontiguousarray(tensor.numpy())
    data = values.reshape(-1).view(np.uint8).data
    form = onnx.TensorProto(name=name, data_type=tensor.dtype.value, dims=values.shape)
    rest = form.SerializeToString(deterministic=True) + _tag(_TENSOR_RAW_DATA, len(data))
    return [_tag(_GRAPH_INITIALIZER, len(rest) + len(data)), rest, data]


def _tag(field: int, length: int) -> bytes:
    """Return the key of a field and the length of what follows it."""
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    """Return a number in groups of seven bits, lowest first; the eighth bit says that more come."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
