"""The journal in one file, for somebody who has nothing else: written, read and checked. Pure.

An export is JSON, one object a line. First the head: format, fleet, the server's public key and its
newest checkpoint. Then one line a record, with the exact text that was hashed. Last the end, which
says how many there are and what was lost; an export without it was cut off itself.

`check_export` goes through it once, in any size: the chain, the tree, the signature, and the
checkpoints that witnesses kept.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from broker import messages as m
from broker.decoding import decode_document
from broker.envelope import Verifier, key_id
from broker.errors import DecodeError, ReleaseError
from journal.chain import EMPTY, Head, Record, verify
from journal.errors import AuditError, ChainError, JournalDamagedError
from journal.merkle import Frontier

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


class Outcome(StrEnum):
    """Whether something is as it should be; a note is about what could not be checked."""

    HOLDS = "ok"
    FAILS = "FAILED"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, in one sentence."""

    outcome: Outcome
    text: str


@dataclass
class _Marks:
    """What the tree must be where it has a given size."""

    roots: dict[int, list[tuple[str, m.Checkpoint]]] = field(default_factory=dict)

    def add(self, name: str, one: m.Checkpoint) -> None:
        self.roots.setdefault(one.size, []).append((name, one))


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


# --- checking -----------------------------------------------------------------------------------


def check_export(
    export: Export, verifier: Verifier, witnesses: Mapping[str, m.SignedEnvelope]
) -> list[Finding]:
    """Return what holds of an export and what does not.

    Args:
        export: read to its end by this.
        verifier: trusts the server's public key.
        witnesses: name -> checkpoint that a device kept.
    """
    findings, marks = _signatures(export, verifier, witnesses)
    at, tree, broken = EMPTY, Frontier(), ""
    try:
        for record in export.records():
            at = verify([record], after=at)
            tree.append(record.hash)
            for name, one in marks.roots.pop(tree.size, ()):
                findings.append(_compared(name, one, tree.root))
    except (ChainError, AuditError) as error:
        broken = str(error)
    whole = f"chain: {at.count} events, each continues the one before"
    chain = Finding(Outcome.FAILS, broken) if broken else Finding(Outcome.HOLDS, whole)
    for name, one in (pair for pairs in marks.roots.values() for pair in pairs):
        findings.append(_missing(name, one, at.count))
    newest = _newest(export, verifier)
    return [chain, *_ends(export, at, broken), *findings, *_uncovered(newest, at)]


def _signatures(
    export: Export, verifier: Verifier, witnesses: Mapping[str, m.SignedEnvelope]
) -> tuple[list[Finding], _Marks]:
    marks, findings = _Marks(), []
    named = {"checkpoint": export.head.checkpoint, **witnesses}
    for name, envelope in named.items():
        if envelope is None:
            findings.append(
                Finding(
                    Outcome.NOTE,
                    "no checkpoint was signed yet: a rewrite of the whole would not show",
                )
            )
            continue
        try:
            marks.add(name, verifier.checkpoint(envelope))
        except ReleaseError as error:
            findings.append(Finding(Outcome.FAILS, f"{name}: {error}"))
    return findings, marks


def _compared(name: str, one: m.Checkpoint, root: bytes) -> Finding:
    if root == one.root:
        return Finding(
            Outcome.HOLDS,
            f"{name}: signed over {one.size} events, root {root.hex()[:16]}, which is theirs",
        )
    return Finding(
        Outcome.FAILS,
        f"{name}: over {one.size} events another root was signed ({one.root.hex()[:16]}, here"
        f" {root.hex()[:16]}): the history was rewritten",
    )


def _missing(name: str, one: m.Checkpoint, count: int) -> Finding:
    return Finding(
        Outcome.FAILS,
        f"{name}: signed over {one.size} events, only {count} are here: the end was cut off, or"
        " the history rewritten",
    )


def _ends(export: Export, at: Head, broken: str) -> list[Finding]:
    if broken:
        return []
    end = export.end
    if end is None:
        return [Finding(Outcome.FAILS, "the export has no end: it was cut off; copy it again")]
    if end.records != at.count:
        text = f"the export counts {end.records} records and holds {at.count}; copy it again"
        return [Finding(Outcome.FAILS, text)]
    return [Finding(Outcome.FAILS, f"lost: {end.lost}")] if end.lost else []


def _newest(export: Export, verifier: Verifier) -> m.Checkpoint | None:
    try:
        return verifier.checkpoint(export.head.checkpoint) if export.head.checkpoint else None
    except ReleaseError:
        return None


def _uncovered(newest: m.Checkpoint | None, at: Head) -> list[Finding]:
    behind = at.count - (newest.size if newest else 0)
    if newest is None or behind <= 0:
        return []
    newer = f"{behind} events are" if behind > 1 else "1 event is"
    return [Finding(Outcome.NOTE, f"{newer} newer than the checkpoint: only the chain holds")]


def trusted(head_key: bytes, given: bytes | None) -> Finding:
    """Return what the key is worth that the signatures were checked with."""
    if given is None:
        return Finding(
            Outcome.NOTE,
            f"public key {key_id(head_key)} is the export's own: give the one that your devices"
            " trust with --key",
        )
    return Finding(Outcome.HOLDS, f"public key: {key_id(given)}, as given")
