"""What an exporter noted in an ONNX file, read without its weights and before it is loaded.

An ONNX file is a protocol buffer: a row of fields, each a tag (number and wire type) and a value
(https://protobuf.dev/programming-guides/encoding). Of ``ModelProto`` only ``metadata_props`` are
read; the graph, which holds the weights, is passed over.
"""

import io
import os
from typing import BinaryIO

PathLike = str | os.PathLike[str]

_METADATA = 14  # number of the field in ModelProto; of an entry, 1 is the key and 2 the value
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_FACT = 1 << 20


def read_facts(onnx: bytes | PathLike) -> dict[str, str]:
    """Return the metadata of an ONNX file; nothing where it is none, which loading it will tell.

    Args:
        onnx: the file, or its path.

    Raises:
        OSError: the file cannot be read.
    """
    with io.BytesIO(onnx) if isinstance(onnx, bytes) else open(onnx, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            return _facts(file, size)
        except (ValueError, UnicodeDecodeError):
            return {}


def _facts(file: BinaryIO, size: int) -> dict[str, str]:
    facts = {}
    while file.tell() < size:
        number, length = _field(file)
        if number == _METADATA and length <= _LONGEST_FACT:
            entry = dict(_texts(file.read(length)))
            facts[entry.get(1, "")] = entry.get(2, "")
        else:
            file.seek(length, os.SEEK_CUR)
    return facts


def _texts(entry: bytes) -> list[tuple[int, str]]:
    file = io.BytesIO(entry)
    found = []
    while file.tell() < len(entry):
        number, length = _field(file)
        found.append((number, file.read(length).decode()))
    return found


def _field(file: BinaryIO) -> tuple[int, int]:
    """Read a tag; return the field's number and the bytes of its value, which follow."""
    tag = _varint(file)
    number, kind = tag >> 3, tag & 7
    if kind == _BYTES:
        return number, _varint(file)
    if kind == _VARINT:
        _varint(file)
        return number, 0
    if kind in {_FIXED32, _FIXED64}:
        return number, 4 if kind == _FIXED32 else 8
    raise ValueError(f"no protocol buffer: wire type {kind}")


def _varint(file: BinaryIO) -> int:
    """Read a number of seven bits a byte, the lowest first."""
    number = shift = 0
    while byte := file.read(1):
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
        shift += 7
        if shift > 63:
            break
    raise ValueError("no protocol buffer: a number has no end")
