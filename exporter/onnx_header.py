"""What stands at the head of an ONNX file: versions and metadata, read without the onnx package.

An ONNX file is a protocol buffer: a row of fields, each with its number, its wire type and its
value (https://protobuf.dev/programming-guides/encoding). The field numbers are those of
``ModelProto`` in onnx.proto. The graph, which holds the weights, is skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass

IR_VERSION, PRODUCER, OPSET_IMPORT, METADATA = 1, 2, 8, 14  # fields of ModelProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_LENGTHS = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10


class HeaderError(ValueError):
    """The bytes are no ONNX file. Export the model again, or copy the file again."""


@dataclass(frozen=True)
class OnnxHeader:
    """Versions and metadata of an ONNX file.

    Attributes:
        ir_version: of the file format; 0 where the file does not say.
        opsets: domain -> version; the standard operators have the domain "".
        producer: the program that wrote it.
        metadata: notes of the exporter.
    """

    ir_version: int
    opsets: dict[str, int]
    producer: str
    metadata: dict[str, str]


def read_header(onnx: bytes) -> OnnxHeader:
    """Read the head of an ONNX file.

    Raises:
        HeaderError: the bytes are cut off, or no protocol buffer.
    """
    ir_version, producer = 0, ""
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    for number, value in _fields(memoryview(onnx)):
        if number == IR_VERSION:
            ir_version = _as_int(value)
        elif number == PRODUCER:
            producer = _as_text(value)
        elif number == OPSET_IMPORT:
            entry = dict(_fields(_as_view(value)))
            opsets[_as_text(entry.get(1, memoryview(b"")))] = _as_int(entry.get(2, 0))
        elif number == METADATA:
            entry = dict(_fields(_as_view(value)))
            key = _as_text(entry.get(1, memoryview(b"")))
            metadata[key] = _as_text(entry.get(2, memoryview(b"")))
    if not ir_version or not opsets:
        raise HeaderError("no ONNX file: it names no version of its format or operators")
    return OnnxHeader(ir_version, opsets, producer, metadata)


def _fields(message: memoryview) -> Iterator[tuple[int, "int | memoryview"]]:
    """Yield number and value of each field: an int, or the bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in _FIXED_LENGTHS:
            length = _FIXED_LENGTHS[kind]
        else:
            raise HeaderError(f"no ONNX file: byte {at} begins a field of unknown kind {kind}")
        if at + length > len(message):
            raise HeaderError(f"no ONNX file, or cut off: {at + length - len(message)} bytes lack")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the lowest first; returns it and where it ends."""
    number = 0
    for place in range(_LONGEST_VARINT):
        if at + place >= len(message):
            raise HeaderError("no ONNX file, or cut off within a number")
        byte = message[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise HeaderError(f"no ONNX file: byte {at} begins a number without end")


def _as_int(value: "int | memoryview") -> int:
    if isinstance(value, int):
        return value
    raise HeaderError("no ONNX file: a version is no number")


def _as_view(value: "int | memoryview") -> memoryview:
    if isinstance(value, int):
        raise HeaderError("no ONNX file: an entry is a number")
    return value


def _as_text(value: "int | memoryview") -> str:
    try:
        return str(_as_view(value), "utf-8")
    except UnicodeDecodeError as error:
        raise HeaderError("no ONNX file: a text in it is none") from error
