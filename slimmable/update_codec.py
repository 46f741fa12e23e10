"""What of a trained slice travels, and in how many bits. numpy only.

An update in full precision is the trained state dict itself. Every other encoding carries only what
training changed of the parameters, in fewer bits:

* float16, bfloat16: rounded to the nearest;
* int8: per tensor in 255 steps from -s to s, s its largest change, rounded up or down at random in
  proportion (QSGD, Alistarh et al., NeurIPS 2017, section 3.1), so that the rounding is right on
  average;
* top-k: the changes that are largest in size, in float16, and where they are. What was left out is
  carried over and added in the next round (memory, Stich et al., "Sparsified SGD with Memory",
  NeurIPS 2018, algorithm 1).

The bytes are safetensors whose names say how to read them, so that an update needs no other word.
Whoever reads them needs the slice that the training started from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState, StateError, decode_state, encode_state

STEPS = 127  # of int8, to either side
HALF_MOST = float(np.finfo(np.float16).max)


class UpdateEncoding(StrEnum):
    """How an update travels."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    TOP_K = "top-k"


def form_of(encoding: UpdateEncoding) -> tuple[str, str]:
    """Return what an announcement says of an update: what its bytes hold, and how."""
    if encoding is UpdateEncoding.FLOAT32:
        return "state-dict", "safetensors-f32"
    return "change", f"safetensors-{encoding}"


FORMS = frozenset(map(form_of, UpdateEncoding))


@dataclass(frozen=True)
class Encoded:
    """An update ready to be sent.

    Attributes:
        payload: its bytes.
        left: what of the change the bytes do not say, parameter name -> array; empty where nothing
            is carried over.
    """

    payload: bytes
    left: ModelState


def encode_update(
    trained: Mapping[str, Array],
    received: Mapping[str, Array],
    parameters: Sequence[str],
    encoding: UpdateEncoding,
    rng: np.random.Generator,
    *,
    keep: float = 0.01,
    left: Mapping[str, Array] | None = None,
) -> Encoded:
    """Return the bytes of an update.

    Args:
        trained: state dict of the slice after training.
        received: the same before it.
        parameters: names of the tensors that training changes.
        encoding: how.
        rng: of int8's rounding.
        keep: of top-k, the share of the changes that travels, above 0 to 1.
        left: what earlier updates of this slice left out; only top-k carries it over.
    """
    encoding = UpdateEncoding(encoding)
    if encoding is UpdateEncoding.FLOAT32:
        return Encoded(encode_state(trained), {})
    change = {name: trained[name] - received[name] for name in parameters}
    if encoding is UpdateEncoding.TOP_K:
        return _top_k(change, keep, left or {})
    tensors: ModelState = {}
    for name, array in change.items():
        tensors |= _rounded(name, array, encoding, rng)
    return Encoded(encode_state(tensors), {})


def decode_update(
    payload: bytes, received: Callable[[], Mapping[str, Array]], spec: WidthSpec, width: float
) -> ModelState:
    """Return the state dict of an update, whatever its encoding.

    An update in full precision comes back as it is: its shapes are the reader's to check.

    Args:
        payload: of `encode_update`.
        received: returns the state dict of the slice that training started from; an update in full
            precision does not ask for it.
        spec: of the model.
        width: of the slice.

    Raises:
        StateError: the bytes are no update of this slice.
    """
    tensors = decode_state(payload)
    change = change_in(tensors, spec, width)
    if change is None:
        return tensors
    return {
        name: array + change[name] if name in change else np.array(array)
        for name, array in received().items()
    }


def decode_change(payload: bytes, spec: WidthSpec, width: float) -> ModelState | None:
    """Return what an update changed of each parameter, float32; None for one in full precision.

    Raises:
        StateError: the bytes are no update of this slice.
    """
    return change_in(decode_state(payload), spec, width)


def change_in(tensors: Mapping[str, Array], spec: WidthSpec, width: float) -> ModelState | None:
    """Return the same of the tensors that an update's bytes hold.

    Raises:
        StateError: they are no update of this slice.
    """
    if not tensors or set(tensors) & set(spec.tensors):
        return None
    shapes = {name: spec.shape(name, width) for name in spec.parameters}
    if set(tensors) == {TOP_K_INDEX, TOP_K_VALUE}:
        return _dense(tensors[TOP_K_INDEX], tensors[TOP_K_VALUE], shapes)
    change = {name: _restored(name, tensors) for name in shapes}
    for name, array in change.items():
        if array.shape != shapes[name]:
            raise StateError(
                f"update of {name!r} has shape {array.shape}, width {width} needs {shapes[name]}"
            )
    known = {f"{kind}/{name}" for kind in (*_READERS, SCALE) for name in shapes}
    if unknown := sorted(set(tensors) - known):
        raise StateError(f"update holds {unknown[0]!r}, which is nothing of this model")
    return change


