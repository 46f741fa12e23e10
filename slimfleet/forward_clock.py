"""A server's clock: the time of day, but it never goes back while the server runs.

Deadlines, pauses and leases are compared with it. Were the machine's clock set back by an hour, a
round would wait an hour longer for its deadline. A clock that is set forward is followed: documents
that expire need the time of day, and a round that ends early costs one round.
"""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

WORTH_TELLING_S = 5.0


class ForwardClock:
    """Returns seconds since the epoch when it is called."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the time of day.

        Args:
            wall: the time of day.
            elapsed: never goes back, whatever is set.
        """
        self._wall, self._elapsed = wall, elapsed
        self._last, self._at = wall(), elapsed()
        self._behind = 0.0

    def __call__(self) -> float:
        """Return the time of day or, where that was set back, what it would be else."""
        wall, at = self._wall(), self._elapsed()
        now = max(wall, self._last + at - self._at)
        self._last, self._at = now, at
        behind = now - wall
        if behind > self._behind + WORTH_TELLING_S:
            log.warning(
                "the machine's clock was set back by %.0f s: deadlines go on as they"
                " were, and a restart follows the machine's clock again",
                behind - self._behind,
            )
        if abs(behind - self._behind) > WORTH_TELLING_S:
            self._behind = behind
        return now
