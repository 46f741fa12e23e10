"""What stands at the head of an ONNX file: versions and metadata, read without the onnx package.

An ONNX file is a protocol buffer: a row of fields, each with its number, its wire type and its
value (https://protobuf.dev/programming-guides/encoding). The field numbers are those of
``ModelProto`` in onnx.proto. The graph, which holds the weights, is passed over unread, so a large
file costs no more than a small one.
"""

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

IR_VERSION, PRODUCER, OPSET_IMPORT, METADATA = 1, 2, 8, 14  # fields of ModelProto
_READ = frozenset({PRODUCER, OPSET_IMPORT, METADATA})
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_LENGTHS = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10


class HeaderError(ValueError):
    """The bytes are no ONNX file. Export the model again, or copy the file again."""


class OnnxHeader(NamedTuple):
    """Versions and metadata of an ONNX file.

    Attributes:
        ir_version: of the file format.
        opsets: domain -> version; the standard operators have the domain "".
        producer: the program that wrote it.
        metadata: notes of the exporter.
    """

    ir_version: int
    opsets: dict[str, int]
    producer: str
    metadata: dict[str, str]


def read_header(onnx: bytes | str | os.PathLike[str]) -> OnnxHeader:
    """Read the head of an ONNX file.

    Args:
        onnx: the file's content, or its path.

    Raises:
        HeaderError: the bytes are cut off, or no protocol buffer.
        OSError: the file cannot be read.
    """
    # Not Path.open: a device's first answer would wait for the import.
    with io.BytesIO(onnx) if isinstance(onnx, bytes) else open(onnx, "rb") as file:
        return _header(file)


def _header(file: BinaryIO) -> OnnxHeader:
    ir_version, producer = 0, ""
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    for number, value in _fields(file, _READ):
        if number == IR_VERSION:
            ir_version = _as_int(value)
        elif number == PRODUCER:
            producer = _as_text(value)
        elif number == OPSET_IMPORT:
            entry = _entry(value)
            opsets[_as_text(entry.get(1, b""))] = _as_int(entry.get(2, 0))
        elif number == METADATA:
            entry = _entry(value)
            metadata[_as_text(entry.get(1, b""))] = _as_text(entry.get(2, b""))
    if not ir_version or not opsets:
        raise HeaderError("no ONNX file: it names no version of its format or operators")
    return OnnxHeader(ir_version, opsets, producer, metadata)


def _entry(value: int | bytes) -> dict[int, int | bytes]:
    if isinstance(value, int):
        raise HeaderError("no ONNX file: an entry is a number")
    return dict(_fields(io.BytesIO(value), None))


def _fields(file: BinaryIO, read: frozenset[int] | None) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field; of those not in ``read`` the numbers alone."""
    size = file.seek(0, os.SEEK_END)
    at = file.seek(0)
    while at < size:
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            yield number, _varint(file)
        elif kind == _BYTES or kind in _FIXED_LENGTHS:
            length = _varint(file) if kind == _BYTES else _FIXED_LENGTHS[kind]
            lacking = file.tell() + length - size
            if lacking > 0:
                raise HeaderError(f"no ONNX file, or cut off: {lacking} bytes lack")
            if read is None or number in read:
                yield number, file.read(length)
            else:
                file.seek(length, os.SEEK_CUR)
        else:
            raise HeaderError(f"no ONNX file: byte {at} begins a field of unknown kind {kind}")
        at = file.tell()


def _varint(file: BinaryIO) -> int:
    """Read a number of seven bits a byte, the lowest first."""
    number = 0
    for place in range(_LONGEST_VARINT):
        byte = file.read(1)
        if not byte:
            raise HeaderError("no ONNX file, or cut off within a number")
        number |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return number
    raise HeaderError("no ONNX file: a number without end")


def _as_int(value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    raise HeaderError("no ONNX file: a version is no number")


def _as_text(value: int | bytes) -> str:
    if isinstance(value, int):
        raise HeaderError("no ONNX file: an entry is a number")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise HeaderError("no ONNX file: a text in it is none") from error