def encoded_share(encoding: UpdateEncoding, keep: float = 0.01) -> float:
    """Return about how large an update is, in parts of one in full precision.

    Args:
        encoding: how it travels.
        keep: of top-k: a value of two bytes and a place of four, for four bytes each.
    """
    return {
        UpdateEncoding.FLOAT32: 1.0,
        UpdateEncoding.FLOAT16: 0.5,
        UpdateEncoding.BFLOAT16: 0.5,
        UpdateEncoding.INT8: 0.25,
        UpdateEncoding.TOP_K: 1.5 * keep,
    }[encoding]


SCALE, TOP_K_INDEX, TOP_K_VALUE = "scale", "top-k/index", "top-k/value"


def _rounded(
    name: str, change: Array, encoding: UpdateEncoding, rng: np.random.Generator
) -> ModelState:
    key = f"{encoding}/{name}"
    if encoding is UpdateEncoding.FLOAT16:
        return {key: _half(change)}
    if encoding is UpdateEncoding.BFLOAT16:
        bits = np.ascontiguousarray(change, np.float32).view(np.uint32).reshape(change.shape)
        # Rounded to the nearest, ties to even, which can only overflow to infinity near 3e38.
        upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return {key: upper.astype(np.uint16)}
    scale = np.float32(np.abs(change).max() if change.size else 0.0)
    steps = change.astype(np.float64) / scale * STEPS if scale else np.zeros(change.shape)
    low = np.floor(steps)
    up = rng.random(change.shape) < steps - low
    return {key: (low + up).astype(np.int8), f"{SCALE}/{name}": np.array(scale)}


def _half(change: Array) -> Array:
    return np.clip(change, -HALF_MOST, HALF_MOST).astype(np.float16)


def _from_half(name: str, tensors: Mapping[str, Array]) -> Array:
    return _typed(tensors[f"{UpdateEncoding.FLOAT16}/{name}"], np.float16).astype(np.float32)


def _from_brain(name: str, tensors: Mapping[str, Array]) -> Array:
    upper = _typed(tensors[f"{UpdateEncoding.BFLOAT16}/{name}"], np.uint16)
    bits = np.left_shift(upper.astype(np.uint32), 16)
    return np.ascontiguousarray(bits).view(np.float32).reshape(upper.shape)


def _from_steps(name: str, tensors: Mapping[str, Array]) -> Array:
    steps = _typed(tensors[f"{UpdateEncoding.INT8}/{name}"], np.int8)
    scale = _typed(tensors.get(f"{SCALE}/{name}", np.zeros(1, np.int8)), np.float32)
    if scale.shape:
        raise StateError(f"update of {name!r}: its scale is not one number")
    return steps.astype(np.float32) * (scale / np.float32(STEPS))


_READERS = {
    UpdateEncoding.FLOAT16: _from_half,
    UpdateEncoding.BFLOAT16: _from_brain,
    UpdateEncoding.INT8: _from_steps,
}


def _restored(name: str, tensors: Mapping[str, Array]) -> Array:
    for encoding, read in _READERS.items():
        if f"{encoding}/{name}" in tensors:
            return read(name, tensors)
    raise StateError(f"update says nothing of {name!r}")


def _typed(array: Array, kind: type[np.generic]) -> Array:
    if array.dtype != kind:
        raise StateError(f"update holds {array.dtype}, expected {np.dtype(kind)}")
    return array


def _top_k(change: Mapping[str, Array], keep: float, left: Mapping[str, Array]) -> Encoded:
    names = sorted(change)
    whole = {
        name: change[name] + left[name]
        if name in left and left[name].shape == change[name].shape
        else change[name]
        for name in names
    }
    flat = np.concatenate([whole[name].ravel() for name in names]) if names else np.zeros(0)
    count = min(flat.size, max(1, round(keep * flat.size)))
    index = np.sort(np.argpartition(-np.abs(flat), count - 1)[:count]) if count else np.zeros(0)
    value = _half(flat[index.astype(np.intp)])
    payload = encode_state({TOP_K_INDEX: index.astype(np.uint32), TOP_K_VALUE: value})
    shapes = {name: whole[name].shape for name in names}
    said = _dense(index.astype(np.uint32), value, shapes)
    return Encoded(payload, {name: whole[name] - said[name] for name in names})


def _dense(index: Array, value: Array, shapes: Mapping[str, tuple[int, ...]]) -> ModelState:
    """Return the changes that some places and values say; all others are 0."""
    names = sorted(shapes)
    sizes = [int(np.prod(shapes[name], dtype=np.int64)) for name in names]
    places = _typed(index, np.uint32).astype(np.int64)
    _typed(value, np.float16)
    rising = places.ndim == 1 and bool((np.diff(places) > 0).all())
    if not rising or value.shape != places.shape or (places.size and places[-1] >= sum(sizes)):
        raise StateError("update names places that this slice does not have, or not in order")
    flat = np.zeros(sum(sizes), np.float32)
    flat[places] = value
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(names, parts, strict=True)}
