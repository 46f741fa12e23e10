"""An event loop whose clock jumps: hours pass in milliseconds, and every run is the same.

No sockets and no child processes of asyncio work in it, and `asyncio.to_thread` runs at once, in
the loop. Whatever takes real time is called like a function: virtual time stands still meanwhile.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

IDLE_LIMIT = 200_000
"""So many turns of the loop without time passing are a busy loop."""


class Stuck(BaseException):
    """The simulation can never go on. Not an Exception: no code under test may swallow it."""


class _NoWaiting(selectors.DefaultSelector):
    """Lets time pass instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing is scheduled any more and nothing can wake the loop")
        if timeout > 0:
            self.now += timeout
            self._turns = 0
        self._turns += 1
        if self._turns > IDLE_LIMIT:
            raise Stuck(f"busy loop: {IDLE_LIMIT} turns and still t = {self.now:.3f} s")
        return []


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        self._waiting = _NoWaiting()
        super().__init__(self._waiting)

    def time(self) -> float:
        """Return the virtual time."""
        return self._waiting.now

    def run_in_executor(  # type: ignore[override]
        self,
        executor: object,  # noqa: ARG002
        func: Callable[..., T],
        *args: Any,
    ) -> asyncio.Future[T]:
        """Call at once, in the loop: a thread would bring real time in."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
            done.set_exception(error)
        return done


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(coroutine)
