"""The protocol as an AsyncAPI 3 document, generated from the topics and the message types.

``python -m broker.asyncapi`` writes ``docs/asyncapi.yaml``. Nothing is said here that another file
decides: addresses come from `broker.topics`, payloads and limits from `broker.codec`, readers from
the filters that the parties subscribe to, and descriptions from the docstrings of the messages.
"""

import inspect
import json
import re
import sys
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from broker import codec, messages, topics
from broker.topics import (
    CommandTopic,
    DeviceSays,
    DownTopic,
    ResultTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    SharedBlock,
    Topic,
    UploadBlock,
    UpTopic,
)

Document = dict[str, Any]

# Stand-ins for the variable levels of a topic; their order is the order of the parameters.
_FLEET, _DEVICE, _OPERATOR, _BLOB, _INDEX = (
    "a-fleet",
    "a-device",
    "an-operator",
    "b" * 64,
    987654321,
)
_PARAMETERS = {
    _FLEET: ("fleet", "Name of the fleet: 1 to 64 of a-z, 0-9 and '-'."),
    _DEVICE: ("device", "Id of the device: 1 to 64 of a-z, 0-9 and '-'."),
    _OPERATOR: ("operator", "Name of the operator: 1 to 64 of a-z, 0-9 and '-'."),
    _BLOB: ("blob", "SHA-256 of the bytes that travel, 64 lower-case hex digits."),
    str(_INDEX): ("index", "Number of the block, from 0, decimal without leading zeros."),
}
_MQTT_BINDING = "0.2.0"


class Role(StrEnum):
    """The parties."""

    DEVICE = "device"
    SERVER = "server"
    OPERATOR = "operator"


def channels() -> dict[str, Topic]:
    """Return every channel of the protocol by name, with stand-ins for its parameters."""
    return {
        **{f"up-{channel}": UpTopic(_DEVICE, channel) for channel in DeviceSays},
        "up-block": UploadBlock(_DEVICE, _BLOB, _INDEX),
        **{f"down-{channel}": DownTopic(_DEVICE, channel) for channel in ServerSays},
        "shared-block": SharedBlock(_BLOB, _INDEX),
        **{f"srv-{channel}": ServerTopic(channel) for channel in ServerTells},
        "op-command": CommandTopic(_OPERATOR),
        "op-result": ResultTopic(_OPERATOR),
    }


def message_type(topic: Topic) -> type[messages.Message] | None:
    """Return the message that travels on a topic; None where it is a block."""
    match topic:
        case UpTopic(_, channel) | DownTopic(_, channel) | ServerTopic(channel):
            return codec.MESSAGE_OF[channel]
        case CommandTopic():
            return messages.Command
        case ResultTopic():
            return messages.CommandResult
    return None


def sender(topic: Topic) -> Role:
    """Return who publishes on a topic."""
    match topic:
        case UpTopic() | UploadBlock():
            return Role.DEVICE
        case CommandTopic():
            return Role.OPERATOR
    return Role.SERVER


def readers(topic: Topic) -> list[Role]:
    """Return who subscribes to a topic."""
    match topic:
        case UploadBlock():
            return [Role.SERVER]
        case SharedBlock():
            return [Role.DEVICE]
    address = topics.topic_for(_FLEET, topic)
    filters = {
        Role.DEVICE: topics.device_filters(_FLEET, _DEVICE),
        Role.SERVER: topics.server_filters(_FLEET),
        Role.OPERATOR: topics.operator_filters(_FLEET, _OPERATOR),
    }
    return [role for role, wanted in filters.items() if any(_matches(w, address) for w in wanted)]


