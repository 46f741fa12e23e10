"""A model's state dict as numpy arrays, and its bytes on the wire (safetensors, never pickle)."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

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


def digest(payload: bytes) -> str:
    """Return the SHA-256 of ``payload`` in hex."""
    return hashlib.sha256(payload).hexdigest()
