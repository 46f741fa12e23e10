"""``slimfleet monitor``: the page of the fleet, and who may use it."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.run_weights import JOURNAL
from monitor.web.people import FILE
from slimfleet.config import ConfigError, ServerConfig, read_config
from slimfleet.exit_codes import ExitCode
from slimfleet.journal_access import find_journal
from slimfleet.monitor_access import add_access_commands, run_access_command
from slimfleet.monitor_config import MonitorSection
from slimfleet.operator_link import Access, add_access_arguments, name_argument, read_access

if TYPE_CHECKING:
    from slimfleet.monitor_process import MonitorPlan

EXAMPLE = """example:
  slimfleet monitor --config server.toml
  slimfleet monitor --config server.toml --operator anna --password-file anna-password
  slimfleet monitor token create --name anna --role operator --config server.toml
  slimfleet monitor user add ben --role viewer --config server.toml
  slimfleet monitor --config server.toml --host 0.0.0.0 --tls-cert page.pem --tls-key page.key

It runs on the server's host, reads the server's journal and changes nothing in it. What operators
do on the page is sent to the server over the broker, which needs an operator's password there. On
this machine anybody may look until there is a user or a token; to act, everybody has to sign in.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_access_arguments(parser, timeout_s=10.0)
    parser.set_defaults(operator=None)
    parser.add_argument(
        "--journal", type=Path, metavar="DIR", help="data folder of the server, without --config"
    )
    parser.add_argument("--host", metavar="ADDRESS", help="serve on it (default 127.0.0.1)")
    parser.add_argument("--port", type=int, metavar="N", help="default 8480; 0 = any free one")
    parser.add_argument("--public-url", metavar="URL", help="what browsers call the page")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="of the page, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument(
        "--users", type=Path, metavar="FILE", help="users and tokens (default: in the data folder)"
    )
    add_access_commands(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until a signal, or change who may use it."""
    section, folder, base = _place(arguments)
    people = arguments.users or _users(section, folder, base)
    if arguments.what:
        return run_access_command(arguments, people)
    from slimfleet.monitor_process import run_monitor

    plan = _plan(arguments, section, base, folder, people)
    asyncio.run(run_monitor(plan, lambda url: _tell(plan, url)))
    return ExitCode.DONE


def _place(arguments: argparse.Namespace) -> tuple[MonitorSection, Path, Path]:
    """Return the section of the page, the server's data folder, and what paths are relative to."""
    if arguments.config is not None:
        config = read_config(arguments.config, ServerConfig)
        base = arguments.config.resolve().parent
        return config.monitor, arguments.journal or base / config.folder, base
    if arguments.journal is None:
        raise ConfigError("where is the journal? give --config server.toml, or --journal DIR")
    return MonitorSection(), arguments.journal, Path.cwd()


def _users(section: MonitorSection, folder: Path, base: Path) -> Path:
    return base / section.users if section.users else folder / FILE


def _plan(
    arguments: argparse.Namespace, section: MonitorSection, base: Path, folder: Path, people: Path
) -> "MonitorPlan":
    from monitor.web.serving import Address
    from monitor.web.sessions import Limits
    from slimfleet.monitor_process import MonitorPlan

    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        raise ConfigError("--tls-cert and --tls-key: name both, or none")
    own = base / section.cert_file, base / section.key_file
    cert, key = own if section.cert_file and not arguments.tls_cert else (None, None)
    return MonitorPlan(
        # Else of a server that has not started yet.
        journal=find_journal(folder) or folder / JOURNAL,
        address=Address(
            host=arguments.host or section.host,
            port=section.port if arguments.port is None else arguments.port,
            public_url=arguments.public_url or section.public_url,
            cert_file=arguments.tls_cert or cert,
            key_file=arguments.tls_key or key,
            proxy=section.proxy,
        ),
        people=people,
        limits=Limits(idle_s=section.idle_minutes * 60, whole_s=section.session_hours * 3600),
        access=_access(arguments, section, base),
        answer_s=arguments.timeout,
    )


def _access(arguments: argparse.Namespace, section: MonitorSection, base: Path) -> Access | None:
    """Return how to reach the broker, None where nobody said as whom."""
    named = (arguments.operator, arguments.password_file, arguments.cert_file)
    if not section.password_file and named == (None, None, None):
        return None
    arguments.operator = arguments.operator or name_argument(section.operator)
    if arguments.password_file is None and section.password_file:
        arguments.password_file = base / section.password_file
    return read_access(arguments)


def _tell(plan: "MonitorPlan", url: str) -> None:
    sys.stdout.write(f"slimfleet monitor: {url}\n")
    if plan.access is None:
        sys.stdout.write(
            "slimfleet monitor: it can only be read: to act, give an operator's --password-file\n"
        )
    sys.stdout.flush()
