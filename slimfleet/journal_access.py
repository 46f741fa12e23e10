"""Where a server's journal is, for commands that read it beside the server."""

import argparse
from pathlib import Path

from exporter.run_weights import BELOW, JOURNAL
from journal.reader import DATABASE
from slimfleet.config import ConfigError, ServerConfig, read_config


def add_journal_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two ways to name a journal, one of which is needed."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="server.toml: takes the journal of its `folder`"
    )
    group.add_argument(
        "--journal",
        type=Path,
        metavar="FOLDER",
        help="folder of a journal or of a server, also a copy of one",
    )


def journal_folder(arguments: argparse.Namespace) -> Path:
    """Return the folder that holds the journal.

    Raises:
        ConfigError: there is none, or the configuration cannot be read.
    """
    if arguments.config is not None:
        folder = Path(arguments.config).parent / read_config(arguments.config, ServerConfig).folder
        how = f"`folder` in {arguments.config} is {folder}, and no server has written there yet"
    else:
        folder = Path(arguments.journal)
        how = (
            f"{folder} holds no journal; name the `folder` of server.toml, or a copy of its journal"
        )
    found = find_journal(folder)
    if found is None:
        raise ConfigError(how)
    return found


def find_journal(folder: Path) -> Path | None:
    """Return where the journal of a server's folder is, or of a journal's own; None = nowhere."""
    candidates = [folder] + [folder / below / JOURNAL for below in BELOW]
    return next((one for one in candidates if (one / DATABASE).is_file()), None)
