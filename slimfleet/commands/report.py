"""``slimfleet report``."""

import argparse
import math
import sys
import time
from pathlib import Path

from monitor.device_data import Seen
from monitor.feed import JournalFeed
from monitor.fleet_view import FleetView
from monitor.kpi_counting import kpi_report
from monitor.kpi_report import KpiReport, Period
from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode
from slimfleet.journal_access import add_journal_arguments, journal_folder
from slimfleet.period import FORMS, read_since, read_until

EXAMPLE = """example:
  slimfleet report --since 7d --config server.toml --out report.html
  slimfleet report --since 2026-11-16 --until 2026-11-22 --journal server-data \\
    --out week-47.html --csv week-47

It reads the journal, also beside a running server, and changes nothing. The page opens without a
network and prints on A4. docs/kpi-report.md says what each figure means.
"""
SINCE = "7d"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_journal_arguments(parser)
    parser.add_argument(
        "--since", default=SINCE, metavar="TIME", help=f"begin (default {SINCE}): {FORMS}"
    )
    parser.add_argument(
        "--until", metavar="TIME", help="end, the same forms; a date is in it (default: now)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="page to write, .html")
    parser.add_argument("--csv", type=Path, metavar="FOLDER", help="folder of tables to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the report; fails, after writing it, where the journal is damaged."""
    if arguments.out is None and arguments.csv is None:
        raise ConfigError("nothing to write: give --out report.html, --csv FOLDER, or both")
    now = time.time()
    period = _period(arguments, now)
    # Without an end everything is taken in: a server's clock may have been ahead for a while.
    until = period.until if arguments.until else math.inf
    report = _report(journal_folder(arguments), period, until, now)
    for written in _write(report, arguments):
        sys.stdout.write(f"{written}\n")
    if report.empty:
        sys.stderr.write("slimfleet report: nothing happened in this time; the page says so\n")
    if report.damage:
        sys.stderr.write(f"slimfleet report: the report is not complete: {report.damage}\n")
        return ExitCode.FAILURE
    return ExitCode.DONE


def _period(arguments: argparse.Namespace, now: float) -> Period:
    since = read_since(arguments.since, now)
    until = read_until(arguments.until, now) if arguments.until else now
    if since >= until:
        raise ConfigError(
            f"--since {arguments.since} is not before --until {arguments.until or 'now'};"
            " choose an earlier begin"
        )
    return Period(since, until)


def _report(folder: Path, period: Period, until: float, now: float) -> KpiReport:
    feed = JournalFeed(folder, until=until, view=FleetView(keep_from=period.since))
    feed.refresh()
    return kpi_report(feed.view, period, Seen(now, damage=feed.damage))


def _write(report: KpiReport, arguments: argparse.Namespace) -> list[Path]:
    written = []
    try:
        if arguments.out is not None:
            from monitor.kpi_page import write_kpi_page

            write_kpi_page(report, arguments.out)
            written.append(arguments.out)
        if arguments.csv is not None:
            from monitor.kpi_tables import write_tables

            written += write_tables(report, arguments.csv)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or arguments.out}: cannot be written ({error.strerror}); choose"
            " another place"
        ) from error
    return written
