"""Follows the journal for as long as the page is served, and tells whoever reads along."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from broker.messages import Command, CommandResult
from journal.errors import JournalError
from monitor.device_data import Seen
from monitor.feed import JournalFeed
from monitor.fleet_view import FleetView
from monitor.web.live_rows import LiveRows

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Nobody is told anything more often than this."""


class Desk(Protocol):
    """Where the server is asked: over the broker, as an operator.

    Attributes:
        server_online: whether the server is there, None while that is not known.
        obstacle: why nothing can be asked, in one sentence, or "".
    """

    @property
    def server_online(self) -> bool | None: ...  # noqa: D102

    @property
    def obstacle(self) -> str: ...  # noqa: D102

    async def ask(self, command: Command) -> CommandResult | None:
        """Send a command and return the server's answer, None where none came in time.

        Raises:
            LinkError: it could not be sent.
        """


class NoDesk:
    """No access to the broker: the page can only be read."""

    server_online: bool | None = None
    obstacle = (
        "this page can only be read: it has no access to the broker; start slimfleet monitor with"
        " the broker's URL and an operator's password"
    )

    async def ask(self, command: Command) -> CommandResult | None:  # noqa: ARG002 - as the other
        """Refuse; never called while `obstacle` is looked at first."""
        raise RuntimeError(self.obstacle)


class LoadingError(Exception):
    """The journal is being read for the first time. Try again in a few seconds."""


class FleetWatch:
    """Keeps a view up to date beside whoever reads it.

    Reading the journal happens in a thread of its own. View and thread are kept apart by a lock:
    read the view inside `reading` only.

    Args:
        feed: of the journal.
        desk: where the server is asked.
        clock: seconds since the epoch.

    Attributes:
        live: what changed last; read it inside `reading`.
        readers: how many follow the changes.
        trouble: why the journal could not be read, or "".
        ready: whether it was read once; over: whether nobody shall follow any more.
    """

    def __init__(
        self, feed: JournalFeed, desk: Desk, clock: Callable[[], float] = time.time
    ) -> None:
        self._feed = feed
        self._clock = clock
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self.desk = desk
        self.live = LiveRows()
        self.readers = 0
        self.trouble = ""
        self.ready = self.over = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[tuple[FleetView, Seen]]:
        """Hand out the view; it does not change while the block runs.

        Raises:
            LoadingError: it was not read to its end yet.
        """
        if not self.ready:
            raise LoadingError("the journal is being read: try again in a few seconds")
        async with self._lock:
            yield self._feed.view, self.seen()

    def seen(self) -> Seen:
        """Return what the view does not hold itself.

        Without access to the broker a server is there that holds the journal's lock.
        """
        online = self.desk.server_online
        return Seen(
            now=self._clock(),
            server_online=self._feed.has_writer() if online is None else online,
            damage=self.trouble or self._feed.damage,
        )

    async def follow(self) -> None:
        """Refresh once a second, until it is cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(LOOK_S)

    async def refresh(self) -> None:
        """Read what is new and wake whoever follows the changes."""
        async with self._lock:
            try:
                await asyncio.to_thread(self._feed.refresh)
            except JournalError as error:
                if str(error) != self.trouble:
                    log.warning("%s", error)
                self.trouble = str(error)
            except Exception as error:  # a mistake of ours in one event hides no other
                log.exception("internal error")
                said = f"an entry could not be read: {type(error).__name__}: {error}; report it"
                self._feed.view.incident(self._clock(), "journal", said)
            else:
                self.trouble = ""
            self.ready = True
            if self.readers and self.live.look(self._feed.view, self.seen()):
                self._wake()

    async def news(self, number: int) -> None:
        """Return when there was a look after the one of that number, or it is all over."""
        while self.live.number <= number and not self.over:
            await self._news.wait()

    async def join(self) -> tuple[int, bytes]:
        """Begin to follow the changes; return the number of the last look and all it showed."""
        async with self.reading() as (view, seen):
            if not self.readers:  # else the last look is not old, and the next one comes to all
                self.live.look(view, seen)
            self.readers += 1
            return self.live.number, self.live.snapshot()

    def end(self) -> None:
        """Tell everybody who follows that it is over."""
        self.over = True
        self._wake()

    def leave(self) -> None:
        """End following."""
        self.readers -= 1
        if not self.readers:
            self.live.forget()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
