"""How far the device's clock is from the server's, and how long a message travels. Pure.

Both are shown, never decided on. A message of the server that comes live (a retained one may be
days old) carries the server's clock. Device's clock at receipt less that stamp is the offset and
the time that the message travelled, so the smallest of several is nearest; half of the device's own
round trip to the broker is taken off it. What remains is the way from the server to the broker.
"""

from dataclasses import dataclass
from math import isfinite
from statistics import median

KEPT = 8  # messages; after a jump of the clock so many show it
WORTH_TELLING_S = 1.0  # an offset that differs by less matters to nobody


@dataclass(frozen=True)
class ClockMeter:
    """The newest messages.

    Attributes:
        ahead: device's clock at receipt less the server's stamp, of each, in seconds.
        trips: seconds from a small message to the broker's acknowledgement.
    """

    ahead: tuple[float, ...] = ()
    trips: tuple[float, ...] = ()

    def heard(self, sent_at: float, now: float) -> "ClockMeter":
        """Return the meter after a live message, sent at ``sent_at`` by the server's clock."""
        if not isfinite(sent_at) or sent_at <= 0:
            return self
        return ClockMeter((*self.ahead, now - sent_at)[-KEPT:], self.trips)

    def acknowledged(self, seconds: float) -> "ClockMeter":
        """Return the meter after a message that the broker acknowledged within so many seconds."""
        if not 0 < seconds < float("inf"):
            return self
        return ClockMeter(self.ahead, (*self.trips, seconds)[-KEPT:])

    @property
    def round_trip_s(self) -> float:
        """Seconds to the broker and back, to three digits; 0 = unknown."""
        return float(f"{median(self.trips):.3g}") if self.trips else 0.0

    @property
    def offset_s(self) -> float | None:
        """Device's clock less the server's, to the millisecond; None = unknown."""
        return round(min(self.ahead) - self.round_trip_s / 2, 3) if self.ahead else None

    def worth_telling(self, told: float | None) -> bool:
        """Return whether the offset is news; one that was never told is taken for none."""
        offset = self.offset_s
        return offset is not None and abs(offset - (told or 0.0)) >= WORTH_TELLING_S
