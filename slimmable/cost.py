"""What a width costs in values and bytes. numpy only."""

import json
from collections.abc import Iterable

from slimmable.spec import WidthSpec

FLOAT_BYTES = 4
LENGTH_BYTES = 8  # the length field of a safetensors header, which is also what it is padded to


def value_count(spec: WidthSpec, width: float, names: Iterable[str] | None = None) -> int:
    """Return how many values the tensors ``names`` (default: all of the spec's) have."""
    chosen = spec.tensors if names is None else names
    return sum(_product(spec.shape(name, width)) for name in chosen)


def model_bytes(spec: WidthSpec, width: float) -> int:
    """Return the bytes of all float32 values of the sub-model, parameters and statistics."""
    return FLOAT_BYTES * value_count(spec, width)


def payload_bytes(spec: WidthSpec, width: float, names: Iterable[str] | None = None) -> int:
    """Return the exact size of the sub-model's state dict on the wire.

    It is the length of `slimmable.state.encode_state` of float32 tensors, without making them.

    Args:
        spec: of the model.
        width: of the slice.
        names: tensors that travel; without it all of the spec's, statistics included.
    """
    chosen = sorted(spec.tensors if names is None else names)
    header: dict[str, object] = {}
    start = 0
    for name in chosen:
        shape = spec.shape(name, width)
        end = start + FLOAT_BYTES * _product(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padded = -(-len(text) // LENGTH_BYTES) * LENGTH_BYTES
    return LENGTH_BYTES + padded + start


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
