"""Every topic of the protocol, built and parsed by one pair of inverse functions.

The tree, below ``slimfleet/v1/<fleet>/``::

    d/<device>/up/<channel>        a device says something (channel: see `DeviceSays`)
    d/<device>/up/b/<blob>/<n>     block n of a blob that a device uploads
    d/<device>/down/<channel>      the server says something to one device (`ServerSays`)
    b/<blob>/<n>                   block n of a blob that the server shares (encrypted)
    srv/<channel>                  what the server tells everybody (`ServerTells`)
    op/<operator>/up/command       an operator asks for something
    op/<operator>/down/result      the server's answer

Identity is the topic: who may publish where is enforced by the broker, and a message whose payload
names another sender than its topic is refused.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import assert_never

from broker.errors import DecodeError

VERSION = "v1"
NAME = re.compile(r"[a-z0-9-]{1,64}")
BLOB = re.compile(r"[0-9a-f]{64}")


class DeviceSays(StrEnum):
    """Channels under ``d/<device>/up/``."""

    BIRTH = "birth"
    ALIVE = "alive"
    PROFILE = "profile"
    PROGRESS = "progress"
    UPDATE = "update"
    REPORT = "report"
    TELEMETRY = "telemetry"
    WITNESS = "witness"


class ServerSays(StrEnum):
    """Channels under ``d/<device>/down/``."""

    TASK = "task"
    RECEIPT = "receipt"
    STANDING = "standing"
    DEPLOYMENT = "deployment"
    PROFILE_REQUEST = "profile-request"
    PROOF = "proof"


class ServerTells(StrEnum):
    """Channels under ``srv/``."""

    STATE = "state"
    SUMMARY = "summary"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class UpTopic:
    """``d/<device>/up/<channel>``."""

    device: str
    channel: DeviceSays


@dataclass(frozen=True)
class DownTopic:
    """``d/<device>/down/<channel>``."""

    device: str
    channel: ServerSays


@dataclass(frozen=True)
class UploadBlock:
    """``d/<device>/up/b/<blob>/<n>``."""

    device: str
    blob: str
    index: int


@dataclass(frozen=True)
class SharedBlock:
    """``b/<blob>/<n>``."""

    blob: str
    index: int


@dataclass(frozen=True)
class ServerTopic:
    """``srv/<channel>``."""

    channel: ServerTells


@dataclass(frozen=True)
class CommandTopic:
    """``op/<operator>/up/command``."""

    operator: str


@dataclass(frozen=True)
class ResultTopic:
    """``op/<operator>/down/result``."""

    operator: str


Topic = UpTopic | DownTopic | UploadBlock | SharedBlock | ServerTopic | CommandTopic | ResultTopic
ANY = "+"


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it may stand in a topic.

    Raises:
        ValueError: it may not (NATS refuses dots, blanks and wildcards in ids).
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r}: use 1 to 64 of a-z, 0-9 and '-'")
    return name


@lru_cache(maxsize=16)
def root(fleet: str) -> str:
    """Return the prefix of every topic of a fleet, with the trailing slash."""
    return f"slimfleet/{VERSION}/{check_name(fleet, 'fleet')}/"


def topic_for(fleet: str, topic: Topic) -> str:
    """Return the MQTT topic."""
    match topic:
        case UpTopic(device, channel):
            path = f"d/{device}/up/{channel}"
        case DownTopic(device, channel):
            path = f"d/{device}/down/{channel}"
        case UploadBlock(device, blob, index):
            path = f"d/{device}/up/b/{blob}/{index}"
        case SharedBlock(blob, index):
            path = f"b/{blob}/{index}"
        case ServerTopic(channel):
            path = f"srv/{channel}"
        case CommandTopic(operator):
            path = f"op/{operator}/up/command"
        case ResultTopic(operator):
            path = f"op/{operator}/down/result"
        case _:
            assert_never(topic)
    return root(fleet) + path


def parse_topic(fleet: str, topic: str) -> Topic:
    """Return what an MQTT topic means.

    Raises:
        DecodeError: it is not a topic of this fleet and protocol version.
    """
    prefix = root(fleet)
    if not topic.startswith(prefix):
        raise DecodeError(f"topic {topic!r} is not of fleet {fleet!r}")
    try:
        return _parse(topic.removeprefix(prefix).split("/"))
    except ValueError as error:
        raise DecodeError(f"topic {topic!r} is not of this protocol: {error}") from error


def _parse(levels: list[str]) -> Topic:
    match levels:
        case ["d", device, "up", "b", blob, index]:
            return UploadBlock(check_name(device, "device"), _blob(blob), _index(index))
        case ["d", device, "up", channel]:
            return UpTopic(check_name(device, "device"), DeviceSays(channel))
        case ["d", device, "down", channel]:
            return DownTopic(check_name(device, "device"), ServerSays(channel))
        case ["b", blob, index]:
            return SharedBlock(_blob(blob), _index(index))
        case ["srv", channel]:
            return ServerTopic(ServerTells(channel))
        case ["op", operator, "up", "command"]:
            return CommandTopic(check_name(operator, "operator"))
        case ["op", operator, "down", "result"]:
            return ResultTopic(check_name(operator, "operator"))
    raise ValueError("unknown levels")


def _blob(blob: str) -> str:
    if not BLOB.fullmatch(blob):
        raise ValueError(f"{blob!r} is not a SHA-256 in hex")
    return blob


def _index(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or str(int(text)) != text:
        raise ValueError(f"{text!r} is not a block index")
    return int(text)


def device_filters(fleet: str, device: str) -> tuple[str, ...]:
    """Return what a device subscribes to: its own down channels, and of ``srv/`` two."""
    prefix = root(fleet)
    down = [f"{prefix}d/{device}/down/{channel}" for channel in ServerSays]
    told = [f"{prefix}srv/{channel}" for channel in (ServerTells.STATE, ServerTells.CHECKPOINT)]
    return (*down, *told)


def server_filters(fleet: str) -> tuple[str, ...]:
    """Return what the coordinator subscribes to; blocks are asked for one blob at a time."""
    prefix = root(fleet)
    up = [f"{prefix}d/{ANY}/up/{channel}" for channel in DeviceSays]
    return (*up, f"{prefix}op/{ANY}/up/command")


def operator_filters(fleet: str, operator: str) -> tuple[str, ...]:
    """Return what an operator's tools subscribe to; never a topic that carries a key."""
    prefix = root(fleet)
    up = [f"{prefix}d/{ANY}/up/{channel}" for channel in DeviceSays]
    down = [f"{prefix}d/{ANY}/down/{c}" for c in (ServerSays.STANDING, ServerSays.RECEIPT)]
    return (*up, *down, f"{prefix}srv/{ANY}", f"{prefix}op/{operator}/down/result")
