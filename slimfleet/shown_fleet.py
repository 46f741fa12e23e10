"""``slimfleet rounds`` and ``slimfleet device ID`` without an action: what the journal tells."""

import argparse
import time
from pathlib import Path

from monitor.device_data import device_detail
from monitor.device_text import device_lines
from monitor.fleet_data import overview
from monitor.fleet_text import headline, round_lines
from monitor.round_data import round_rows
from slimfleet.config import ConfigError
from slimfleet.fleet_journal import (
    end,
    print_data,
    print_lines,
    read_feed,
    screen_columns,
    seen_in,
)


def add_look_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what looking needs, to a parser that has ``--config`` already."""
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FOLDER",
        help="to look: folder of a journal or of a server, also a copy of one",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the machine-readable form of what is shown"
    )


def show_rounds(arguments: argparse.Namespace) -> int:
    """Print the table of rounds, the newest first, and return the exit status."""
    feed = read_feed(arguments)
    seen, rows = seen_in(feed), round_rows(feed.view)
    if arguments.json:
        print_data(rows)
    else:
        columns = screen_columns()
        head = headline(overview(feed.view, seen), columns)
        print_lines([*head, "", *round_lines(rows, seen.now, columns)])
    return end("rounds", feed)


def show_device(arguments: argparse.Namespace, name: str) -> int:
    """Print everything that is known of a device, and return the exit status.

    Raises:
        ConfigError: nobody knows it.
    """
    feed = read_feed(arguments)
    seen = seen_in(feed)
    detail = device_detail(feed.view, name, seen)
    if detail is None:
        known = sorted(feed.view.devices)
        some = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
        raise ConfigError(f"no device {name} in this fleet; it has {some or 'none yet'}")
    if arguments.json:
        print_data(detail)
    else:
        print_lines(device_lines(detail, seen.now, local_time, screen_columns()))
    return end("device", feed)


def local_time(at: float) -> str:
    """Return a moment in the zone of this machine, to the second."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (ValueError, OverflowError, OSError):  # beyond what a calendar knows
        return f"{at:.0f} s since 1970"
