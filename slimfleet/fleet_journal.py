"""Look at a fleet through its server's journal, on the server's host, and change nothing."""

import argparse
import json
import math
import os
import shutil
import sys
import time
from typing import Any

from monitor.device_data import Seen
from monitor.feed import JournalFeed
from monitor.fleet_text import COLUMNS
from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode
from slimfleet.journal_access import journal_folder


def read_feed(arguments: argparse.Namespace) -> JournalFeed:
    """Return the journal that ``--config`` or ``--journal`` names, read to its end.

    Raises:
        ConfigError: neither is given, both are, or there is no journal.
        JournalError: it is of another version, or cannot be read for now.
    """
    if arguments.config is None and arguments.journal is None:
        raise ConfigError("where is the journal? give --config server.toml, or --journal FOLDER")
    if arguments.config is not None and arguments.journal is not None:
        raise ConfigError("--config and --journal both say where the journal is: give one of them")
    feed = JournalFeed(journal_folder(arguments))
    feed.refresh()
    return feed


def seen_in(feed: JournalFeed) -> Seen:
    """Return what is true of a feed just now. A server that is there holds the journal's lock."""
    return Seen(now=time.time(), server_online=feed.has_writer(), damage=feed.damage)


def screen_columns() -> int:
    """Return how wide a table may be: as wide as the terminal, 80 columns in a file or a pipe."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return COLUMNS
    return max(COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns)


def print_lines(lines: list[str]) -> None:
    """Print lines for people."""
    sys.stdout.write("\n".join(lines) + "\n")


def print_data(data: Any) -> None:
    """Print data for programs. JSON knows no infinite numbers, and devices may send such: null."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, allow_nan=False) + "\n")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def end(name: str, feed: JournalFeed) -> int:
    """Say on stderr what is wrong with the journal, and return the exit status.

    Args:
        name: of the subcommand.
        feed: what was shown.
    """
    if feed.unknown:
        sys.stderr.write(
            f"slimfleet {name}: {feed.unknown} events are of a newer version and not shown: update"
            " slimfleet here\n"
        )
    if not feed.damage:
        return ExitCode.DONE
    sys.stderr.write(f"slimfleet {name}: THE JOURNAL IS DAMAGED: {feed.damage}\n")
    return ExitCode.FAILURE
