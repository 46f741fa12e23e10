"""Messages to bytes and back; which topic carries which message; the size limits.

msgpack, because it is small, typed and cannot run code. Unknown fields are ignored. Nothing larger
than `CONTROL_LIMIT` is a control message; bulk data travels in blocks of at most `BLOCK_LIMIT`.
"""

from typing import TypeVar

import msgspec

from broker import messages as m
from broker.decoding import decode_struct
from broker.errors import DecodeError, SizeError
from broker.topics import (
    CommandTopic,
    DeviceSays,
    DownTopic,
    ResultTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    Topic,
    UpTopic,
)

CONTROL_LIMIT = 16 * 1024
BLOCK_LIMIT = 256 * 1024

MESSAGE_OF: dict[DeviceSays | ServerSays | ServerTells, type[m.Message]] = {
    DeviceSays.BIRTH: m.Birth,
    DeviceSays.ALIVE: m.Alive,
    DeviceSays.PROFILE: m.Profile,
    DeviceSays.PROGRESS: m.Progress,
    DeviceSays.UPDATE: m.Update,
    DeviceSays.REPORT: m.Report,
    DeviceSays.TELEMETRY: m.Telemetry,
    DeviceSays.WITNESS: m.Witness,
    ServerSays.TASK: m.Task,
    ServerSays.RECEIPT: m.Receipt,
    ServerSays.STANDING: m.Standing,
    ServerSays.DEPLOYMENT: m.DeploymentOrder,
    ServerSays.PROFILE_REQUEST: m.ProfileRequest,
    ServerSays.PROOF: m.Proof,
    ServerTells.STATE: m.ServerState,
    ServerTells.SUMMARY: m.Summary,
    ServerTells.CHECKPOINT: m.SignedCheckpoint,
}
NOT_RETAINED: frozenset[DeviceSays | ServerSays | ServerTells] = frozenset(
    {DeviceSays.ALIVE, DeviceSays.TELEMETRY, ServerSays.PROOF}
)
EXPIRES_AFTER_S: dict[DeviceSays | ServerSays | ServerTells, float] = {
    DeviceSays.ALIVE: 90.0,
    DeviceSays.TELEMETRY: 3600.0,
    ServerSays.PROOF: 600.0,
}

_ENCODER = msgspec.msgpack.Encoder()
T = TypeVar("T")


def encode(message: msgspec.Struct) -> bytes:
    """Return the bytes of a control message.

    Raises:
        SizeError: it is larger than `CONTROL_LIMIT`.
    """
    payload = _ENCODER.encode(message)
    if len(payload) > CONTROL_LIMIT:
        raise SizeError(
            f"{type(message).__name__} of {len(payload)} bytes is over the control limit of"
            f" {CONTROL_LIMIT}; send bulk data as a blob"
        )
    return payload


def decode(payload: bytes, message_type: type[T]) -> T:
    """Read a control message.

    Raises:
        DecodeError: too large, not msgpack, or not of this type; the message says which.
    """
    if len(payload) > CONTROL_LIMIT:
        raise DecodeError(f"{len(payload)} bytes are over the control limit of {CONTROL_LIMIT}")
    return decode_struct(payload, message_type)


def decode_on(topic: Topic, payload: bytes) -> m.Message:
    """Read the message that belongs on ``topic``.

    Raises:
        DecodeError: the topic carries blocks, or the payload is not its message.
    """
    match topic:
        case UpTopic(_, channel) | DownTopic(_, channel) | ServerTopic(channel):
            return decode(payload, MESSAGE_OF[channel])
        case CommandTopic():
            return decode(payload, m.Command)
        case ResultTopic():
            return decode(payload, m.CommandResult)
    raise DecodeError(f"{topic} carries blocks, not a message")


def is_retained(topic: Topic) -> bool:
    """Return whether the broker keeps the last message of ``topic`` for late subscribers."""
    match topic:
        case UpTopic(_, channel) | DownTopic(_, channel) | ServerTopic(channel):
            return channel not in NOT_RETAINED
        case CommandTopic():
            return False
    return True


def expires_after_s(topic: Topic) -> float | None:
    """Return after how long the broker may forget a message of ``topic`` that it has queued."""
    match topic:
        case UpTopic(_, channel) | DownTopic(_, channel) | ServerTopic(channel):
            return EXPIRES_AFTER_S.get(channel)
    return None
