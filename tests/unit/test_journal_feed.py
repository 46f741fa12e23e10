"""Following a journal: what is intact is shown, and a loss is said."""

import sqlite3

import pytest

from broker.messages import Telemetry
from journal.errors import JournalMissingError
from journal.reader import DATABASE, TELEMETRY_BATCH, TELEMETRY_START, JournalReader
from journal.store import Journal
from monitor.feed import JournalFeed
from tests.unit.test_fleet_view import accepted, born, closed, opened

EVENTS = [born("a"), born("b"), opened(1, "a", "b"), accepted(1, "a"), closed(1, "a")]


@pytest.fixture
def folder(tmp_path):
    with Journal.open(tmp_path / "journal") as journal:
        for at, event in enumerate(EVENTS):
            journal.append([event], float(at))
        journal.add_telemetry("a", 3.0, Telemetry(inferences=5))
    return tmp_path / "journal"


def change(folder, statement):
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute("DROP TRIGGER events_are_not_deleted")
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute(statement)
    connection.close()


def test_only_what_is_new_is_read_again(folder):
    feed = JournalFeed(folder)
    assert feed.refresh() == len(EVENTS) + 1
    assert feed.refresh() == 0
    with Journal.open(folder) as journal:
        journal.append([opened(2, "a")], 9.0)
        journal.add_telemetry("b", 3.0, Telemetry(inferences=2))  # at the same moment as another
        assert feed.refresh() == 2
    assert feed.view.devices["b"].inferences == 2
    assert feed.view.current.number == 2


def test_a_writer_is_there_while_it_has_the_journal_open(folder):
    feed = JournalFeed(folder)
    assert feed.has_writer() is False
    with Journal.open(folder):
        assert feed.has_writer() is True
        feed.refresh()
    assert feed.has_writer() is False


def test_no_journal_is_an_error_in_words(tmp_path):
    with pytest.raises(JournalMissingError, match="no journal in"):
        JournalFeed(tmp_path / "nowhere").refresh()


def test_of_a_journal_whose_end_is_gone_the_rest_is_shown_and_the_loss_is_said(folder):
    change(folder, "DELETE FROM events WHERE idx >= 3")
    feed = JournalFeed(folder)
    feed.refresh()
    assert feed.view.rounds[1].closed_at is None
    assert "record 3: missing, and so are all to 4" in feed.damage
    assert feed.refresh() == 0
    assert [one.kind for one in feed.view.incidents] == ["journal"]


def test_an_edited_record_ends_what_is_shown(folder):
    change(folder, "UPDATE events SET at = 77.0 WHERE idx = 2")
    feed = JournalFeed(folder)
    feed.refresh()
    assert set(feed.view.devices) == {"a", "b"}
    assert not feed.view.rounds
    assert "record 2: its content and its hash differ" in feed.damage
    assert "ends with record 1" in feed.damage
    assert feed.view.devices["a"].inferences == 5  # telemetry is not chained


def test_a_journal_that_was_replaced_by_a_shorter_one_is_noticed(folder, tmp_path):
    feed = JournalFeed(folder)
    feed.refresh()
    for file in folder.iterdir():
        file.unlink()
    with Journal.open(folder) as journal:
        journal.append([born("z")], 0.0)
    feed.refresh()
    assert "was known to reach 4" in feed.damage
    assert "z" not in feed.view.devices


def test_telemetry_is_read_in_pieces_and_none_is_read_twice(tmp_path):
    count = TELEMETRY_BATCH + 3
    with Journal.open(tmp_path) as journal:
        for number in range(count):
            journal.add_telemetry("a", float(number // 7), Telemetry(inferences=1))
        feed = JournalFeed(tmp_path)
        assert feed.refresh() == count
        assert feed.view.devices["a"].inferences == count
        heard, mark = JournalReader(tmp_path).telemetry_since(TELEMETRY_START)
        assert len(heard) == TELEMETRY_BATCH
        assert len(JournalReader(tmp_path).telemetry_since(mark)[0]) == 3


def test_telemetry_is_followed_though_the_servers_clock_was_put_back(folder):
    feed = JournalFeed(folder)
    feed.refresh()
    with Journal.open(folder) as journal:
        journal.add_telemetry("a", 3.0 - 365 * 86_400, Telemetry(inferences=7))
    assert feed.refresh() == 1
    assert feed.view.devices["a"].inferences == 12


def test_forgetting_telemetry_gives_no_number_twice(folder):
    feed = JournalFeed(folder)
    feed.refresh()
    with Journal.open(folder) as journal:
        journal.prune_telemetry(1e12)
    with Journal.open(folder) as journal:
        journal.add_telemetry("a", 4.0, Telemetry(inferences=7))
    assert feed.refresh() == 1
    assert feed.view.devices["a"].inferences == 12


def test_telemetry_from_before_a_time_can_be_left_out(folder):
    feed = JournalFeed(folder, telemetry_from=4.0)
    feed.refresh()
    assert feed.view.devices["a"].inferences == 0


def test_an_event_of_a_newer_version_is_counted_and_the_rest_is_shown(folder, monkeypatch):
    from journal import chain

    decode = chain._DECODER

    class Older:
        def decode(self, payload):
            if b"update-accepted" in payload:
                raise chain.msgspec.DecodeError("unknown tag")
            return decode.decode(payload)

    monkeypatch.setattr(chain, "_DECODER", Older())
    feed = JournalFeed(folder)
    feed.refresh()
    assert feed.unknown == 1
    assert feed.damage == ""
    assert isinstance(feed.view.incidents[0].text, str)
    assert feed.view.rounds[1].counted
