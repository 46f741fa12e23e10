"""A small HTTP server with one page for Prometheus, and nothing else."""

import functools
import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Any

from journal.errors import JournalError
from monitor.exposition import CONTENT_TYPE, exposition
from monitor.feed import JournalFeed
from slimfleet import __version__
from slimfleet.config import ConfigError
from slimfleet.fleet_journal import seen_in
from slimfleet.stopping import event_on_signal

log = logging.getLogger(__name__)
PATH = "/metrics"
REQUEST_S = 10.0
"""A reader that sends nothing for so long is left."""


class MetricsPage:
    """The metrics of a journal, read up to its end whenever somebody asks. For many threads."""

    def __init__(self, feed: JournalFeed, device_limit: int) -> None:
        """Remember what to read."""
        self._feed, self._limit = feed, device_limit
        self._lock = threading.Lock()

    def text(self) -> bytes:
        """Return the metrics as of now.

        Raises:
            JournalError: the journal cannot be read for now.
        """
        with self._lock:
            self._feed.refresh()
            return exposition(
                self._feed.view,
                seen_in(self._feed),
                device_limit=self._limit,
                version=__version__,
            )


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_S
    server_version = "slimfleet"
    sys_version = ""

    def __init__(self, page: MetricsPage, *given: Any) -> None:
        self._page = page
        super().__init__(*given)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", f"the page is {PATH}\n".encode())
            return
        try:
            text = self._page.text()
        except JournalError as error:  # Prometheus then says that the target is down: it is
            log.warning("metrics could not be made: %s", error)
            body = f"{error}\n".encode()
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", body)
            return
        self._answer(HTTPStatus.OK, CONTENT_TYPE, text)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form: str, *args: Any) -> None:
        log.debug(form, *args)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = AF_INET6


async def serve_metrics(feed: JournalFeed, listen: tuple[str, int], device_limit: int) -> None:
    """Serve ``/metrics`` until a signal asks to stop.

    Args:
        feed: read before, so that the first request is answered at once.
        listen: host and port; port 0 = any that is free.
        device_limit: up to so many devices each has its own series.

    Raises:
        ConfigError: nothing can be served at that address.
    """
    host, port = listen
    page = MetricsPage(feed, device_limit)
    page.text()  # a package that is missing is said now, and not to Prometheus
    made = _Server6 if ":" in host else _Server
    try:
        server = made((host, port), functools.partial(_Handler, page))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; give another --listen"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    with server:
        thread.start()
        log.info("metrics at http://%s:%d%s", host, server.server_address[1], PATH)
        async with event_on_signal() as stopped:
            await stopped.wait()
        server.shutdown()
        thread.join()
