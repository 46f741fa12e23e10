"""What was sent once must be understood for ever: recorded bytes of every message.

``golden/v1.json`` only grows. A new message type or field gets a further entry: its value, and the
bytes that `msgspec.msgpack.encode` made of it on the day it was added. An entry is never changed.
"""

import json
from pathlib import Path

import msgspec
import pytest

from broker import messages
from broker.codec import CONTROL_LIMIT, MESSAGE_OF, decode, encode

GOLDEN = json.loads((Path(__file__).parent / "golden" / "v1.json").read_text())
TYPES: set[type[msgspec.Struct]] = {
    *MESSAGE_OF.values(),
    messages.Command,
    messages.CommandResult,
    messages.SignedEnvelope,
    messages.Release,
    messages.Deployment,
    messages.Checkpoint,
    messages.ConsistencyProof,
}


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["type"])
def test_a_recorded_message_still_means_the_same(golden):
    message_type = getattr(messages, golden["type"])
    decoded = decode(bytes.fromhex(golden["bytes"]), message_type)
    assert decoded == msgspec.convert(golden["value"], message_type)
    assert decode(encode(decoded), message_type) == decoded


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["type"])
def test_a_message_of_a_later_version_is_understood_without_its_new_fields(golden):
    message_type = getattr(messages, golden["type"])
    plain = msgspec.msgpack.decode(bytes.fromhex(golden["bytes"]))
    later = msgspec.msgpack.encode({"invented-later": {"deep": [1, None]}, **plain})
    assert decode(later, message_type) == msgspec.convert(golden["value"], message_type)


@pytest.mark.parametrize("message_type", sorted(TYPES, key=str))
def test_every_field_of_every_message_is_recorded(message_type):
    recorded = {
        name
        for entry in GOLDEN
        if entry["type"] == message_type.__name__
        for name in entry["value"]
    }
    fields = {field.encode_name for field in msgspec.structs.fields(message_type)}
    assert fields <= recorded, "append an entry with the new fields to golden/v1.json"


def test_every_recorded_message_is_far_below_the_limit():
    assert all(len(golden["bytes"]) // 2 < CONTROL_LIMIT // 4 for golden in GOLDEN)