def document() -> Document:
    """Return the AsyncAPI document as plain data."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Slimfleet wire protocol",
            "version": f"{topics.VERSION.removeprefix('v')}.0.0",
            "description": "What devices, the server and operators say to each other over MQTT."
            " Control messages are msgpack maps; bytes are of msgpack's bin type. The rules that a"
            " schema cannot express stand in protocol.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/msgpack",
        "servers": {"broker": _server()},
        "channels": {name: _channel(topic) for name, topic in channels().items()},
        "operations": _operations(),
        "components": _components(),
    }


def to_yaml(value: Document) -> str:
    """Write plain data as YAML, the same text for the same data."""
    return "\n".join(_lines(value)) + "\n"


def main(path: str = "docs/asyncapi.yaml") -> None:
    """Write the document to ``path``."""
    Path(path).write_text(to_yaml(document()), encoding="utf-8")


# --- parts of the document ----------------------------------------------------------------------


def _server() -> Document:
    return {
        "host": "{host}:{port}",
        "protocol": "mqtt",
        "protocolVersion": "3.1.1",
        "description": "Any broker of MQTT 3.1.1 or later with permissions per user.",
        "variables": {
            "host": {"default": "localhost"},
            "port": {"default": "1883", "description": "8883 with TLS"},
        },
        "security": [
            {"$ref": "#/components/securitySchemes/password"},
            {"$ref": "#/components/securitySchemes/certificate"},
        ],
    }


def _channel(topic: Topic) -> Document:
    levels = topics.topic_for(_FLEET, topic).split("/")
    names = [_PARAMETERS[level][0] for level in levels if level in _PARAMETERS]
    address = "/".join(
        f"{{{_PARAMETERS[level][0]}}}" if level in _PARAMETERS else level for level in levels
    )
    message = _message_name(topic)
    return {
        "address": address,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "parameters": {name: {"$ref": f"#/components/parameters/{name}"} for name in names},
        "x-retained": codec.is_retained(topic),
        "x-max-bytes": _limit(topic),
    }


def _operations() -> Document:
    operations: Document = {}
    for name, topic in channels().items():
        operations[f"{sender(topic)}-sends-{name}"] = _operation(name, topic, "send")
        for role in readers(topic):
            operations[f"{role}-receives-{name}"] = _operation(name, topic, "receive")
    return operations


def _operation(name: str, topic: Topic, action: str) -> Document:
    binding: Document = {"qos": 1, "bindingVersion": _MQTT_BINDING}
    if action == "send":
        binding["retain"] = codec.is_retained(topic)
        expiry = codec.expires_after_s(topic)
        if expiry is not None:
            binding["messageExpiryInterval"] = int(expiry)
    operation: Document = {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{_message_name(topic)}"}],
        "bindings": {"mqtt": binding},
    }
    if isinstance(topic, CommandTopic) and action == "send":
        operation["reply"] = {"channel": {"$ref": "#/channels/op-result"}}
    return operation


def _components() -> Document:
    types = [found for topic in channels().values() if (found := message_type(topic))]
    _, schemas = msgspec.json.schema_components(
        [
            *types,
            messages.Release,
            messages.Deployment,
            messages.Checkpoint,
            messages.ConsistencyProof,
        ],
        ref_template="#/components/schemas/{name}",
    )
    return {
        "messages": {_message_name(topic): _message(topic) for topic in channels().values()},
        "parameters": {name: {"description": text} for name, text in _PARAMETERS.values()},
        "securitySchemes": {
            "password": {"type": "userPassword", "description": "User name = client id = id."},
            "certificate": {"type": "X509", "description": "Common name = client id = id."},
        },
        "schemas": {name: _schema(name, schemas[name]) for name in sorted(schemas)},
    }


def _message(topic: Topic) -> Document:
    found = message_type(topic)
    if found is None:
        return {
            "contentType": "application/octet-stream",
            "description": "One block of a blob; an empty payload clears it.",
            "payload": {"type": "string", "format": "binary", "maxLength": codec.BLOCK_LIMIT},
        }
    return {
        "summary": _documentation(found)[0],
        "payload": {"$ref": f"#/components/schemas/{found.__name__}"},
    }


def _message_name(topic: Topic) -> str:
    found = message_type(topic)
    return found.__name__ if found else "Block"


def _limit(topic: Topic) -> int:
    return codec.CONTROL_LIMIT if message_type(topic) else codec.BLOCK_LIMIT


def _schema(name: str, schema: Document) -> Document:
    struct = getattr(messages, name)
    schema["description"], texts = _documentation(struct)
    for field, prop in schema.get("properties", {}).items():
        if prop.pop("contentEncoding", None):
            prop["format"] = "binary"
        if field in texts and "$ref" not in prop:
            prop["description"] = texts[field]
    return schema


def _documentation(struct: type) -> tuple[str, dict[str, str]]:
    """Return the description of a message and of its fields, from its docstring and its bases'."""
    texts: dict[str, str] = {}
    description = ""
    for base in reversed(struct.__mro__):
        if base.__module__.startswith("broker."):
            docstring = inspect.cleandoc(base.__doc__ or "").replace("``", "`")
            description, _, attributes = docstring.partition("Attributes:\n")
            for entry in re.split(r"\n(?=\S)", textwrap.dedent(attributes)):
                texts.update(_field_texts(" ".join(entry.split())))
    return " ".join(description.split()), texts


def _field_texts(entry: str) -> dict[str, str]:
    """Read ``a, b: text of both; c: text of c``."""
    _, *pieces = re.split(r"(?:^|; )(\w+(?:, \w+)*): ", entry)
    return {
        name: text
        for names, text in zip(pieces[::2], pieces[1::2], strict=True)
        for name in names.split(", ")
    }


# --- YAML ---------------------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z$][A-Za-z0-9_$/-]*( [A-Za-z0-9_$/-]+)*")
_NOT_TEXT = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [line for key, inner in value.items() for line in _entry(f"{_scalar(key)}:", inner)]
    if isinstance(value, list | tuple) and value:
        return [line for inner in value for line in _item(inner)]
    return [_scalar(value)]


def _entry(key: str, inner: Any) -> list[str]:
    lines = _lines(inner)
    if isinstance(inner, dict | list | tuple) and inner:
        return [key, *(f"  {line}" for line in lines)]
    return [f"{key} {lines[0]}"]


def _item(inner: Any) -> list[str]:
    first, *rest = _lines(inner)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


def _matches(wanted: str, address: str) -> bool:
    return re.fullmatch(re.escape(wanted).replace(r"\+", "[^/]+"), address) is not None


if __name__ == "__main__":
    main(*sys.argv[1:])
