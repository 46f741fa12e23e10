"""A time of the day in which a device may train. Pure."""

import re
from dataclasses import dataclass

DAY = 24 * 60  # minutes
MINUTE_S = 60.0
_TEXT = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)(?: ?([+-])(\d\d):(\d\d))?")
FURTHEST = 14 * 60  # minutes that any place on earth is away from UTC


@dataclass(frozen=True)
class DailyHours:
    """From one minute of the day to another, every day; it may cross midnight.

    Attributes:
        opens, closes: minutes since midnight, of the clock that ``ahead`` names.
        ahead: minutes that this clock is ahead of UTC. It knows no summer time.
    """

    opens: int
    closes: int
    ahead: int = 0

    @classmethod
    def parse(cls, text: str) -> "DailyHours":
        """Read "22:00-06:00", which is UTC, or "22:00-06:00 +02:00".

        Raises:
            ValueError: it is no such time; the message says what to write.
        """
        found = _TEXT.fullmatch(text.strip())
        if not found:
            raise ValueError(f'{text!r} are no hours: write "22:00-06:00" or "22:00-06:00 +02:00"')
        hours, minutes = [int(found[n]) for n in (1, 3)], [int(found[n]) for n in (2, 4)]
        if max(hours) > 23 or max(minutes) > 59:
            raise ValueError(f"{text!r}: hours go from 00 to 23 and minutes from 00 to 59")
        opens, closes = (60 * h + m for h, m in zip(hours, minutes, strict=True))
        if opens == closes:
            raise ValueError(f"{text!r} opens when it closes: leave the line out for the whole day")
        ahead = 60 * int(found[6]) + int(found[7]) if found[5] else 0
        if ahead > FURTHEST:
            raise ValueError(f"{text!r}: no clock is more than 14 hours away from UTC")
        return cls(opens, closes, -ahead if found[5] == "-" else ahead)

    def left_s(self, now: float) -> float:
        """Return for how many seconds it is still open; 0 = it is closed.

        Args:
            now: seconds since the epoch, UTC.
        """
        length = (self.closes - self.opens) % DAY * MINUTE_S
        return max(0.0, length - self._since_opening(now))

    def _since_opening(self, now: float) -> float:
        return (now + (self.ahead - self.opens) * MINUTE_S) % (DAY * MINUTE_S)

    def __str__(self) -> str:
        """Return it as people write it, with its clock."""
        return f"{_clock(self.opens)}-{_clock(self.closes)} {self.zone}"

    @property
    def zone(self) -> str:
        """The name of its clock."""
        if not self.ahead:
            return "UTC"
        return f"UTC{'+' if self.ahead > 0 else '-'}{_clock(abs(self.ahead))}"

    @property
    def opening(self) -> str:
        """When it opens, with its clock."""
        return f"{_clock(self.opens)} {self.zone}"


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
