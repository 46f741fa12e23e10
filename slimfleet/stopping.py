"""End a process when it is asked to: the first signal says goodbye, a second one cuts it short."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

SECOND_SIGNAL_STATUS = 130


@contextlib.asynccontextmanager
async def stop_on_signal(stop: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call ``stop`` once on SIGINT or SIGTERM while the block runs."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Future[None]] = []

    def on_signal() -> None:
        if stopping:
            os._exit(SECOND_SIGNAL_STATUS)
        stopping.append(asyncio.ensure_future(stop()))

    handled = []
    for name in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(name, on_signal)
            handled.append(name)
        except NotImplementedError:  # Windows: Ctrl+C raises KeyboardInterrupt instead
            continue
    try:
        yield
    finally:
        for name in handled:
            loop.remove_signal_handler(name)
        if stopping:
            with contextlib.suppress(asyncio.CancelledError):
                await stopping[0]


@contextlib.asynccontextmanager
async def event_on_signal() -> AsyncIterator[asyncio.Event]:
    """Yield an event that SIGINT or SIGTERM sets while the block runs."""
    stopped = asyncio.Event()

    async def stop() -> None:
        stopped.set()

    async with stop_on_signal(stop):
        yield stopped
