"""How fast the link to the server is, from the transfers that were made anyway. Pure."""

from dataclasses import dataclass
from statistics import median

KEPT = 5  # transfers; their median, because one that was resumed or held up says little
INSTANT_S = 1e-3  # what was here already, or comes from this machine, says nothing of a link
TELLING = 1.5  # a rate is worth telling when it is so many times the told one, or that part of it


@dataclass(frozen=True)
class LinkMeter:
    """The newest transfers.

    Attributes:
        rates: bytes per second of each, the newest last.
    """

    rates: tuple[float, ...] = ()

    def after(self, size: int, seconds: float) -> "LinkMeter":
        """Return the meter after a transfer of ``size`` bytes."""
        if size <= 0 or not INSTANT_S < seconds < float("inf"):
            return self
        return LinkMeter((*self.rates, size / seconds)[-KEPT:])

    @property
    def rate(self) -> float:
        """Bytes per second; 0 = not known yet."""
        return median(self.rates) if self.rates else 0.0

    def worth_telling(self, told: float) -> bool:
        """Return whether the server should know; small differences would only move widths."""
        rate = self.rate
        return bool(rate) and (told <= 0 or not told / TELLING <= rate <= told * TELLING)
