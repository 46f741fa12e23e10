"""``slimfleet metrics``."""

import argparse
import asyncio
import sys
import time
from urllib.parse import urlsplit

from journal.errors import JournalError
from monitor.feed import JournalFeed
from monitor.metrics import DEVICE_LIMIT, families
from monitor.otlp import ExportError, OtlpExporter
from slimfleet import __version__
from slimfleet.fleet_journal import end, read_feed, seen_in
from slimfleet.journal_access import add_journal_arguments
from slimfleet.metrics_server import serve_metrics
from slimfleet.stopping import event_on_signal

EXAMPLE = """example:
  slimfleet metrics --config server.toml --listen 127.0.0.1:9464
  slimfleet metrics --config server.toml --otlp http://collector.plant:4318/v1/metrics
  slimfleet metrics --journal copy-of-server-data --once

It reads the journal beside a running server and changes nothing. Prometheus fetches /metrics from
--listen; a collector of OpenTelemetry is sent the same ones every --interval seconds. Names and
meanings: docs/metrics.md; dashboard and alarm rules: monitor/grafana.
"""
LISTEN = "127.0.0.1:9464"
INTERVAL_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_journal_arguments(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--listen",
        type=_address,
        default=_address(LISTEN),
        metavar="HOST:PORT",
        help=f"serve them to Prometheus there (default {LISTEN})",
    )
    what.add_argument(
        "--otlp", type=_url, metavar="URL", help="send them to a collector of OpenTelemetry"
    )
    what.add_argument("--once", action="store_true", help="print them and end")
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=INTERVAL_S,
        metavar="S",
        help=f"seconds between two exports to a collector (default {INTERVAL_S:g})",
    )
    parser.add_argument(
        "--device-limit",
        type=_count,
        default=DEVICE_LIMIT,
        metavar="N",
        help=f"up to so many devices each has its own series (default {DEVICE_LIMIT})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve, send or print the metrics."""
    if arguments.otlp:
        asyncio.run(_export(arguments))
        return 0
    if arguments.once:
        from monitor.exposition import exposition

        feed = read_feed(arguments)
        limit = arguments.device_limit
        text = exposition(feed.view, seen_in(feed), device_limit=limit, version=__version__)
        sys.stdout.write(text.decode())
        return end("metrics", feed)
    asyncio.run(serve_metrics(read_feed(arguments), arguments.listen, arguments.device_limit))
    return 0


async def _export(arguments: argparse.Namespace) -> None:
    """Send again and again until a signal comes; what fails is told once and tried again."""
    feed = read_feed(arguments)
    exporter = OtlpExporter(arguments.otlp)
    failing = False
    try:
        async with event_on_signal() as stopped:
            while not stopped.is_set():
                try:
                    feed.refresh()
                    await _send(feed, arguments.device_limit, exporter, stopped)
                    error = ""
                except (ExportError, JournalError) as failure:
                    error = str(failure)
                if not stopped.is_set():
                    failing = _tell(failing, error)
                    await _wait(stopped, arguments.interval)
    finally:
        exporter.close()


async def _send(
    feed: JournalFeed, device_limit: int, exporter: OtlpExporter, stopped: asyncio.Event
) -> None:
    """Send what a feed tells; who is asked to end meanwhile tries no longer.

    Raises:
        ExportError: the collector did not take it.
    """
    view, seen = feed.view, seen_in(feed)
    found = families(view, seen, device_limit=device_limit, version=__version__)
    since = view.started_at if view.started_at is not None else seen.now
    sending = asyncio.create_task(
        asyncio.to_thread(exporter.send, found, seen.now, since=since, fleet=view.fleet)
    )
    asked = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait((sending, asked), return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            exporter.stop()
        await sending
    finally:
        asked.cancel()


def _tell(failing: bool, error: str) -> bool:  # noqa: FBT001
    """Say on stderr when it begins to fail and when it works again; return whether it fails."""
    stamp = time.strftime("%H:%M:%S")
    if error and not failing:
        sys.stderr.write(f"slimfleet metrics: {stamp} {error}; trying on\n")
    if failing and not error:
        sys.stderr.write(f"slimfleet metrics: {stamp} the export goes on\n")
    return bool(error)


async def _wait(stopped: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopped.wait()
    except TimeoutError:
        return


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no address: write host:port")
    return host, int(port)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no URL: write http://collector:4318/v1/metrics"
        )
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r}: use seconds from 1 to 86400")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: use a number of devices, 0 = none")
    return int(text)
