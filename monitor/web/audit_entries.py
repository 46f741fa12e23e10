"""The journal's entries for people, the newest first, a page at a time."""

from itertools import islice
from typing import Any

import msgspec

from journal.chain import Record
from journal.reader import JournalReader
from monitor.device_data import Data

PAGE = 50
PAGE_LIMIT = 200
STRIDE = 500
SEARCHED = 10_000
"""Entries that one question looks through; the next one goes on behind them."""
SHOWN_BYTES = 4096
"""A larger entry is only shown when it is asked for by itself."""

NAMES_ONE = frozenset(["device", "sender"])
NAMES_SEVERAL = frozenset(
    [
        "aggregated",
        "caps",
        "devices",
        "equals",
        "excused",
        "labels",
        "left_out",
        "not_drawn",
        "not_invited",
        "owed",
        "resting",
    ]
)
"""Fields of events, and of the settings in them, that are lists of devices or go by them."""


def audit_page(
    reader: JournalReader, *, before: int | None, device: str, kind: str, limit: int
) -> Data:
    """Return entries before an index, the newest first.

    Args:
        reader: of the journal.
        before: index that all are below; None = from the newest on.
        device: only entries that name it; "" = all.
        kind: only entries of this kind, as "round-opened"; "" = all.
        limit: how many at most.

    Returns:
        ``entries``, ``head`` (index of the newest of all), and ``next``: what to ask for ``before``
        to go on, None at the beginning of the journal.

    Raises:
        JournalError: the journal cannot be read.
    """
    head = reader.head().index
    end = head + 1 if before is None else max(0, min(before, head + 1))
    last = max(0, end - SEARCHED)
    found: list[Data] = []
    while end > last:
        start = max(last, end - STRIDE)
        for record in reversed(list(islice(reader.records(start), end - start))):
            if _matches(record, device, kind):
                found.append(entry(record, SHOWN_BYTES))
            if len(found) == limit:
                return {"entries": found, "head": head, "next": record.index or None}
        end = start
    return {"entries": found, "head": head, "next": end or None}


def audit_entry(reader: JournalReader, index: int) -> Data | None:
    """Return one entry whole, None where there is none.

    Raises:
        JournalError: the journal cannot be read.
    """
    for record in islice(reader.records(max(0, index)), 1):
        if record.index == index:
            return entry(record)
    return None


def entry(record: Record, shown: int | None = None) -> Data:
    """Return an entry as plain data; one that cannot be read is shown with its hashes."""
    content = _content(record)
    kind = content.pop("event", "") if isinstance(content, dict) else ""
    hidden = shown is not None and len(record.payload) > shown
    return {
        "index": record.index,
        "at": record.at,
        "kind": kind or "unreadable",
        "device": content.get("device", "") if isinstance(content, dict) else "",
        "bytes": len(record.payload),
        "event": None if hidden else content,
        "hash": record.hash.hex(),
        "previous": record.previous.hex(),
    }


def _content(record: Record) -> Any:
    try:
        return msgspec.json.decode(record.payload)
    except msgspec.DecodeError:
        return None


def _matches(record: Record, device: str, kind: str) -> bool:
    if not device and not kind:
        return True
    if device and device.encode() not in record.payload:
        return False  # names are plain: most entries need not be decoded
    content = _content(record)
    if not isinstance(content, dict) or (kind and content.get("event") != kind):
        return False
    return not device or _names(content, device)


def _names(value: Any, device: str) -> bool:
    """Return whether a device stands in one of the places where events name devices."""
    if isinstance(value, list):
        return any(_names(inner, device) for inner in value)
    if not isinstance(value, dict):
        return False
    return any(
        (key in NAMES_ONE and inner == device)
        or (key in NAMES_SEVERAL and isinstance(inner, list | dict) and device in inner)
        or _names(inner, device)
        for key, inner in value.items()
    )
