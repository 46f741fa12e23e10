"""What devices told each other, put together; and whether it can be used. numpy only, pure."""

from collections.abc import Mapping

import numpy as np

from broker.messages import DropReason
from slimmable.knowledge import (
    COUNT,
    MEAN,
    KnowledgeError,
    KnowledgeNumbersError,
    check_knowledge,
)
from slimmable.state import Array, ModelState, StateError, decode_state


def consensus(before: Mapping[str, Array], told: Mapping[str, Mapping[str, Array]]) -> ModelState:
    """Return the knowledge after a round.

    A row is the unweighted mean over the devices that have it, as in FedProto's public code: how
    many samples it was made of is only a device's own claim. Its count says how many devices.
    A row that nobody of the round has stays as it was: whoever has it may only have missed the
    round. What nobody ever had stays unknown.

    Args:
        before: knowledge that the round started from.
        told: device -> its knowledge, of the same shapes.
    """
    devices = sorted(told)  # so that their order cannot matter, not even to the last bit
    if not devices:
        return {name: np.array(array, copy=True) for name, array in before.items()}
    has = np.stack([told[device][COUNT] > 0 for device in devices])
    means = np.stack([told[device][MEAN] for device in devices]).astype(np.float64)
    count = has.sum(axis=0)
    total = np.where(has[:, :, None], means, 0.0).sum(axis=0)
    mean = total / np.maximum(count, 1)[:, None]
    known = count > 0
    return {
        MEAN: np.where(known[:, None], mean, before[MEAN]).astype(np.float32),
        COUNT: np.where(known, count, before[COUNT]).astype(np.int64),
    }


def inspect_knowledge(payload: bytes, like: Mapping[str, Array]) -> tuple[DropReason, str] | None:
    """Return why the bytes of an update cannot be used, or None if they can.

    Args:
        payload: as it arrived.
        like: knowledge of the round's base, whose form it must have.
    """
    try:
        found = decode_state(payload)
    except StateError as error:
        return DropReason.BAD_BYTES, str(error)
    try:
        check_knowledge(found, like)
    except KnowledgeNumbersError as error:
        return DropReason.NOT_FINITE, str(error)
    except KnowledgeError as error:
        return DropReason.WRONG_SHAPE, str(error)
    return None
