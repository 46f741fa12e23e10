"""What was recorded about one device in one round, with the proof that it stands in the log. Pure.

A proof holds the records themselves, a checkpoint that the server signed, and for each record the
path from its hash to the checkpoint's root (RFC 9162, section 2.1.3). Whoever has the server's
public key needs nothing else, neither the journal nor the server.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from broker import messages as m
from broker.decoding import decode_document
from broker.envelope import Verifier
from broker.errors import DecodeError, ReleaseError
from journal import events as e
from journal.audit_check import Finding, Outcome
from journal.audit_export import ExportedRecord, exported, record_in
from journal.chain import Record, record_hash
from journal.errors import AuditError, EventError
from journal.merkle import Tree, inclusion_holds

FORMAT = "slimfleet-proof/1"


class ProvenRecord(ExportedRecord, frozen=True, kw_only=True):
    """A record, and the hashes beside its way up to the root, in hex."""

    path: tuple[str, ...]


class RewardProof(msgspec.Struct, frozen=True, kw_only=True):
    """A proof as it stands in a file.

    Attributes:
        public_key: of the server, as a line for ``trusted_keys``; whoever checks gives his own.
        checkpoint: what the paths lead to.
    """

    format: str
    fleet: str
    device: str
    round: int
    public_key: str
    checkpoint: m.SignedEnvelope
    records: tuple[ProvenRecord, ...]


@dataclass(frozen=True)
class Checked:
    """A proof that was read: what holds of it, and what it proves."""

    findings: list[Finding]
    records: list[Record]


def gather(records: Iterable[Record], device: str, number: int) -> tuple[list[bytes], list[Record]]:
    """Return the hashes of all records, and those records that concern a device's round.

    These are what became of its update, the contributions of the round, and the first rewards that
    were allocated at or after it.
    """
    hashes: list[bytes] = []
    found: list[Record] = []
    rewarded = False
    for record in records:
        hashes.append(record.hash)
        try:
            event = record.event
        except EventError:
            continue  # of a newer slimfleet: its hash still counts
        rewards = isinstance(event, e.RewardsAllocated)
        if not concerns(event, device, number) or (rewards and rewarded):
            continue
        rewarded = rewarded or rewards
        found.append(record)
    return hashes, found


def concerns(event: e.AnyEvent, device: str, number: int) -> bool:
    """Return whether an event says what a device gave in a round, or what it got for it."""
    match event:
        case e.UpdateAccepted() | e.UpdateRefused() | e.DeviceDropped():
            return (event.device, event.round) == (device, number)
        case e.RoundScored():
            scored = any(one.device == device for one in event.contributions)
            return event.round == number and scored
        case e.AloneMeasured():
            return event.round == number and any(one.device == device for one in event.scores)
        case e.EntitlementsRevised():
            return event.round == number and device in event.widths
        case e.RewardsAllocated():
            return event.round >= number and any(one.device == device for one in event.rewards)
    return False


def prove(
    hashes: Sequence[bytes],
    found: Sequence[Record],
    envelope: m.SignedEnvelope,
    checkpoint: m.Checkpoint,
    public_key: str,
    device: str,
    number: int,
) -> RewardProof:
    """Return the proof for the records of `gather`.

    Raises:
        AuditError: the journal is not that of the checkpoint, or the checkpoint is older than one
            of the records.
    """
    if not found:
        raise AuditError(
            f"nothing is recorded of what {device} gave in round {number}; see `slimfleet audit log"
            f" --device {device}`"
        )
    late = [record.index for record in found if record.index >= checkpoint.size]
    if late:
        raise AuditError(
            f"the newest checkpoint covers {checkpoint.size} events, and number {late[-1]} concerns"
            f" {device} in round {number}: wait until the server has signed the next one"
        )
    tree = Tree(lambda first, end: hashes[first:end])
    for one in hashes[: checkpoint.size]:
        tree.append(one)
    if tree.size < checkpoint.size or tree.root != checkpoint.root:
        raise AuditError(
            f"the journal is not the one whose {checkpoint.size} events the server signed; run"
            " `slimfleet audit export` and `slimfleet audit verify`"
        )
    return RewardProof(
        format=FORMAT,
        fleet=checkpoint.fleet,
        device=device,
        round=number,
        public_key=public_key,
        checkpoint=envelope,
        records=tuple(
            ProvenRecord(
                **msgspec.structs.asdict(exported(record)),
                path=tuple(one.hex() for one in tree.inclusion(record.index, checkpoint.size)),
            )
            for record in found
        ),
    )


def read_proof(data: bytes) -> RewardProof:
    """Read a proof.

    Raises:
        AuditError: it is none.
    """
    try:
        proof = decode_document(data, RewardProof)
    except DecodeError as error:
        raise AuditError(f"not a proof ({error}); make one with `slimfleet audit prove`") from error
    if proof.format != FORMAT:
        raise AuditError(
            f"proof of format {proof.format!r:.40}, this software knows {FORMAT}; install the"
            " slimfleet that wrote it"
        )
    return proof


def check_proof(proof: RewardProof, verifier: Verifier) -> Checked:
    """Return what holds of a proof; records that do not hold are not among those returned."""
    try:
        checkpoint = verifier.checkpoint(proof.checkpoint)
    except ReleaseError as error:
        return Checked([Finding(Outcome.FAILS, f"checkpoint: {error}")], [])
    findings = [
        Finding(
            Outcome.HOLDS,
            f"checkpoint: signed over {checkpoint.size} events, root {checkpoint.root.hex()[:16]}",
        )
    ]
    held = []
    for one in proof.records:
        finding, record = _check_record(one, checkpoint, proof)
        findings.append(finding)
        if record:
            held.append(record)
    if not proof.records:
        findings.append(Finding(Outcome.FAILS, "the proof holds no record"))
    return Checked(findings, held)


def _check_record(
    one: ProvenRecord, checkpoint: m.Checkpoint, proof: RewardProof
) -> tuple[Finding, Record | None]:
    what = f"record {one.index}"
    try:
        record, path = record_in(one), [bytes.fromhex(step) for step in one.path]
        event = record.event
    except (ValueError, EventError) as error:
        return Finding(Outcome.FAILS, f"{what} cannot be read: {error}"), None
    if record.hash != record_hash(record.previous, record.index, record.at, record.payload):
        return Finding(Outcome.FAILS, f"{what}: its content was changed"), None
    if not inclusion_holds(record.hash, record.index, checkpoint.size, checkpoint.root, path):
        return Finding(
            Outcome.FAILS, f"{what} is not among the {checkpoint.size} that were signed"
        ), None
    if not concerns(event, proof.device, proof.round):
        text = f"{what} says nothing of {proof.device} in round {proof.round}"
        return Finding(Outcome.FAILS, text), None
    kind = type(event).__name__
    return Finding(Outcome.HOLDS, f"{what}, {kind}: number {one.index} of those signed"), record
