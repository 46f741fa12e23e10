"""The list of what this server left on the broker."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.share_list import ShareList


def test_what_was_added_is_there_after_a_restart(tmp_path):
    path = tmp_path / "shared.json"
    first = ShareList(path)
    first.add("a" * 64, 3)
    first.add("b" * 64, 1)
    first.remove("a" * 64)
    assert ShareList(path).entries() == {"b" * 64: 1}


def test_a_blob_is_on_the_disk_before_add_returns(tmp_path):
    path = tmp_path / "shared.json"
    ShareList(path).add("c", 2)
    assert json.loads(path.read_bytes()) == {"c": 2}


def test_removing_what_is_not_there_is_harmless(tmp_path):
    listed = ShareList(tmp_path / "shared.json")
    listed.remove("a")
    assert listed.entries() == {}


def test_the_entries_are_a_copy(tmp_path):
    listed = ShareList(tmp_path / "shared.json")
    listed.add("a", 1)
    listed.entries().clear()
    assert listed.entries() == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'"a"', b'{"a": "many"}', b'{"a": null}', b"\xff", b'{"a": 1e999}'],
)
def test_a_damaged_list_counts_as_empty_and_is_replaced(tmp_path, content, caplog):
    path = tmp_path / "shared.json"
    path.write_bytes(content)
    listed = ShareList(path)
    assert listed.entries() == {}
    assert "unreadable" in caplog.text
    listed.add("a", 1)
    assert ShareList(path).entries() == {"a": 1}


@given(st.binary(max_size=40))
def test_no_content_whatever_stops_the_server(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("share") / "shared.json"
    path.write_bytes(content)
    ShareList(path).entries()
