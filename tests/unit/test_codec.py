"""Messages to bytes and back; garbage never gets further than a `DecodeError`."""

import contextlib

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.codec import (
    CONTROL_LIMIT,
    MESSAGE_OF,
    decode,
    decode_on,
    encode,
    is_retained,
)
from broker.errors import DecodeError, SizeError
from broker.messages import Birth, Command, CommandResult, LinkStatus, Progress, ServerState, Stage
from broker.topics import (
    CommandTopic,
    DeviceSays,
    DownTopic,
    ResultTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    SharedBlock,
    UploadBlock,
    UpTopic,
)

TOPICS = [
    *(UpTopic("dev-1", channel) for channel in DeviceSays),
    *(DownTopic("dev-1", channel) for channel in ServerSays),
    *(ServerTopic(channel) for channel in ServerTells),
    CommandTopic("ann"),
    ResultTopic("ann"),
]
BLOCK_TOPICS = [UploadBlock("dev-1", "ab" * 32, 0), SharedBlock("ab" * 32, 0)]
every_topic = st.sampled_from(TOPICS + BLOCK_TOPICS)
message_types: set[type[msgspec.Struct]] = {*MESSAGE_OF.values(), Command, CommandResult}
field_names = sorted(
    {
        field.encode_name
        for message_type in message_types
        for field in msgspec.structs.fields(message_type)
    }
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.timezones()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(field_names) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(every_topic, st.binary(max_size=200))
@example(TOPICS[0], b"")
@example(TOPICS[0], b"\x91" * CONTROL_LIMIT)
@example(TOPICS[-3], b"\xdf\xff\xff\xff\xff")
@example(TOPICS[0], b"\xd6\xff\xff\xff\xff\xff")
def test_garbage_on_any_topic_is_a_decode_error_and_nothing_else(topic, payload):
    with pytest.raises(DecodeError):
        decode_on(topic, payload)


@given(every_topic, st.dictionaries(st.sampled_from(field_names), plain, max_size=12))
def test_wrong_values_in_known_fields_are_a_decode_error_and_nothing_else(topic, fields):
    payload = msgspec.msgpack.encode(fields)
    try:
        message = decode_on(topic, payload)
    except DecodeError:
        return
    assert decode_on(topic, encode(message)) is not None


@given(st.sampled_from(TOPICS), st.data())
def test_a_message_with_one_altered_byte_is_a_decode_error_or_a_message(topic, data):
    payload = bytearray(
        encode(Progress(round=3, stage=Stage.STARTED, detail="x" * 20, train_s=1.5))
    )
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        decode_on(topic, bytes(payload))


@given(plain)
def test_unknown_fields_are_ignored(value):
    known = {"status": "online", "agent": "0.1.0"}
    payload = msgspec.msgpack.encode({"from-the-future": value, **known, "another": value})
    assert decode(payload, Birth) == Birth(status=LinkStatus.ONLINE, agent="0.1.0")


def test_a_message_over_the_limit_is_never_encoded():
    with pytest.raises(SizeError, match=f"over the control limit of {CONTROL_LIMIT}"):
        encode(ServerState(status=LinkStatus.ONLINE, notice="x" * CONTROL_LIMIT))


def test_a_message_over_the_limit_is_not_decoded():
    large = msgspec.msgpack.encode({"status": "online", "cause": "x" * CONTROL_LIMIT})
    with pytest.raises(DecodeError, match="over the control limit"):
        decode(large, Birth)


def test_a_message_of_exactly_the_limit_travels():
    empty = len(encode(ServerState(status=LinkStatus.ONLINE, notice="x" * 300)))
    message = ServerState(status=LinkStatus.ONLINE, notice="x" * (300 + CONTROL_LIMIT - empty))
    assert len(encode(message)) == CONTROL_LIMIT
    assert decode(encode(message), ServerState) == message


def test_every_channel_has_a_message():
    assert set(MESSAGE_OF) == {*DeviceSays, *ServerSays, *ServerTells}


@pytest.mark.parametrize("topic", BLOCK_TOPICS)
def test_a_block_topic_carries_no_message_and_is_retained(topic):
    with pytest.raises(DecodeError, match="carries blocks"):
        decode_on(topic, encode(Birth(status=LinkStatus.ONLINE)))
    assert is_retained(topic)


def test_state_is_retained_and_events_are_not():
    kept = {topic for topic in TOPICS if is_retained(topic)}
    assert set(TOPICS) - kept == {
        UpTopic("dev-1", DeviceSays.ALIVE),
        UpTopic("dev-1", DeviceSays.TELEMETRY),
        DownTopic("dev-1", ServerSays.PROOF),
        CommandTopic("ann"),
    }
