"""The page's server as one ASGI application."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from journal.errors import JournalError
from journal.reader import JournalReader
from monitor.web.actions import Actions
from monitor.web.api import Api, Explain
from monitor.web.assets import Assets
from monitor.web.gate import Access, Gate
from monitor.web.live import LiveStream
from monitor.web.reading_body import BadRequestError
from monitor.web.replies import refusal, reply
from monitor.web.sign_in import SignIn
from monitor.web.turns import BusyError
from monitor.web.watch import FleetWatch, LoadingError

COMPRESSED_BYTES = 4096
"""Shorter answers, such as those with secrets, are never compressed (BREACH, CVE-2013-3587)."""
COMPRESSION = 5
"""A higher one takes the loop's time for little."""


def make_app(
    watch: FleetWatch,
    reader: JournalReader,
    explain: Explain,
    access: Access,
    assets: Assets | None = None,
    more: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """Return the application; whoever serves it lets ``watch`` follow meanwhile.

    Args:
        watch: of the fleet.
        reader: of the same journal.
        explain: why a device got its width.
        access: who may do what.
        assets: the page's files.
        more: further routes, behind the same gate.
    """
    files = assets or Assets()

    async def healthz(_request: Request) -> Response:
        """Tell whether it serves; it says nothing about the fleet."""
        return reply({"ok": watch.ready and not watch.trouble}, 200 if watch.ready else 503)

    async def events(request: Request) -> ASGIApp:
        """Follow the fleet."""
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return LiveStream(watch, lambda: access.may_view(request.headers))

    routes: list[BaseRoute] = [
        Route("/", files.index),
        Route("/assets/{name:path}", files.asset),
        Route("/favicon.ico", files.icon),
        Route("/healthz", healthz),
        Route("/events", events),
        *SignIn(access, watch.desk).routes(),
        *Actions(watch).routes(),
        *Api(watch, reader, explain).routes(),
        *more,
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(GZipMiddleware, minimum_size=COMPRESSED_BYTES, compresslevel=COMPRESSION)
        ],
        exception_handlers={
            404: _missing,
            405: _method,
            BadRequestError: _bad,
            BusyError: _later,
            JournalError: _later,
            LoadingError: _later,
        },
    )
    app.router.redirect_slashes = False  # every address is written in one way
    return Gate(app, access)


async def _bad(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequestError)
    return refusal(error.status, str(error))


async def _later(_request: Request, error: Exception) -> Response:
    return refusal(503, str(error), {"Retry-After": "2"})


async def _missing(_request: Request, _error: Exception) -> Response:
    return refusal(404, "there is no such page")


async def _method(_request: Request, _error: Exception) -> Response:
    return refusal(405, "this cannot be asked so")
