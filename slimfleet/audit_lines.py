"""Entries of the audit log as lines for people, and which of them somebody asked for. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from journal.chain import Record
from journal.events import AnyEvent
from monitor.terminal_text import plain

TEXT_LIMIT = 60  # characters of one value
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def kind_of(event: AnyEvent) -> str:
    """Return the name of an event's kind, such as "rewards-allocated"."""
    return str(msgspec.inspect.type_info(type(event)).tag)  # type: ignore[attr-defined]


def names(value: Any, device: str) -> bool:
    """Return whether a device stands anywhere in plain data, as a value or as a key."""
    if isinstance(value, Mapping):
        return device in value or any(names(one, device) for one in value.values())
    if isinstance(value, list | tuple):
        return any(names(one, device) for one in value)
    return bool(value == device)


def entry(record: Record) -> dict[str, Any]:
    """Return an entry as plain data, with all that was recorded."""
    data = msgspec.to_builtins(record.event)
    return {
        "index": record.index,
        "at": record.at,
        "time": moment(record.at),
        "hash": record.hash.hex(),
        **data,
    }


def entry_line(record: Record, device: str = "") -> str:
    """Return an entry in one line: number, time, kind, and what is short enough to be shown.

    Args:
        record: with a known event.
        device: whose part is shown of what names several.
    """
    data = msgspec.to_builtins(record.event)
    shown = [f"{name}={_brief(value, device)}" for name, value in data.items() if name != "event"]
    return f"{record.index:6}  {moment(record.at)}  {data['event']:22} {' '.join(shown)}".rstrip()


def _brief(value: Any, device: str) -> str:
    if isinstance(value, Mapping):
        if device in value:
            return f"{{{device}: {_brief(value[device], '')}}}"
        return f"({len(value)} values)"
    if isinstance(value, list | tuple):
        own = [one for one in value if isinstance(one, Mapping) and one.get("device") == device]
        if device and own:
            inner = (f"{k}={_brief(v, '')}" for k, v in own[0].items() if k != "device")
            return f"[{' '.join(inner)}]"
        if all(isinstance(one, str | float | int) for one in value) and len(value) <= 4:
            return ",".join(_brief(one, "") for one in value) or "-"
        return f"({len(value)} entries)"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = plain(str(value))
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return text[:12]
    text = text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"
    return f"'{text}'" if " " in text or not text else text


def moment(at: float) -> str:
    """Return a time in UTC, to the second; a time that no calendar has stays a number."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{at:g} s"


def parse_since(text: str, now: float) -> float:
    """Return the time that somebody means: "90m", "2h", "3d", or a date with or without a time.

    Raises:
        ValueError: it is neither.
    """
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return now - timedelta(**{UNITS[found[2]]: int(found[1])}).total_seconds()
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: write 90m, 2h, 3d, 2026-12-01 or 2026-12-01T06:00 (UTC)"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
