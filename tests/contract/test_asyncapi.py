"""The published description of the protocol says what the code does."""

import json
import re
from pathlib import Path

import pytest

from broker import messages
from broker.asyncapi import Role, channels, document, message_type, readers, sender, to_yaml
from broker.codec import BLOCK_LIMIT, CONTROL_LIMIT, MESSAGE_OF, is_retained
from broker.messages import DropReason
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
    parse_topic,
)

DOCS = Path(__file__).parents[2] / "docs"
BLOB = "ab" * 32
VALUES = {"fleet": "plant", "device": "press-4", "operator": "ann", "blob": BLOB, "index": "7"}
EVERY_TOPIC = {
    *(UpTopic("press-4", channel) for channel in DeviceSays),
    *(DownTopic("press-4", channel) for channel in ServerSays),
    *(ServerTopic(channel) for channel in ServerTells),
    UploadBlock("press-4", BLOB, 7),
    SharedBlock(BLOB, 7),
    CommandTopic("ann"),
    ResultTopic("ann"),
}


@pytest.fixture(scope="module")
def doc():
    return document()


def topic_of(channel):
    return parse_topic("plant", channel["address"].format(**VALUES))


def test_the_committed_document_is_the_generated_one(doc):
    committed = (DOCS / "asyncapi.yaml").read_text(encoding="utf-8")
    assert committed == to_yaml(doc), (
        "run `python -m broker.asyncapi` and commit docs/asyncapi.yaml"
    )


def test_every_topic_is_a_channel_and_every_channel_a_topic(doc):
    described = [topic_of(channel) for channel in doc["channels"].values()]
    assert len(described) == len(set(described))
    assert set(described) == EVERY_TOPIC


def test_every_channel_names_its_parameters_limit_and_retention(doc):
    for channel in doc["channels"].values():
        topic = topic_of(channel)
        assert set(channel["parameters"]) == set(re.findall(r"\{(\w+)\}", channel["address"]))
        blocks = isinstance(topic, UploadBlock | SharedBlock)
        assert channel["x-max-bytes"] == (BLOCK_LIMIT if blocks else CONTROL_LIMIT)
        assert channel["x-retained"] == is_retained(topic)


def test_every_message_type_has_a_schema_with_every_field(doc):
    schemas = doc["components"]["schemas"]
    for message in {*MESSAGE_OF.values(), messages.Command, messages.CommandResult}:
        assert set(schemas[message.__name__]["properties"]) == set(message.__struct_fields__)


def test_every_reference_leads_somewhere(doc):
    def references(value):
        if isinstance(value, dict):
            yield from ([value["$ref"]] if "$ref" in value else [])
            value = list(value.values())
        if isinstance(value, list | tuple):
            for inner in value:
                yield from references(inner)

    found = set(references(doc))
    assert len(found) > 50
    for reference in found:
        target = doc
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_every_channel_has_one_sender_and_at_least_one_reader(doc):
    for name in channels():
        operations = [
            operation
            for operation in doc["operations"].values()
            if operation["channel"]["$ref"] == f"#/channels/{name}"
        ]
        actions = [operation["action"] for operation in operations]
        assert actions.count("send") == 1
        assert actions.count("receive") >= 1
        assert all(operation["bindings"]["mqtt"]["qos"] == 1 for operation in operations)


def test_nobody_but_its_device_reads_what_carries_a_key():
    for topic in channels().values():
        found = message_type(topic)
        if found is not None and "key" in found.__struct_fields__:
            assert sender(topic) is Role.SERVER
            assert readers(topic) == [Role.DEVICE]


# --- the document as YAML -----------------------------------------------------------------------


def read_yaml(lines, indent=0):
    """Read the subset of YAML that `to_yaml` writes; lines are consumed from the front."""
    first = lines[0][indent:]
    if first.startswith("- "):
        items = []
        while lines and lines[0].startswith(" " * indent + "- "):
            lines[0] = lines[0].replace("- ", "  ", 1)
            items.append(read_yaml(lines, indent + 2))
        return items
    found = re.match(r'("(?:[^"\\]|\\.)*"|[^":]+):(?: |$)', first)
    if not found:
        return scalar(lines.pop(0).strip())
    entries = {}
    while lines and len(lines[0]) - len(lines[0].lstrip()) == indent:
        found = re.match(r'("(?:[^"\\]|\\.)*"|[^":]+):(?: |$)', lines[0][indent:])
        key, rest = scalar(found[1]), lines[0][indent + found.end() :]
        if rest:
            lines.pop(0)
            entries[key] = scalar(rest)
        else:
            lines.pop(0)
            entries[key] = read_yaml(lines, indent + 2)
    return entries


def scalar(text):
    return json.loads(text) if re.match(r'["\[{\d-]|(true|false|null)$', text) else text


def test_the_yaml_reads_back_as_the_document(doc):
    assert read_yaml(to_yaml(doc).splitlines()) == json.loads(json.dumps(doc))


def test_words_that_yaml_would_take_for_something_else_are_quoted():
    tricky = ["yes", "No", "on", "null", "1.2", "a: b", "# c", "- d", "", " e", "é", "a\nb", "{f}"]
    tricky += ["[g]", "&h", "*i", "!j", "%k", "@l", "1e3", "0x1", "~", "n", "x #y", "'q'"]
    for word in tricky:
        assert to_yaml({"key": word}) == f"key: {json.dumps(word, ensure_ascii=False)}\n"
    assert to_yaml({"key": "plain words"}) == "key: plain words\n"
    assert to_yaml({"a": [], "b": {}, "c": [True, None, 1.5]}) == (
        "a: []\nb: {}\nc:\n  - true\n  - null\n  - 1.5\n"
    )


# --- the page for people ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    return (DOCS / "protocol.md").read_text(encoding="utf-8")


def section(page, title):
    """Return the text below the heading that ends in ``title``, up to the next one of its level."""
    found = re.search(
        rf"^(#+) [^\n]*{re.escape(title)}\n(.*?)(?=^#{{1,4}} |\Z)", page, re.MULTILINE | re.DOTALL
    )
    assert found, f"docs/protocol.md has no section {title}"
    return found[2]


@pytest.mark.parametrize("name", channels())
def test_every_channel_stands_in_the_page(page, name, doc):
    path = doc["channels"][name]["address"].removeprefix("slimfleet/v1/{fleet}/")
    path = re.sub(r"\{(\w+)\}", r"<\1>", path)
    assert f"`{path}`" in page


@pytest.mark.parametrize("name", document()["components"]["schemas"])
def test_every_message_and_field_stands_in_the_page(page, name, doc):
    schema = doc["components"]["schemas"][name]
    text = section(page, f"`{name}`")
    common = set(messages.Message.__struct_fields__)
    documented = set(re.findall(r"^\| `(\w[\w-]*)` \|", text, re.MULTILINE))
    if "enum" in schema:
        assert documented == set(schema["enum"])
    else:
        fields = set(schema["properties"])
        assert documented == (fields - common if common <= fields else fields)


def test_the_common_fields_stand_in_the_page(page):
    documented = re.findall(r"^\| `(\w+)` \|", section(page, "`Message`"), re.MULTILINE)
    assert tuple(documented) == messages.Message.__struct_fields__


def test_the_page_lists_every_drop_reason_and_no_other(page):
    listed = re.findall(r"^\| `([a-z-]+)` \|", section(page, "`DropReason`"), re.MULTILINE)
    assert sorted(listed) == sorted(DropReason)


def test_the_page_names_the_limits(page):
    assert f"{CONTROL_LIMIT} bytes" in page
    assert f"{BLOCK_LIMIT} bytes" in page
