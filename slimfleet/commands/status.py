"""``slimfleet status``."""

import argparse
import asyncio
import json
import os
import shutil
import sys

from broker.messages import Message
from broker.topics import Topic
from monitor.status_table import (
    COLUMNS,
    StatusView,
    fold,
    status_data,
    status_filters,
    status_lines,
)
from slimfleet.exit_codes import ExitCode
from slimfleet.operator_link import (
    Access,
    add_access_arguments,
    listen,
    operator_link,
    read_access,
)

EXAMPLE = """example:
  slimfleet status --config server.toml --password-file operator-password
  slimfleet status --broker mqtts://broker.plant:8883 --ca-file ca.pem --fleet pumps \\
    --operator anna --password-file anna-password --json

The table shows four widths of each device: the one that it trains, the one that it has earned
(entitled), the one that it was sent (deployed), and the one that it says it runs. Rounds are
taken/missed. Below each device stands why.
"""
TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_access_arguments(parser, timeout_s=TIMEOUT_S)
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Print who is there; fails where no server ever served this fleet."""
    view = asyncio.run(_collect(read_access(arguments), arguments.timeout))
    if arguments.json:
        sys.stdout.write(json.dumps(status_data(view), indent=2) + "\n")
    else:
        # A table for people: as wide as their terminal, and 80 columns in a file or pipe.
        columns = shutil.get_terminal_size((COLUMNS, 24)).columns if _on_terminal() else COLUMNS
        sys.stdout.write("\n".join(status_lines(view, max(COLUMNS, columns))) + "\n")
    if view.server is None and view.summary is None:
        sys.stderr.write(
            f"slimfleet status: nothing is known of fleet {view.fleet}: check --fleet, whether its"
            " server runs, and whether this user may read its topics\n"
        )
        return ExitCode.FAILURE
    return ExitCode.DONE


async def _collect(access: Access, timeout_s: float) -> StatusView:
    view = StatusView(access.fleet)

    def heard(topic: Topic, message: Message) -> bool:
        nonlocal view
        view = fold(view, topic, message)
        return view.complete

    async with operator_link(access, status_filters(access.fleet)) as link:
        await listen(link, access, heard, timeout_s)
    return view


def _on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
