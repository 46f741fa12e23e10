"""How long to wait before the next attempt to connect: full jitter, so that fleets spread out."""

import random

BASE_S = 1.0
CAP_S = 60.0
STABLE_S = 30.0


class Backoff:
    """Counts failures in a row and draws the next delay.

    The ceiling doubles with each failure; the delay is drawn evenly between zero and the ceiling.
    A connection only counts as a success once it held for ``stable_s``: a broker that accepts and
    at once closes (a takeover, a poisoned message) must not be asked again at full speed.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        base_s: float = BASE_S,
        cap_s: float = CAP_S,
        stable_s: float = STABLE_S,
    ) -> None:
        self._rng = rng
        self._base_s = base_s
        self._cap_s = cap_s
        self._stable_s = stable_s
        self._failures = 0

    def after(self, connected_s: float, *, refused: bool = False) -> float:
        """Return the seconds to wait now that a connection ended.

        Args:
            connected_s: how long it held; 0 where it was never accepted.
            refused: the broker knows us and says no (a wrong password, an untrusted certificate);
                only a person can mend that, so the delay is drawn from the top half of the cap.
        """
        if refused:
            return self._rng.uniform(self._cap_s / 2, self._cap_s)
        if connected_s >= self._stable_s:
            self._failures = 0
        # min() of the exponent: 2.0 ** 1024 overflows after weeks without a broker.
        ceiling = min(self._cap_s, self._base_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._rng.uniform(0.0, ceiling)
