"""The server's seconds as dates that people read, in a named zone."""

from datetime import UTC, datetime, tzinfo

NEVER = "\N{EN DASH}"


def show_moment(at: float | None, zone: tzinfo | None = None) -> str:
    """Return a moment to the minute, such as ``2026-11-24 14:05``.

    Args:
        at: seconds since the epoch; a clock that is far off gives its bare number.
        zone: None = that of this machine.
    """
    if at is None:
        return NEVER
    found = _moment(at, zone)
    return f"{found:%Y-%m-%d %H:%M}" if found else f"{at:g} s after 1970"


def iso_moment(at: float | None, zone: tzinfo | None = None) -> str:
    """Return a moment in ISO 8601 with its offset from UTC, to the second; "" for None."""
    if at is None:
        return ""
    found = _moment(at, zone)
    return found.isoformat(timespec="seconds") if found else f"{at:g}"


def zone_name(at: float, zone: tzinfo | None = None) -> str:
    """Return the zone's name at a moment, and its offset, such as ``CET (UTC+01:00)``."""
    found = _moment(at, zone)
    if found is None:
        return "UTC"
    name, offset = f"{found:%Z}", f"UTC{found.isoformat()[-6:]}" if found.utcoffset() else "UTC"
    return name if name in (offset, "") else f"{name} ({offset})"


def _moment(at: float, zone: tzinfo | None) -> datetime | None:
    try:
        return datetime.fromtimestamp(at, UTC).astimezone(zone)
    except (ValueError, OverflowError, OSError):  # outside of the years 1 to 9999
        return None
