"""Whether an exported audit log holds: once through it, in any size. Pure.

What is checked: the chain, the tree, the server's signature, and the checkpoints that witnesses
kept. Only the last shows a journal that was cut off or rewritten as a whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from broker import messages as m
from broker.envelope import Verifier, key_id
from broker.errors import ReleaseError
from journal.audit_export import Export
from journal.chain import EMPTY, Head, verify
from journal.errors import AuditError, ChainError
from journal.merkle import Frontier


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
