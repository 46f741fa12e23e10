"""Serves the page on a socket until it is told to stop."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from monitor.web.gate_rules import LOOPBACK_NAMES, Place

log = logging.getLogger(__name__)

PORT = 8480
HEADER_LIMIT = 16 * 1024
CONNECTIONS = 256
LEAVE_S = 3
HEAD_S = 10
UNREAD_S = 60
"""A connection whose other end takes nothing for so long is ended by the operating system."""


class ServingError(Exception):
    """The page cannot be served so. The message says what to do."""


@dataclass(frozen=True)
class Address:
    """Where the page is served.

    Attributes:
        host: address to bind to.
        port: 0 picks a free one.
        public_url: what browsers call it, where that is not the same, as behind a proxy; or "".
        cert_file, key_file: for TLS, PEM; both or none.
        proxy: address of a proxy whose word on who asks is taken, or "".
    """

    host: str = "127.0.0.1"
    port: int = PORT
    public_url: str = ""
    cert_file: Path | None = None
    key_file: Path | None = None
    proxy: str = ""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def place(self) -> Place:
        """Return what the gate must know of it.

        Raises:
            ServingError: the public URL is none.
        """
        public = urlsplit(self.public_url)
        if self.public_url and (public.scheme not in ("http", "https") or not public.hostname):
            raise ServingError(f"{self.public_url!r} is no URL: write https://fleet.example.org")
        own = {self.host.lower(), socket.gethostname().lower()} - {"0.0.0.0", "::"}  # noqa: S104
        names = LOOPBACK_NAMES | own | ({public.hostname} if public.hostname else set())
        return Place(
            frozenset(names),
            # A page with a public name is shown to others, wherever it is bound to.
            loopback=self.loopback and not self.public_url,
            tls=public.scheme == "https" or self.cert_file is not None,
        )

    def url(self, port: int) -> str:
        """Return where to open the page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = f"{'https' if self.cert_file else 'http'}://{host}:{port}"
        return self.public_url or f"{own}/"


def open_socket(address: Address) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ServingError: the address is taken, or not of this machine.
    """
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        found = socket.create_server((address.host, address.port), family=family, backlog=128)
    except OSError as error:
        raise ServingError(
            f"cannot serve on {address.host} port {address.port}: {error.strerror or error};"
            " choose another address or port"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it
        with contextlib.suppress(OSError):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
    return found


class _Server(uvicorn.Server):
    """Leaves signals to whoever started it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """Ends a connection that never gets to the end of a request's head."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again(None, idle=False)

    def _look_again(self, before: object, *, idle: bool) -> None:
        """End a connection that is between two requests since the last look, and was then."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        now = cycle is None or cycle.response_complete
        if idle and now and cycle is before:
            self.transport.close()
            return
        self.loop.call_later(HEAD_S, lambda: self._look_again(cycle, idle=now))


class PageServer:
    """One application on one socket.

    Args:
        app: what is served.
        address: where.
        listening: the socket.

    Raises:
        ServingError: certificate or key cannot be used.
    """

    def __init__(self, app: ASGIApp, address: Address, listening: socket.socket) -> None:
        self._listening = listening
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            log_level="warning",
            lifespan="off",
            ws="none",
            http=_Protocol,
            loop="none",
            server_header=False,
            proxy_headers=bool(address.proxy),
            forwarded_allow_ips=address.proxy or None,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEADER_LIMIT,
            timeout_graceful_shutdown=LEAVE_S,
            ssl_certfile=address.cert_file,
            ssl_keyfile=address.key_file,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise ServingError(
                f"{address.cert_file}: certificate or key cannot be used: {error}; both are PEM"
            ) from error
        self._server = _Server(config)

    async def serve(self, stopped: asyncio.Event) -> None:
        """Serve until the event is set."""
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._listening]))
        stopping = asyncio.ensure_future(stopped.wait())
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            self._server.should_exit = True
            await serving
        finally:
            stopping.cancel()
            serving.cancel()
            await asyncio.gather(serving, stopping, return_exceptions=True)
