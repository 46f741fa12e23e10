"""``GET /events``: the fleet as a stream of server-sent events, from a snapshot on."""

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from monitor.web.replies import refusal
from monitor.web.watch import FleetWatch

BEAT_S = 15.0
"""A comment travels at least so often: proxies cut streams that are silent."""
SLOW_S = 20.0
"""A reader that takes nothing for so long is dropped; it may come back for a new snapshot."""
READERS = 64
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]
BEAT = b": beat\n\n"


class LiveStream:
    """One reader's stream, as an ASGI application.

    Args:
        watch: what is followed.
        allowed: whether the reader may still read; asked before everything that is sent.
    """

    def __init__(self, watch: FleetWatch, allowed: Callable[[], bool]) -> None:
        self._watch = watch
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the reader goes, is too slow, or may read no more."""
        if self._watch.readers >= READERS:
            text = f"{READERS} pages follow the fleet already; close one and try again"
            await refusal(503, text, {"Retry-After": "30"})(scope, receive, send)
            return
        number, snapshot = await self._watch.join()
        try:
            sending = asyncio.ensure_future(self._stream(number, snapshot, send))
            leaving = asyncio.ensure_future(_gone(receive))
            tasks = (sending, leaving)
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._watch.leave()
        if sending.done() and not sending.cancelled() and (error := sending.exception()):
            raise error

    async def _stream(self, number: int, snapshot: bytes, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        said: bytes | None = b"retry: 2000\n\n" + snapshot
        while said is not None and self._allowed() and not self._watch.over:
            try:
                async with asyncio.timeout(SLOW_S):
                    await send({"type": "http.response.body", "body": said, "more_body": True})
            except TimeoutError:
                return
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._watch.news(number)
            except TimeoutError:
                said = BEAT
                continue
            number, said = self._watch.live.number, self._watch.live.since(number)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
