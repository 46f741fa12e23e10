"""What a device trained, and whether it can be used. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from broker.messages import DropReason
from slimmable.slicing import check_state
from slimmable.spec import SpecError, WidthSpec
from slimmable.state import Array, StateError, decode_state
from slimmable.update_codec import change_in
from slimmable.window import PREFIX, Place, Window

LARGEST_WEIGHT = 1e9


@dataclass(frozen=True)
class DeviceUpdate:
    """What one device trained.

    Attributes:
        device: id.
        width: training width; the shapes of ``state``.
        state: the trained slice.
        weight: relative weight in the average, above 0.
        window: which entries of the full model the slice held.
    """

    device: str
    width: float
    state: Mapping[str, Array]
    weight: float = 1.0
    window: Window = PREFIX

    @property
    def place(self) -> Place:
        """Which part of the full model it is about."""
        return self.width, self.window


def inspect_payload(spec: WidthSpec, width: float, payload: bytes) -> tuple[DropReason, str] | None:
    """Return why the bytes of an update cannot be used, or None if they can."""
    try:
        tensors = decode_state(payload)
        change = change_in(tensors, spec, width)
    except StateError as error:
        return DropReason.BAD_BYTES, str(error)
    return inspect_update(spec, width, tensors) if change is None else _inspect_values(spec, change)


def inspect_update(
    spec: WidthSpec, width: float, state: Mapping[str, Array]
) -> tuple[DropReason, str] | None:
    """Return why a decoded update cannot be used, or None if it can."""
    try:
        check_state(state, spec, width)
    except SpecError as error:
        return DropReason.WRONG_SHAPE, str(error)
    return _inspect_values(spec, state)


def _inspect_values(spec: WidthSpec, state: Mapping[str, Array]) -> tuple[DropReason, str] | None:
    for name in spec.parameters:
        array = state[name]
        if array.dtype != np.float32:
            return DropReason.WRONG_SHAPE, f"tensor {name!r} is {array.dtype}, expected float32"
        if not np.isfinite(array).all():
            return DropReason.NOT_FINITE, f"tensor {name!r} holds NaN or infinity"
        # Sums and products of such values overflow: one update would break the model for all.
        if array.size and np.abs(array).max() > LARGEST_WEIGHT:
            return DropReason.NOT_FINITE, f"tensor {name!r} holds values above {LARGEST_WEIGHT:g}"
    return None
