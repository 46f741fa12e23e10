"""Topics: built and parsed by inverse functions, and nothing else is a topic."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import DecodeError
from broker.topics import (
    BLOB,
    NAME,
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
    check_name,
    device_filters,
    operator_filters,
    parse_topic,
    root,
    server_filters,
    topic_for,
)

names = st.from_regex(NAME, fullmatch=True)
blobs = st.from_regex(BLOB, fullmatch=True)
indices = st.integers(0, 2**31)
topics = st.one_of(
    st.builds(UpTopic, names, st.sampled_from(DeviceSays)),
    st.builds(DownTopic, names, st.sampled_from(ServerSays)),
    st.builds(UploadBlock, names, blobs, indices),
    st.builds(SharedBlock, blobs, indices),
    st.builds(ServerTopic, st.sampled_from(ServerTells)),
    st.builds(CommandTopic, names),
    st.builds(ResultTopic, names),
)
levels = st.one_of(
    st.sampled_from(["d", "b", "up", "down", "srv", "op", "command", "result", "birth", "", "+"]),
    names,
    blobs,
    st.text(max_size=6),
    st.integers(-5, 5).map(str),
)


@given(names, topics)
def test_parsing_undoes_building(fleet, topic):
    assert parse_topic(fleet, topic_for(fleet, topic)) == topic


@given(names, st.lists(levels, max_size=7).map("/".join))
def test_what_parses_is_exactly_what_is_built_and_the_rest_is_a_decode_error(fleet, path):
    try:
        topic = parse_topic(fleet, root(fleet) + path)
    except DecodeError:
        return
    assert topic_for(fleet, topic) == root(fleet) + path


@given(st.text())
def test_garbage_is_a_decode_error(topic):
    with pytest.raises(DecodeError):
        parse_topic("plant", topic)


@given(names, names, topics)
def test_a_topic_of_another_fleet_is_a_decode_error(fleet, other, topic):
    if fleet != other:
        with pytest.raises(DecodeError, match="is not of fleet"):
            parse_topic(other, topic_for(fleet, topic))


BLOB_ID = "ab" * 32


@pytest.mark.parametrize(
    "path",
    [
        "",
        "d",
        "d/dev-1/up",
        "d/dev-1/up/birth/",
        "d/dev-1/up/task",
        "d/dev-1/down/birth",
        "d//up/birth",
        "d/Dev-1/up/birth",
        "d/dev.1/up/birth",
        "d/+/up/birth",
        f"d/{'x' * 65}/up/birth",
        "d/dev-1/up/birth\n",
        f"b/{BLOB_ID}",
        f"b/{BLOB_ID}/-1",
        f"b/{BLOB_ID}/01",
        f"b/{BLOB_ID}/1.0",
        f"b/{BLOB_ID}/²",
        f"b/{BLOB_ID}/١",  # noqa: RUF001
        f"b/{BLOB_ID}/{'9' * 5000}",
        f"b/{BLOB_ID.upper()}/0",
        f"b/{BLOB_ID[1:]}/0",
        "srv/down",
        "op/ann/up/birth",
        "op/ann/down/command",
    ],
)
def test_near_misses_are_decode_errors(path):
    with pytest.raises(DecodeError, match="is not of this protocol"):
        parse_topic("plant", root("plant") + path)


@pytest.mark.parametrize(
    "name", ["", "A", "a.b", "a b", "a/b", "+", "#", "$x", "ä", "a" * 65, "a\n"]
)
def test_names_that_a_broker_would_refuse_are_refused_first(name):
    with pytest.raises(ValueError, match="use 1 to 64 of a-z, 0-9 and '-'"):
        check_name(name, "device")


def matches(wanted, topic):
    return re.fullmatch(re.escape(wanted).replace(r"\+", "[^/]+"), topic) is not None


@given(names, topics)
def test_a_device_hears_its_own_topics_and_the_server_and_nothing_else(name, topic):
    text = topic_for("plant", topic)
    heard = any(matches(wanted, text) for wanted in device_filters("plant", name))
    own = isinstance(topic, DownTopic) and topic.device == name
    told = {ServerTopic(ServerTells.STATE), ServerTopic(ServerTells.CHECKPOINT)}
    assert heard == (own or topic in told)


@given(topics)
def test_the_server_hears_all_that_is_said_to_it(topic):
    text = topic_for("plant", topic)
    heard = any(matches(wanted, text) for wanted in server_filters("plant"))
    assert heard == isinstance(topic, UpTopic | CommandTopic)


@given(names, topics)
def test_an_operator_never_hears_a_topic_that_carries_a_key_or_a_block(name, topic):
    text = topic_for("plant", topic)
    if any(matches(wanted, text) for wanted in operator_filters("plant", name)):
        assert not isinstance(topic, SharedBlock | UploadBlock)
        keys = {ServerSays.TASK, ServerSays.DEPLOYMENT}
        assert not (isinstance(topic, DownTopic) and topic.channel in keys)
