"""``slimfleet top``."""

import argparse
import contextlib
import curses
import locale
import os
import sys
import time
from collections.abc import Mapping

from journal.errors import JournalError
from monitor.device_data import device_detail, device_rows
from monitor.device_text import device_lines
from monitor.feed import JournalFeed
from monitor.fleet_data import overview
from monitor.fleet_text import COLUMNS
from monitor.text_table import cut
from monitor.top_view import (
    BACKSPACE,
    DOWN,
    ENTER,
    ESCAPE,
    PAGE_DOWN,
    PAGE_UP,
    SORTS,
    UP,
    TopState,
    device_screen,
    fleet_lines,
    fleet_screen,
    press,
)
from slimfleet.fleet_journal import (
    end,
    print_data,
    print_lines,
    read_feed,
    screen_columns,
    seen_in,
)
from slimfleet.journal_access import add_journal_arguments
from slimfleet.shown_fleet import local_time

EXAMPLE = """example:
  slimfleet top --config server.toml
  slimfleet top --config server.toml --once > fleet.txt

keys:
  up, down, page up, page down   move           enter   open the device     q   quit, or back
  n name   l link   p participation   s straggler index   d drift   w training width
  c contribution   u last useful work   a alarms   sort; the same key again, or r, reverses
  /   filter by name, site, link or alarm; enter ends typing, escape takes it away

columns: worked = since its last useful work, part = participation, slow = straggler index; widths
that it trains, has earned, and says it runs. It reads the journal beside a running server and
changes nothing. Without a terminal, or with --once, it prints the table and ends.
"""
KEYS: Mapping[int, str] = {
    curses.KEY_UP: UP,
    curses.KEY_DOWN: DOWN,
    curses.KEY_PPAGE: PAGE_UP,
    curses.KEY_NPAGE: PAGE_DOWN,
    curses.KEY_ENTER: ENTER,
    curses.KEY_BACKSPACE: BACKSPACE,
    10: ENTER,
    13: ENTER,
    27: ESCAPE,
    8: BACKSPACE,
    127: BACKSPACE,
}
INTERVAL_S = 2.0
ESCAPE_MS = 50  # an escape that is followed by nothing for so long is the key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_journal_arguments(parser)
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=INTERVAL_S,
        metavar="S",
        help=f"seconds between two looks at the journal (default {INTERVAL_S:g})",
    )
    parser.add_argument("--sort", choices=list(SORTS), default="n", help="key to begin with")
    parser.add_argument("--filter", default="", metavar="TEXT", help="filter to begin with")
    parser.add_argument("--once", action="store_true", help="print the table and end")
    parser.add_argument(
        "--json", action="store_true", help="print the machine-readable form and end"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the fleet until the reader leaves."""
    feed = read_feed(arguments)
    state = TopState(sort=arguments.sort, wanted=arguments.filter)
    if arguments.json:
        seen = seen_in(feed)
        fleet = overview(feed.view, seen)
        print_data({"overview": fleet, "devices": device_rows(feed.view, seen)})
    elif arguments.once or not _has_terminal():
        print_lines(_printed(state, feed))
    else:
        locale.setlocale(locale.LC_ALL, "")
        os.environ.setdefault("ESCDELAY", str(ESCAPE_MS))
        curses.wrapper(_live, feed, state, arguments.interval)
    return end("top", feed)


def _printed(state: TopState, feed: JournalFeed) -> list[str]:
    seen = seen_in(feed)
    rows = device_rows(feed.view, seen)
    top, head, body = fleet_lines(state, overview(feed.view, seen), rows, screen_columns())
    return [*top, head, *body]


def _live(window: "curses.window", feed: JournalFeed, state: TopState, interval_s: float) -> None:
    """Show and take keys until the reader leaves. A change of size is a key to curses."""
    with contextlib.suppress(curses.error):  # the terminal cannot hide its cursor
        curses.curs_set(0)
    window.timeout(round(1000 * interval_s))
    trouble, looked_at = "", time.monotonic()
    while not state.ended:
        _follow_size(window)
        lines, columns = window.getmaxyx()
        seen = seen_in(feed)
        rows = device_rows(feed.view, seen)
        detail = device_detail(feed.view, state.opened, seen) if state.opened else None
        if detail is not None:
            page = device_lines(detail, seen.now, local_time, max(COLUMNS // 2, columns))
            state, screen = device_screen(state, page, columns, lines)
        else:
            screen = fleet_screen(state, overview(feed.view, seen), rows, columns, lines)
        if trouble:
            screen[-1] = cut(f"! {trouble}", columns)
        _draw(window, screen, columns)
        key = _key(window)
        if key:
            state = press(state, key, rows, page=max(1, lines - 6))
        if time.monotonic() - looked_at >= interval_s:
            trouble, looked_at = _look(feed), time.monotonic()


def _follow_size(window: "curses.window") -> None:
    """Take over the terminal's size, whether or not its signal came: under load one was missed."""
    size = os.get_terminal_size(sys.stdout.fileno())
    if (size.lines, size.columns) != window.getmaxyx():
        curses.resizeterm(size.lines, size.columns)
        window.clear()


def _look(feed: JournalFeed) -> str:
    """Read what is new; return why that could not be done, or ""."""
    try:
        feed.refresh()
    except JournalError as error:
        return str(error)
    return ""


def _key(window: "curses.window") -> str:
    """Return the next key, "" where none came in time or it is none of ours."""
    try:
        code = window.get_wch()
    except curses.error:
        return ""
    if isinstance(code, str):
        return KEYS.get(ord(code), code if code.isprintable() else "")
    return KEYS.get(code, "")


def _draw(window: "curses.window", screen: list[str], columns: int) -> None:
    window.erase()
    for place, line in enumerate(screen):
        marked = line.startswith("> ")
        try:
            window.addnstr(place, 0, line, columns, curses.A_REVERSE if marked else curses.A_NORMAL)
        except curses.error:  # the last cell of the screen, or one that has just become smaller
            continue
    window.refresh()


def _has_terminal() -> bool:
    there = sys.stdin.isatty() and sys.stdout.isatty()
    return there and os.environ.get("TERM", "dumb") != "dumb"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: use seconds from 0.1 to 3600")
    return value
