"""A model's state dict as numpy arrays, and its bytes on the wire (safetensors, never pickle)."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

_KINDS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
Array = npt.NDArray[Any]
ModelState = dict[str, Array]


class StateError(ValueError):
    """Bytes are not a readable state dict. Ask the sender for it again."""


def encode_state(state: Mapping[str, Array]) -> bytes:
    """Return the safetensors bytes of ``state``; equal states give equal bytes."""
    return safetensors.numpy.save(
        # Not ascontiguousarray, which turns a scalar into a vector of one.
        {name: np.asarray(state[name], order="C") for name in sorted(state)}
    )


def decode_state(payload: bytes) -> ModelState:
    """Read safetensors bytes.

    Raises:
        StateError: the bytes are not safetensors.
    """
    try:
        return safetensors.numpy.load(payload)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise StateError(f"not a safetensors state dict ({error}); ask for it again") from error


def view_state(buffer: bytes | memoryview) -> ModelState:
    """Return read-only views into safetensors bytes, or into a file of them mapped into memory.

    Raises:
        StateError: the bytes are not safetensors.
    """
    try:
        size = int.from_bytes(buffer[:8], "little")
        header = json.loads(bytes(buffer[8 : 8 + size]))
        start = 8 + size
        return {
            name: _view(buffer, start, said)
            for name, said in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StateError(f"not a safetensors state dict ({error}); ask for it again") from error


def _view(buffer: bytes | memoryview, start: int, said: dict[str, Any]) -> Array:
    kind, shape = np.dtype(_KINDS[said["dtype"]]), tuple(said["shape"])
    begin, end = said["data_offsets"]
    count = math.prod(shape)
    if min(begin, *shape, 0) < 0 or end - begin != count * kind.itemsize:
        raise ValueError(f"{end - begin} bytes for shape {shape}")
    array = np.frombuffer(buffer, kind, count, start + begin) if count else np.zeros(0, kind)
    array.flags.writeable = False
    return array.reshape(shape)


def digest(payload: bytes) -> str:
    """Return the SHA-256 of ``payload`` in hex."""
    return hashlib.sha256(payload).hexdigest()
