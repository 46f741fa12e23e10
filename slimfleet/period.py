"""Spans of time as people type them: ``7d``, ``2026-11-24``, ``2026-11-24T06:00``."""

import re
from datetime import datetime, timedelta, tzinfo

from slimfleet.config import ConfigError

UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_AGO = re.compile(r"(\d{1,6})([mhdw])")
FORMS = "write 12h, 7d, 2w, 2026-11-24 or 2026-11-24T06:00"


def read_since(text: str, now: float, zone: tzinfo | None = None) -> float:
    """Return where a period begins; a date begins with its first moment.

    Args:
        text: as typed.
        now: seconds since the epoch.
        zone: of dates without one; None = this machine's.

    Raises:
        ConfigError: it is neither a span nor a date.
    """
    return _read(text, now, zone, "--since", timedelta(0))


def read_until(text: str, now: float, zone: tzinfo | None = None) -> float:
    """Return where a period ends: a date lasts to its midnight; see `read_since`.

    Raises:
        ConfigError: it is neither a span nor a date.
    """
    return _read(text, now, zone, "--until", timedelta(days=1))


def _read(text: str, now: float, zone: tzinfo | None, option: str, of_date: timedelta) -> float:
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return now - int(ago[1]) * UNITS[ago[2]]
    try:
        found = datetime.fromisoformat(text.strip())
        if found.tzinfo is None:
            # A day of 23 or 25 hours ends at its own midnight too: the date moves, not the seconds.
            found = (found + (of_date if _is_date(text) else timedelta(0))).replace(tzinfo=zone)
        return found.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(f"{option} {text}: no time; {FORMS}") from error


def _is_date(text: str) -> bool:
    return len(text.strip()) <= len("2026-11-24")
