"""What waits to be published: two priorities, a bounded number in flight, nothing lost."""

from collections import deque
from typing import Generic, TypeVar

CONTROL_WINDOW = 12
BULK_WINDOW = 8
"""Together 20 in flight: the receive maximum that mosquitto announces by default."""

T = TypeVar("T")


class Outgoing(Generic[T]):
    """A queue in which control messages go ahead of bulk, each kind in the order of arrival.

    An item is waiting, then in flight (`take`), then gone (`acknowledge`). When the connection is
    lost, `requeue` puts what was in flight back to the front, in the order it was sent.
    """

    def __init__(
        self, *, control_window: int = CONTROL_WINDOW, bulk_window: int = BULK_WINDOW
    ) -> None:
        self._windows = {False: control_window, True: bulk_window}
        self._waiting: dict[bool, deque[T]] = {False: deque(), True: deque()}
        self._in_flight: dict[bool, list[T]] = {False: [], True: []}

    def __len__(self) -> int:
        """Return how many items are not acknowledged yet."""
        return sum(len(self._waiting[bulk]) + len(self._in_flight[bulk]) for bulk in (False, True))

    def put(self, item: T, *, bulk: bool) -> None:
        """Add an item at the end of its kind."""
        self._waiting[bulk].append(item)

    def take(self) -> T | None:
        """Move the next item into flight and return it; None while nothing may be sent."""
        for bulk in (False, True):
            waiting, in_flight = self._waiting[bulk], self._in_flight[bulk]
            if waiting and len(in_flight) < self._windows[bulk]:
                item = waiting.popleft()
                in_flight.append(item)
                return item
        return None

    def acknowledge(self, item: T) -> None:
        """Forget an item that was in flight."""
        for in_flight in self._in_flight.values():
            if item in in_flight:
                in_flight.remove(item)
                return

    def requeue(self) -> None:
        """Put everything in flight back to the front of its queue, in the order it was sent."""
        for bulk, in_flight in self._in_flight.items():
            self._waiting[bulk].extendleft(reversed(in_flight))
            in_flight.clear()

    def clear(self) -> list[T]:
        """Empty the queue and return what was not acknowledged, control first."""
        self.requeue()
        items = [item for bulk in (False, True) for item in self._waiting[bulk]]
        for waiting in self._waiting.values():
            waiting.clear()
        return items
