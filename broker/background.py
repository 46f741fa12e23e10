"""The background tasks of one party, whose failure ends its link."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from broker.errors import LinkError
from broker.link import Link

log = logging.getLogger(__name__)


class BackgroundTasks:
    """Tasks that run beside the event loop of a link.

    A task that fails stops the link, so that whoever reads its events comes to an end and can raise
    `failure`. A `LinkError` is no failure: it means that the link was stopped already.
    """

    def __init__(self, link: Link) -> None:
        """Start with no task."""
        self._link = link
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure: BaseException | None = None

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        if isinstance(error, LinkError):
            return
        log.error("internal error", exc_info=error)
        self.failure = error
        self.spawn(self._link.stop())
