"""Tables for a terminal: 80 columns, no colour, and nothing in them steers the terminal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import DropReason, InstallState, Report, Telemetry
from journal import events as e
from monitor.device_data import Seen, device_detail
from monitor.device_text import device_lines
from monitor.fleet_data import overview, reward_rows
from monitor.fleet_text import headline, reward_lines, round_lines
from monitor.folding import fold
from monitor.round_data import round_rows
from monitor.text_table import ago, cut, seconds, size, table, width
from tests.unit.test_fleet_view import accepted, born, closed, dropped, folded, opened
from tests.unit.test_metrics import started

SEEN = Seen(now=1000.0)
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\u202eevil<script>"
CURVE_POINT = e.CurvePoint(width=1.0, score=0.9, low=0.8, high=0.95, offered=True, fitted=0.9)


def reward(device, contribution=0.5, **changes):
    known = {
        "share": 1.2,
        "value": 0.1,
        "target": 0.9,
        "width": 0.5,
        "score": 0.91,
        "reason": "1.2 times the average earns width 0.5",
        "low": 0.4,
        "high": 0.6,
        "equals": ("b",),
    }
    return e.Reward(device=device, contribution=contribution, **known | changes)


def fleet(name="a", text="a reason"):
    """Return a view in which everything that has a text has this one."""
    view = folded(
        started(labels={name: {"site": text}}),
        e.DeviceBorn(device=name, session=3, agent=text, can_train=True, running="", emulated=text),
        born("b"),
        e.PresenceChanged(device=name, state=e.LinkState.ONLINE, cause=text),
        opened(1, name, "b"),
        accepted(1, name, round_s=4.0),
        dropped(1, "b", DropReason.LATE, text),
        closed(1, name),
        opened(2, "b", not_invited={name: text}),
        e.DeviceDropped(round=2, device="b", reason=DropReason.TRAINING_FAILED, detail=text),
        e.RoundClosed(round=2, aggregated=(), reason=text),
        e.EntitlementsRevised(
            round=2,
            rule="fair",
            note=text,
            rewards=(reward(name, reason=text), reward("b", -0.1)),
            widths={},
        ),
        e.DeploymentIssued(
            device=name, counter=4, digest="d" * 64, width=0.5, reason=text, expires_at=0.0
        ),
        e.InstallReported(
            device=name,
            state=InstallState.FAILED,
            report=Report(
                counter=4, state=InstallState.FAILED, running="", installed="", detail=text
            ),
        ),
    )
    view.hear(name, 990.0, Telemetry(inferences=5, memory_bytes=123_456_789, latency_p95_s=0.012))
    return view


def everything(view, name, columns=80):
    """Return all lines that the commands print of a view."""
    detail = device_detail(view, name, SEEN)
    return [
        *headline(overview(view, SEEN), columns),
        *round_lines(round_rows(view), SEEN.now, columns),
        *reward_lines(reward_rows(view), columns),
        *device_lines(detail, SEEN.now, lambda at: f"t{at:g}", columns),
    ]


def test_the_table_of_rounds_has_funnel_drops_durations_bytes_and_score():
    view = fleet()
    view.rounds[1].curve = (CURVE_POINT,)
    lines = round_lines(round_rows(view), SEEN.now)
    assert lines[0].split() == [
        *("round", "closed", "elig", "inv", "acc", "start", "upl", "aggr"),
        *("p50", "p95", "sent", "fetched", "score"),
    ]
    assert lines[1].split()[:8] == ["2", "16", "min", "2", "1", "0", "0", "0"]
    assert lines[2] == "    NOT AGGREGATED: a reason"
    assert lines[3] == "    missed: 1 training-failed, 1 a reason"
    assert lines[4].split()[3:] == [
        *("2", "2", "1", "1", "1", "1", "4.0s", "4.0s", "100B", "0B", "0.900")
    ]
    assert lines[5] == "    missed: 1 late"


def test_rewards_say_contribution_interval_widths_and_why():
    lines = reward_lines(reward_rows(fleet()))
    assert lines[1].split() == ["a", "+0.5000", "+0.4000", "+0.6000", "1.20", "0.5", "0.5", "-"]
    assert lines[2:5] == [
        "    a reason",
        "    does not differ significantly from b",
        "    has not confirmed that it runs what it was sent",
    ]
    assert lines[5].split()[0] == "b"


def test_a_device_page_has_link_work_training_model_reward_and_machine():
    text = "\n".join(everything(fleet(), "a"))
    for expected in (
        "  online: a reason (since 17 min ago)",
        "  last telemetry: 10 s ago",
        "  last useful work: 10 s ago (inference)",
        "  5 answers; 95 % of the calls within 12 ms",
        "  participation 50 %: 1 of 2 eligible rounds; straggler index 1.00",
        "  NOT CONFIRMED",
        "  contribution +0.5000 (95 % interval +0.4000 to +0.6000)",
        "memory of the agent 123 MB",
        "Last errors, the newest first",
        "  t13  model: failed width 0: a reason",
    ):
        assert expected in text
    (turn,) = [line for line in text.splitlines() if line.split()[-1:] == ["aggregated"]]
    assert turn.split() == ["1", "-", "aggregated"]


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_everything_fits_the_columns(columns):
    for view in (fleet(), fleet("a" * 64, "word " * 80), fleet("z", "x" * 400)):
        name = next(name for name in view.devices if name != "b")
        lines = everything(view, name, columns)
        assert max(map(len, lines)) <= columns
        assert len(lines) > 40


def test_large_fleets_and_long_campaigns_fit_80_columns():
    names = [f"d{at}" for at in range(1200)]
    view = folded(
        *map(born, names),
        opened(98765, *names),
        *(accepted(98765, name, round_s=5999.0 + at) for at, name in enumerate(names)),
        closed(98765, *names),
    )
    view.rounds[98765].curve = (CURVE_POINT,)
    lines = round_lines(round_rows(view), SEEN.now)
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[-1] == "0.900"


def test_text_of_devices_and_operators_cannot_steer_the_terminal():
    lines = everything(fleet("a", HOSTILE), "a")
    assert all(line.isprintable() for line in lines)
    assert any("evil<script>" in line for line in lines)


def test_nothing_that_is_shown_has_colour():
    assert not re.search(r"\x1b", "\n".join(everything(fleet(), "a")))


def test_an_empty_fleet_is_said_in_words():
    view = folded()
    assert round_lines(round_rows(view), 0.0) == ["no round was opened yet"]
    assert reward_lines(reward_rows(view))[0].startswith("no rewards yet")
    assert "0 of 0 devices there" in headline(overview(view, SEEN))[0]


def test_what_needs_attention_stands_above():
    view = fleet()
    view.paused = "paused by anna: night shift"
    seen = Seen(now=1.0, server_online=False, damage="record 7: edited")
    text = "\n".join(headline(overview(view, seen)))
    assert "! THE JOURNAL IS DAMAGED: record 7: edited" in text
    assert "! no server writes this journal" in text
    assert "! rounds are paused by anna: night shift" in text
    assert "not online: 1 stale, 1 never-seen" in text


@given(
    st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=5),
    st.integers(24, 100),
)
def test_a_table_keeps_its_width_its_rows_and_prints_nothing_else(rows, columns):
    lines = table(("one", "two", "three"), rows, columns, shrink=(0, 1, 2))
    assert len(lines) == len(rows) + 1
    assert all(width(line) <= columns for line in lines)
    assert all(line.isprintable() for line in lines)


def test_short_cells_are_never_cut():
    rows = [("pump-7", "12"), ("p", "3")]
    assert table(("device", "n"), rows, 80) == ["device  n", "pump-7 12", "p       3"]


def test_wide_characters_count_for_two_columns():
    assert width("水") == 2
    assert cut("水水水", 5) == "水水…"
    assert table(("a", "b"), [("水", "1")], 80)[1] == "水 1"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 s"), (0.004, "4 ms"), (1.26, "1.3 s"), (59, "59 s"), (150, "2 min"), (1e9, "11574 d")],
)
def test_durations_stand_in_their_largest_unit(value, shown):
    assert seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123_000_000, "123 MB")]
)
def test_sizes_stand_in_their_largest_unit(value, shown):
    assert size(value) == shown


def test_a_moment_in_the_future_is_said_to_be_one():
    assert ago(100.0, 100.5) == "now"
    assert ago(100.0, 40.0) == "60 s"
    assert ago(100.0, 100.0 + 365 * 86400) == "in 365 d"
    assert ago(100.0, None) == "-"


def test_an_index_of_an_unknown_device_is_none():
    view = fleet()
    assert device_detail(view, "nobody", SEEN) is None
    fold(view, 1.0, born("late-comer"))
    assert device_lines(device_detail(view, "late-comer", SEEN), 0.0, str)[0] == "late-comer"
