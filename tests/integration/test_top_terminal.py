"""`slimfleet top` on a (pseudo) terminal: keys, new events, a change of size, and the end."""

import sys

import pytest

from journal import events as e
from journal.store import Journal
from tests.fakes.terminal import Terminal
from tests.unit.test_fleet_text import HOSTILE
from tests.unit.test_fleet_view import born
from tests.unit.test_metrics import started

pytestmark = [pytest.mark.slow]
DEVICES = [f"pump-{at}" for at in range(1, 41)]


@pytest.fixture
def folder(tmp_path):
    with Journal.open(tmp_path / "journal") as journal:
        labels = {"pump-7": {"site": HOSTILE}}
        journal.append([started(labels=labels), *map(born, DEVICES)], 1.0)
        journal.append(
            [e.PresenceChanged(device="pump-9", state=e.LinkState.OFFLINE, cause="unplugged")], 2.0
        )
    return tmp_path


@pytest.fixture
def top(folder):
    command = [sys.executable, "-m", "slimfleet", "top", "--journal", str(folder)]
    found = Terminal([*command, "--interval", "0.2"])
    yield found
    found.close()


def test_keys_sort_filter_open_and_end(top):
    top.until(r"^> pump-1 (.|\n)*^q quit  / filter ")
    assert top.text.startswith("fleet pumps: initialising; round 0 of at most 9")
    assert "40 of 40 devices, by name" in top.text
    top.press("l")
    top.until(r"by link(.|\n)*^> pump-9 .* offline .*offline$")
    top.press("/pump-9")
    top.until("filter: pump-9_")
    top.press("\r")
    top.until(r"1 of 40 devices, by link; filter: pump-9$(.|\n)*^> pump-9 ")
    top.press("\r")
    top.until(r"^pump-9$(.|\n)*unplugged")
    top.press("j" * 30)
    top.until(r"^Timeline, the newest first(.|\n)*birth: session 1")
    top.press("q")
    top.until("1 of 40 devices")
    top.press("\x1b")
    top.until("40 of 40 devices")
    top.press("q")
    assert top.end() == (0, "")
    assert top.echoes


def test_what_happens_meanwhile_shows_and_a_change_of_size_is_followed(top, folder):
    top.until(r"^> pump-1 ")
    with Journal.open(folder / "journal") as journal:
        journal.append([born("aaa-new")], 3.0)
    top.until("^  aaa-new|^> aaa-new")
    assert "pump-40" not in top.text
    top.resize(60, 120)
    top.until(r"^  pump-40(.|\n)*^q quit")
    top.resize(4, 20)
    top.until(r"^q quit  / filter  e…$")
    top.press("q")
    assert top.end() == (0, "")


def test_hostile_text_does_not_reach_the_terminal(top):
    top.until(r"^> pump-1 ")
    top.press("/pump-7\r")
    top.until(r"^> pump-7 .*\?")
    top.press("\r")
    top.until("evil<script>")
    assert "\x1b]0;" not in top.raw
    assert "\u202e" not in top.raw
    top.press("qq")
    assert top.end() == (0, "")


def test_an_interrupt_leaves_the_terminal_in_order(top):
    top.until(r"^> pump-1 ")
    assert not top.echoes
    top.press("\x03")
    assert top.end() == (130, "")
    assert top.echoes


def test_where_the_cursor_cannot_be_moved_the_table_is_printed_once(folder):
    command = [sys.executable, "-m", "slimfleet", "top", "--journal", str(folder)]
    found = Terminal(command, lines=60, term="dumb")
    try:
        assert found.end() == (0, "")
        assert "pump-40" in found.text
        assert "\x1b" not in found.raw
    finally:
        found.close()
