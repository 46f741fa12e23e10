"""The journal in one file, for somebody who has nothing else: written and read. Pure.

An export is JSON, one object a line. First the head: format, fleet, the server's public key and its
newest checkpoint. Then one line a record, with the exact text that was hashed. Last the end, which
says how many there are and what was lost; an export without it was cut off itself. What holds of it
is found in `journal.audit_check`.
"""

import math
from collections.abc import Iterable, Iterator

import msgspec

from broker import messages as m
from broker.decoding import decode_document
from broker.errors import DecodeError
from journal.chain import EMPTY, Head, Record, verify
from journal.errors import AuditError, JournalDamagedError

FORMAT = "slimfleet-audit/1"


class ExportHead(msgspec.Struct, frozen=True, kw_only=True):
    """First line of an export.

    Attributes:
        public_key: of the server, as a line for ``trusted_keys``. It proves nothing here: whoever
            forges an export writes his own.
        checkpoint: the newest that the server signed; None before the first.
    """

    format: str
    fleet: str
    public_key: str
    checkpoint: m.SignedEnvelope | None = None


class ExportedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record; see `journal.chain.Record`. The payload is text, the hashes are hex."""

    index: int
    at: float
    payload: str
    previous: str
    hash: str


class ExportEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Last line of an export.

    Attributes:
        records: how many lines stand before it; lost: in one sentence what of the journal could not
            be read, or "".
    """

    records: int
    lost: str = ""


# --- writing ------------------------------------------------------------------------------------


def export_lines(
    head: ExportHead, records: Iterable[Record], known: Head | None
) -> Iterator[bytes]:
    """Yield the lines of an export; what is intact is exported, and the end says what is lost.

    Args:
        head: its first line.
        records: from the first one on; reading them may fail at any place.
        known: where the journal says that it ends, None where it does not say.

    Raises:
        JournalError: there is no journal, or it cannot be read for another reason than damage.
    """
    yield _line(head)
    at, lost = EMPTY, ""
    try:
        for record in records:
            at = verify([record], after=at)
            yield _line(exported(record))
    except (JournalDamagedError, UnicodeDecodeError) as error:
        lost = str(error)
    if not lost and known and known.index > at.index:
        lost = (
            f"the journal was known to reach record {known.index} and ends at {at.index}: it was"
            " cut off"
        )
    yield _line(ExportEnd(records=at.count, lost=lost))


def exported(record: Record) -> ExportedRecord:
    """Return a record as it stands in a file."""
    return ExportedRecord(
        index=record.index,
        at=record.at,
        payload=record.payload.decode(),
        previous=record.previous.hex(),
        hash=record.hash.hex(),
    )


def _line(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value) + b"\n"


# --- reading ------------------------------------------------------------------------------------


class Export:
    """An export that is read line by line.

    Attributes:
        head: its first line.
        end: its last line, once all records were read; None where it is missing.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        """Read the first line.

        Raises:
            AuditError: it is no export.
        """
        self._lines = iter(lines)
        try:
            self.head = decode_document(next(self._lines, b""), ExportHead)
        except DecodeError as error:
            raise AuditError(
                f"not an export of an audit log ({error}); make one with `slimfleet audit export`"
            ) from error
        if self.head.format != FORMAT:
            raise AuditError(
                f"export of format {self.head.format!r:.40}, this software knows {FORMAT}; install"
                " the slimfleet that wrote it"
            )
        self.end: ExportEnd | None = None

    def records(self) -> Iterator[Record]:
        """Yield the records.

        Raises:
            AuditError: a line is none; says which.
        """
        number = 1
        for line in self._lines:
            number += 1
            if self.end is not None:
                raise AuditError(f"line {number}: nothing may stand behind the end of an export")
            try:
                found = decode_document(line, _AnyLine)
                if found.records is not None:
                    self.end = ExportEnd(records=found.records, lost=found.lost)
                    continue
                yield record_in(decode_document(line, ExportedRecord))
            except (DecodeError, ValueError) as error:
                raise AuditError(f"line {number} is no record: {error}") from error


class _AnyLine(msgspec.Struct, frozen=True, kw_only=True):
    records: int | None = None
    lost: str = ""


def record_in(one: ExportedRecord) -> Record:
    """Return the record of a file.

    Raises:
        ValueError: it cannot be one.
    """
    previous, hashed = bytes.fromhex(one.previous), bytes.fromhex(one.hash)
    if not math.isfinite(one.at) or not -1 < one.index < 1 << 62:
        raise ValueError(f"place {one.index} at {one.at}")
    return Record(one.index, one.at, one.payload.encode(), previous, hashed)
