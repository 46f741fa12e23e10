"""Look at a fleet through its server's journal, on the server's host, and change nothing."""

import argparse
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from exporter.run_weights import BELOW, JOURNAL
from journal.reader import DATABASE
from monitor.feed import JournalFeed
from monitor.fleet_data import Seen
from monitor.fleet_text import COLUMNS
from slimfleet.config import ConfigError, ServerConfig, read_config
from slimfleet.exit_codes import ExitCode

CONFIG_HELP = "server.toml: the journal in its folder is read"


def add_journal_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the journal is, and the form of what is printed."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    add_journal_argument(where)


def add_journal_argument(parser: Any) -> None:
    """Add ``--journal`` to a parser or a group of it."""
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FOLDER",
        help="data folder of a server, or a copy of its journal",
    )


def journal_folder(arguments: argparse.Namespace) -> Path:
    """Return the folder of the journal that the arguments name.

    Raises:
        ConfigError: neither is given, the configuration cannot be read, or there is no journal.
    """
    if arguments.journal is not None:
        return find_journal(arguments.journal)
    if arguments.config is None:
        raise ConfigError("where is the journal? give --config server.toml, or --journal FOLDER")
    config = read_config(arguments.config, ServerConfig)
    return find_journal(arguments.config.resolve().parent / config.folder)


def find_journal(folder: Path) -> Path:
    """Return where the journal lies in or below a folder.

    Raises:
        ConfigError: nowhere.
    """
    places = [folder, *(folder / below / JOURNAL for below in BELOW)]
    for place in places:
        if (place / DATABASE).is_file():
            return place
    raise ConfigError(
        f"{folder} holds no journal; name the data folder of a server, `folder` in server.toml"
    )


def read_feed(arguments: argparse.Namespace) -> JournalFeed:
    """Return the journal that the arguments name, read to its end.

    Raises:
        ConfigError: there is none.
        JournalError: it is of another version, or cannot be read for now.
    """
    feed = JournalFeed(journal_folder(arguments))
    feed.refresh()
    return feed


def seen_in(feed: JournalFeed) -> Seen:
    """Return what is true of a feed just now. Nobody is asked whether the server is there."""
    return Seen(now=time.time(), damage=feed.damage)


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
