"""Whoever follows the fleet sees the same as whoever loads it anew."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Telemetry
from monitor.device_data import Seen, device_rows
from monitor.folding import fold
from monitor.web.live_rows import KEPT_LOOKS, LiveRows, live_overview
from tests.unit.test_fleet_view import accepted, born, closed, dropped, folded, opened

SEEN = Seen(now=5.0, server_online=True)
HAPPENINGS = [
    born("a"),
    born("b"),
    born("<img src=x>"),
    opened(1, "a", "b"),
    accepted(1, "a"),
    dropped(1, "b"),
    closed(1, "a"),
    opened(2, "a", not_invited={"b": "offline"}),
    accepted(2, "a"),
    closed(2, "a"),
]


def told(said):
    """Return the events of a stream as (kind, data)."""
    blocks = [block for block in said.decode().split("\n\n") if block]
    lines = [block.split("\n") for block in blocks]
    assert all(len(one) == 2 for one in lines)
    return [(one[0].removeprefix("event: "), json.loads(one[1][6:])) for one in lines]


class Page:
    """What a browser does with the events: the same few lines as in the page."""

    def __init__(self, snapshot):
        [(kind, data)] = told(snapshot)
        assert kind == "snapshot"
        self.overview = data["overview"]
        self.rows = {row["device"]: row for row in data["devices"]}

    def hear(self, said):
        for kind, data in told(said):
            if kind == "overview":
                self.overview |= data
            else:
                for row in data:
                    self.rows[row["device"]] = self.rows.get(row["device"], {}) | row


def plain(data):
    return json.loads(msgspec.json.encode(data))


@given(st.lists(st.integers(0, len(HAPPENINGS) - 1), max_size=20), st.integers(0, 5), st.booleans())
def test_a_page_that_follows_shows_what_a_page_that_loads_anew_shows(cut, start, online):
    view, live = folded(*HAPPENINGS[:start]), LiveRows()
    live.look(view, SEEN)
    page, number = Page(live.snapshot()), live.number
    for at, event in enumerate(HAPPENINGS[start:]):
        fold(view, 10.0 + at, event)
        if at in cut:  # several events between two looks, telemetry in between
            continue
        view.hear("a", 11.0 + at, Telemetry(inferences=at))
        seen = Seen(now=20.0 + at, server_online=online)
        live.look(view, seen)
        page.hear(live.since(number))
        number = live.number
    seen = Seen(now=99.0, server_online=online)
    live.look(view, seen)
    page.hear(live.since(number))
    assert list(page.rows.values()) == plain(
        [row for name in page.rows for row in device_rows(view, seen) if row["device"] == name]
    )
    assert len(page.rows) == len(view.devices)
    assert {**page.overview, "now": 0} == plain({**live_overview(view, seen), "now": 0})


def test_only_what_changed_of_a_device_is_told():
    view, live = folded(born("a"), born("b")), LiveRows()
    live.look(view, SEEN)
    view.hear("a", 7.0, Telemetry(inferences=3))
    assert live.look(view, SEEN)
    [(_, overview), (kind, rows)] = told(live.since(live.number - 1))
    assert kind == "devices"
    assert [row["device"] for row in rows] == ["a"]
    assert rows[0]["inferences"] == 3
    assert set(rows[0]) <= {
        "device", "telemetry_at", "inferences", "useful_at", "useful", "memory_bytes", "outbox",
        "latency_p95_s",
    }  # fmt: skip
    assert overview["now"] == 5.0
    assert "links" not in overview


def test_nothing_is_told_where_nothing_happened():
    view, live = folded(born("a")), LiveRows()
    assert live.look(view, SEEN)
    assert not live.look(view, Seen(now=6.0, server_online=True))
    assert live.since(live.number) == b""


def test_a_reader_that_is_too_far_behind_has_to_begin_again():
    view, live = folded(born("a")), LiveRows()
    live.look(view, SEEN)
    first = live.number
    for at in range(KEPT_LOOKS):
        view.hear("a", 10.0 + at, Telemetry(inferences=1))
        live.look(view, SEEN)
    assert len(told(live.since(first))) == 2 * KEPT_LOOKS
    view.hear("a", 100.0, Telemetry(inferences=1))
    live.look(view, SEEN)
    assert live.since(first) is None
    assert live.since(live.number + 1) is None


def test_a_server_that_goes_changes_the_rows_of_devices_that_nobody_touched():
    view, live = folded(born("a")), LiveRows()
    fold(view, 1.0, presence("a", "online"))
    live.look(view, SEEN)
    live.look(view, Seen(now=6.0, server_online=False))
    [_, (_, rows)] = told(live.since(live.number - 1))
    assert [row["device"] for row in rows] == ["a"]
    assert (rows[0]["link"], rows[0]["alarms"]) == ("stale", ["stale"])


def presence(name, state):
    from journal import events as e

    return e.PresenceChanged(device=name, state=e.LinkState(state), cause="heard")
