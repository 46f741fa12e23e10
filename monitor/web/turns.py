"""Long work, one piece after the other, and never a long queue of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

WAITING = 8


class BusyError(Exception):
    """Too many ask for the same kind of long work. Try again later."""


class Turns:
    """Lets one at a time work; who finds too many waiting is turned away.

    Args:
        waiting: how many may wait.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._one = asyncio.Semaphore(1)
        self._waiting = 0
        self._limit = waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn and hold it while the block runs.

        Raises:
            BusyError: too many wait already.
        """
        if self._waiting > self._limit:
            raise BusyError("too many ask at the same time: try again in a few seconds")
        self._waiting += 1
        try:
            async with self._one:
                yield
        finally:
            self._waiting -= 1
