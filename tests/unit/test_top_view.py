"""The keys of `slimfleet top`, and what it shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import DropReason
from journal import events as e
from monitor.device_data import Seen, device_rows
from monitor.fleet_data import overview
from monitor.top_view import (
    BACKSPACE,
    DOWN,
    ENTER,
    ESCAPE,
    PAGE_DOWN,
    SORTS,
    UP,
    TopState,
    arranged,
    device_screen,
    fleet_screen,
    press,
)
from tests.unit.test_fleet_text import HOSTILE
from tests.unit.test_fleet_view import accepted, born, closed, dropped, folded, opened
from tests.unit.test_metrics import started

SEEN = Seen(now=50.0)
NAMES = ("ant", "bee", "cat")


@pytest.fixture
def view():
    return folded(
        started(labels={"bee": {"site": "hall-2"}}),
        *map(born, NAMES),
        e.PresenceChanged(device="ant", state=e.LinkState.ONLINE, cause="heard"),
        e.PresenceChanged(device="cat", state=e.LinkState.OFFLINE, cause="last will"),
        opened(1, *NAMES),
        accepted(1, "ant", round_s=2.0),
        accepted(1, "bee", round_s=6.0),
        dropped(1, "cat", DropReason.OFFLINE),
        closed(1, "ant", "bee"),
    )


@pytest.fixture
def rows(view):
    return device_rows(view, SEEN)


def names(state, rows):
    return [row["device"] for row in arranged(state, rows)]


def pressed(rows, *keys, state=None):
    state = state or TopState()
    for key in keys:
        state = press(state, key, rows)
    return state


def test_q_ends_it():
    assert press(TopState(), "q", []).ended


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("n", "ant bee cat"),
        ("l", "cat bee ant"),
        ("p", "cat ant bee"),
        ("s", "bee ant cat"),
        ("a", "bee cat ant"),
    ],
)
def test_a_key_sorts_with_what_needs_attention_first(rows, key, order):
    assert names(press(TopState(sort="w"), key, rows), rows) == order.split()


def test_the_same_key_again_and_r_reverse_the_order(rows):
    assert names(pressed(rows, "n"), rows) == ["cat", "bee", "ant"]
    assert names(pressed(rows, "r"), rows) == ["cat", "bee", "ant"]
    assert names(pressed(rows, "r", "l"), rows) == ["cat", "bee", "ant"]
    assert names(pressed(rows, "r", "r"), rows) == list(NAMES)


@pytest.mark.parametrize(
    ("text", "found"), [("be", ["bee"]), ("HALL", ["bee"]), ("offline", ["cat"]), ("zzz", [])]
)
def test_a_filter_looks_at_name_site_link_and_alarms(rows, text, found):
    state = pressed(rows, "/", *text, ENTER)
    assert not state.typing
    assert names(state, rows) == found


def test_while_a_filter_is_typed_letters_are_no_commands(rows):
    state = pressed(rows, "/", "q", "n", BACKSPACE)
    assert (state.wanted, state.typing, state.ended) == ("q", True, False)
    assert pressed(rows, ESCAPE, state=state) == TopState()


def test_the_mark_moves_and_stays_on_its_device_when_the_order_changes(rows):
    state = pressed(rows, DOWN)
    assert state.selected == "bee"
    assert pressed(rows, "l", state=state).selected == "bee"
    assert pressed(rows, UP, UP, UP, state=state).selected == "ant"
    assert pressed(rows, PAGE_DOWN, state=state).selected == "cat"


def test_enter_opens_the_marked_device_and_q_goes_back(rows):
    state = pressed(rows, DOWN, ENTER)
    assert state.opened == "bee"
    back = pressed(rows, DOWN, "q", state=state)
    assert (back.opened, back.ended, back.selected) == ("", False, "bee")


def test_with_nobody_to_mark_keys_do_no_harm():
    assert pressed([], DOWN, ENTER, PAGE_DOWN, "k").opened == ""


def test_the_screen_has_the_head_every_device_and_the_keys(view, rows):
    screen = fleet_screen(TopState(), overview(view, SEEN), rows, 80, 24)
    assert len(screen) == 24
    assert screen[0].startswith("fleet pumps:")
    (head,) = [line for line in screen if line.startswith("  device")]
    assert head.split() == [
        *("device", "site", "link", "worked", "part", "slow"),
        *("train", "earn", "runs", "drift", "alarms"),
    ]
    marked = [line for line in screen if line.startswith("> ")]
    assert [line.split()[1] for line in marked] == ["ant"]
    (cat,) = [line for line in screen if line.startswith("  cat")]
    assert cat.split() == ["cat", "offline", "-", "0", "%", "-", "-", "-", "-", "-", "offline"]
    assert screen[-1].startswith("q quit")


def test_the_list_scrolls_with_the_mark(view):
    for at in range(200):
        view.device(f"pump-{at:03}")
    rows = device_rows(view, SEEN)
    state = TopState(selected="pump-150")
    screen = fleet_screen(state, overview(view, SEEN), rows, 80, 24)
    assert any(line.startswith("> pump-150") for line in screen)
    assert len(screen) == 24


def test_a_page_longer_than_the_screen_scrolls_to_its_end_and_no_further():
    page = [f"line {at}" for at in range(50)]
    state, screen = device_screen(TopState(opened="a", scroll=999), page, 80, 11)
    assert state.scroll == 40
    assert screen[0] == "line 40"
    assert screen[9] == "line 49"
    assert "lines 41 to 50 of 50" in screen[-1]


KEYS = st.sampled_from([*SORTS, "r", "/", "q", "x", "é", "", UP, DOWN, ENTER, ESCAPE, BACKSPACE])


@given(st.lists(KEYS, max_size=30), st.integers(1, 200), st.integers(1, 60))
def test_whatever_is_pressed_on_a_terminal_of_any_size_the_screen_fits(keys, columns, lines):
    view = folded(started(labels={"ant": {"site": HOSTILE}}), *map(born, NAMES))
    rows = device_rows(view, SEEN)
    state = pressed(rows, *keys)
    screen = fleet_screen(state, overview(view, SEEN), rows, columns, lines)
    assert len(screen) == lines
    assert all(len(line) <= columns and line.isprintable() for line in screen)
    _, page = device_screen(state, ["some line"] * 9, columns, lines)
    assert len(page) == lines
    assert all(len(line) <= columns for line in page)
