"""Who may say what to whom, as a table."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codec import MESSAGE_OF
from broker.embedded import subjects
from broker.permissions import (
    KEY_CARRIERS,
    device_permissions,
    matches,
    operator_permissions,
    server_permissions,
)
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
    device_filters,
    operator_filters,
    server_filters,
    topic_for,
)

FLEET = "plant"
BLOB = "ab" * 32
DEVICE = device_permissions(FLEET, "cam-01")
OPERATOR = operator_permissions(FLEET, "anna")
SERVER = server_permissions(FLEET)
EVERY_TOPIC: list[Topic] = [
    *(UpTopic(device, c) for device in ("cam-01", "cam-02") for c in DeviceSays),
    *(DownTopic(device, c) for device in ("cam-01", "cam-02") for c in ServerSays),
    *(UploadBlock(device, BLOB, 0) for device in ("cam-01", "cam-02")),
    SharedBlock(BLOB, 7),
    *(ServerTopic(c) for c in ServerTells),
    *(CommandTopic(operator) for operator in ("anna", "bert")),
    *(ResultTopic(operator) for operator in ("anna", "bert")),
]


def names(topic: Topic) -> str:
    return topic_for(FLEET, topic)


@pytest.mark.parametrize("topic", EVERY_TOPIC, ids=names)
def test_a_device_publishes_only_below_its_own_up(topic):
    own = isinstance(topic, UpTopic | UploadBlock) and topic.device == "cam-01"
    assert DEVICE.may_publish(names(topic)) == own


@pytest.mark.parametrize("topic", EVERY_TOPIC, ids=names)
def test_a_device_reads_its_own_down_the_server_and_shared_blocks(topic):
    own = isinstance(topic, DownTopic) and topic.device == "cam-01"
    assert DEVICE.may_read(names(topic)) == (own or isinstance(topic, ServerTopic | SharedBlock))


@pytest.mark.parametrize("topic", EVERY_TOPIC, ids=names)
def test_an_operator_publishes_only_its_own_commands(topic):
    assert OPERATOR.may_publish(names(topic)) == (topic == CommandTopic("anna"))


@pytest.mark.parametrize("topic", EVERY_TOPIC, ids=names)
def test_an_operator_reads_all_but_blocks_and_keys(topic):
    secret = isinstance(topic, SharedBlock | UploadBlock) or (
        isinstance(topic, DownTopic) and topic.channel in {ServerSays.TASK, ServerSays.DEPLOYMENT}
    )
    assert OPERATOR.may_read(names(topic)) != secret


@pytest.mark.parametrize("topic", EVERY_TOPIC, ids=names)
def test_the_server_may_do_everything_in_its_fleet_and_nothing_in_another(topic):
    assert SERVER.may_publish(names(topic))
    assert SERVER.may_read(names(topic))
    assert not SERVER.may_publish(topic_for("other-plant", topic))
    assert not SERVER.may_read(topic_for("other-plant", topic))


def test_every_message_with_a_key_in_it_is_known_to_carry_one():
    with_key = {
        channel
        for channel, message in MESSAGE_OF.items()
        if any("key" in field.name for field in msgspec.structs.fields(message))
    }
    assert with_key == KEY_CARRIERS


def test_everybody_may_read_what_they_subscribe_to():
    for permissions, filters in (
        (DEVICE, device_filters(FLEET, "cam-01")),
        (OPERATOR, operator_filters(FLEET, "anna")),
        (SERVER, server_filters(FLEET)),
    ):
        for filter_ in filters:
            assert permissions.may_read(filter_.replace("+", "cam-01"))


def test_a_name_that_could_widen_a_filter_is_refused():
    for name in ("#", "+", "a/b", "", "cam.01", "Cam"):
        with pytest.raises(ValueError, match="use 1 to 64"):
            device_permissions(FLEET, name)
        with pytest.raises(ValueError, match="use 1 to 64"):
            operator_permissions(FLEET, name)


@pytest.mark.parametrize(
    ("filter_", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/b", "a/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/broker", False),
        ("+/broker", "$SYS/broker", False),
        ("$SYS/#", "$SYS/broker", True),
        ("a//c", "a//c", True),
        ("a/+/c", "a//c", True),
    ],
)
def test_filters_match_as_the_mqtt_standard_says(filter_, topic, expected):
    assert matches(filter_, topic) == expected


LEVELS = st.lists(st.sampled_from(["a", "b", "cam-01"]), min_size=1, max_size=4)


@given(LEVELS, st.data())
def test_a_filter_made_from_a_topic_matches_it(levels, data):
    wanted = [data.draw(st.sampled_from([level, "+"])) for level in levels]
    if data.draw(st.booleans()):
        wanted = [*wanted[: data.draw(st.integers(0, len(wanted)))], "#"]
    assert matches("/".join(wanted), "/".join(levels))


@given(LEVELS, LEVELS)
def test_without_wildcards_only_the_same_topic_matches(one, other):
    assert matches("/".join(one), "/".join(other)) == (one == other)


def test_a_hash_becomes_two_nats_subjects_since_it_asks_for_its_own_level_too():
    assert subjects(["a/b/#", "a/+/c", "#"]) == ["a.b", "a.b.>", "a.*.c", ">"]
