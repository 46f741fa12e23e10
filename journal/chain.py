"""The hash chain over events: canonical bytes, records, and the proof that nothing was changed.

``hash = sha256(previous || index || at || payload)`` over the exact bytes that are stored, with the
index as 8 bytes and the time as an IEEE double, both big-endian. A chain shows edits, removals and
changes of order. A cut at the end shows only to somebody who knows the head, and so does a rewrite
of everything after some record: give heads away.
"""

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from journal.errors import ChainError, EventError
from journal.events import AnyEvent

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_POSITION = struct.Struct(">qd")
# JSON has no infinity and no NaN: the encoder writes this, which reads back as something else.
_NULL = b"null"


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain: all that is needed to continue it, or to pin it down.

    Attributes:
        index: of the last record, -1 where there is none.
        hash: of the last record.
    """

    index: int
    hash: bytes

    @property
    def count(self) -> int:
        """How many records the chain has."""
        return self.index + 1


EMPTY = Head(-1, hashlib.sha256(b"slimfleet journal, schema 1").digest())
"""The head of a chain without records; the first record names this hash as its previous one."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event in its place.

    Attributes:
        index: counts from 0.
        at: the server's clock, seconds since the epoch.
        payload: canonical JSON of the event, exactly as stored.
        previous: hash of the record before, 32 bytes.
        hash: of this record, 32 bytes.
    """

    index: int
    at: float
    payload: bytes
    previous: bytes
    hash: bytes

    @property
    def event(self) -> AnyEvent:
        """The event, decoded.

        Raises:
            EventError: this software does not know the event.
        """
        try:
            return _DECODER.decode(self.payload)
        except msgspec.DecodeError as error:
            raise EventError(
                f"journal record {self.index} cannot be read ({error}); use at least the version of"
                " slimfleet that wrote it"
            ) from error

    @property
    def head(self) -> Head:
        """The head of a chain that ends here."""
        return Head(self.index, self.hash)


def canonical_bytes(event: AnyEvent) -> bytes:
    """Return the one form in which an event is stored and hashed.

    Raises:
        EventError: it would not come back the same: a value that is not finite, or of a wrong type.
            A record that cannot be read would make the whole journal useless.
    """
    name = type(event).__name__
    try:
        payload = _ENCODER.encode(event)
        if _NULL in payload:
            _refuse_not_finite(msgspec.to_builtins(event))
        if _ENCODER.encode(_DECODER.decode(payload)) != payload:
            raise EventError(f"{name} does not come back as it was written; correct its fields")
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise EventError(f"{name} cannot be recorded: {error}; correct its fields") from error
    return payload


def record_hash(previous: bytes, index: int, at: float, payload: bytes) -> bytes:
    """Return the hash of a record."""
    return hashlib.sha256(previous + _POSITION.pack(index, at) + payload).digest()


def extend(head: Head, events: Sequence[AnyEvent], at: float) -> list[Record]:
    """Return the records that continue a chain.

    Raises:
        EventError: an event or the time cannot be recorded.
    """
    if not math.isfinite(at):
        raise EventError(f"an event cannot happen at {at}; give seconds since the epoch")
    moment = float(at) + 0.0  # -0.0 becomes 0.0: a store need not keep its sign
    records = []
    for event in events:
        payload = canonical_bytes(event)
        index = head.index + 1
        hashed = record_hash(head.hash, index, moment, payload)
        records.append(Record(index, moment, payload, head.hash, hashed))
        head = records[-1].head
    return records


def verify(
    records: Iterable[Record], expected_head: Head | None = None, *, after: Head = EMPTY
) -> Head:
    """Check that records form one unbroken chain, and return its head.

    Args:
        records: in their order.
        expected_head: a head that was known earlier; the chain must contain it. It may have grown
            since.
        after: where the records begin, for checking only what is new.

    Raises:
        ChainError: names the first index that does not hold.
        ValueError: the expected head lies before the records.
    """
    if expected_head is not None and expected_head.index < after.index:
        raise ValueError(f"head {expected_head.index} lies before record {after.index + 1}")
    head = after
    _compare(head, expected_head)
    for record in records:
        _check(record, head)
        head = record.head
        _compare(head, expected_head)
    if expected_head is not None and head.index < expected_head.index:
        raise ChainError(
            head.index + 1, f"cut off; the chain was known to reach {expected_head.index}"
        )
    return head


def _check(record: Record, head: Head) -> None:
    index = head.index + 1
    if record.index != index:
        raise ChainError(index, f"missing; number {record.index} stands in its place")
    if record.previous != head.hash:
        raise ChainError(index, "does not continue the record before it")
    if record.hash != record_hash(record.previous, record.index, record.at, record.payload):
        raise ChainError(index, "its content and its hash differ")


def _compare(head: Head, expected: Head | None) -> None:
    if expected is not None and head.index == expected.index and head.hash != expected.hash:
        raise ChainError(max(head.index, 0), "another hash was known here, at or before it")


def _refuse_not_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    if isinstance(value, dict):
        for one in value.values():
            _refuse_not_finite(one)
    elif isinstance(value, list | tuple):
        for one in value:
            _refuse_not_finite(one)
