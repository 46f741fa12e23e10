"""``slimfleet rewards``."""

import argparse

from monitor.fleet_data import reward_rows
from monitor.fleet_text import reward_lines
from slimfleet.fleet_journal import (
    end,
    print_data,
    print_lines,
    read_feed,
    screen_columns,
)
from slimfleet.journal_access import add_journal_arguments

EXAMPLE = """example:
  slimfleet rewards --config server.toml
  slimfleet rewards --journal copy-of-server-data --json

Widths: earned by the last allocation, sent to the device, and the one that it says it runs. It
reads the journal beside a running server and changes nothing. Why one device got its width, and
what would have changed it: slimfleet explain.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_journal_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Print who contributed and earned what."""
    feed = read_feed(arguments)
    rows = reward_rows(feed.view)
    if arguments.json:
        print_data(rows)
    else:
        print_lines(reward_lines(rows, screen_columns()))
    return end("rewards", feed)
