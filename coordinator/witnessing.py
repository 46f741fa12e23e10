"""The server's side of the audit log: it signs checkpoints, and proves to devices that they agree.

What is due is decided in `coordinator.journal_checkpoints`; here are the file, the tree and the
questions that wait. Nothing of it enters the journal: the same journal gives the same tree after a
restart, and a checkpoint of a checkpoint would never end.
"""

import logging
from pathlib import Path

import msgspec

from broker import messages as m
from broker.decoding import decode_struct
from broker.envelope import Verifier, public_key_of, sign
from broker.errors import DecodeError
from broker.topics import DownTopic, ServerSays, ServerTells, ServerTopic, Topic
from coordinator import inputs as i
from coordinator.journal_checkpoints import (
    KEPT,
    SignedCheckpoints,
    checkpoint_of,
    document_in,
    is_due,
    proof_of,
    signed_checkpoint,
    sound,
)
from coordinator.settings import AuditSettings
from journal.contradiction import is_proven
from journal.disk import register_file, write_state
from journal.errors import DamagedFileError
from journal.events import ContradictionReported
from journal.merkle import HASH_SIZE, Tree
from journal.reading import read_state
from journal.store import Journal

log = logging.getLogger(__name__)

CHECKPOINTS_FILE = "checkpoints"
CHECKPOINT = ServerTopic(ServerTells.CHECKPOINT)
ANSWERS = 20
"""Proofs a tick (0.25 s) at most: a fleet that comes back at once shall not take the server's time.
The others are answered with the next ticks."""
_BATCH = 4096

register_file("checkpoints", "the server's signed checkpoints")


class Witnessing:
    """Checkpoints of one journal."""

    def __init__(
        self,
        fleet: str,
        settings: AuditSettings,
        journal: Journal,
        signing_key: bytes,
        folder: Path,
        now: float,
    ) -> None:
        """Build the tree of the journal, and read the checkpoints that were signed before."""
        self._fleet = fleet
        self._settings = settings
        self._journal = journal
        self._signing_key = signing_key
        self._verifier = Verifier.trusting([public_key_of(signing_key)], fleet, "")
        self._path = folder / CHECKPOINTS_FILE
        self._tree = Tree(journal.hashes)
        self._follow()
        self._remembered = self._read()
        self._since = min(now, self._last.signed_at) if self._last else now
        # Where the journal was restored from an older copy, devices see it at once.
        self._at_once = True
        self._asked: dict[str, tuple[int, int]] = {}
        self._said: m.SignedCheckpoint | None = None
        self._newest = self._message()

    @property
    def newest(self) -> m.Checkpoint | None:
        """The newest checkpoint, None before the first."""
        return self._last

    @property
    def _last(self) -> m.Checkpoint | None:
        return document_in(self._remembered[-1]) if self._remembered else None

    # --- checkpoints -----------------------------------------------------------------------------

    def rewards_allocated(self) -> None:
        """Note that the next tick signs a checkpoint whatever the time."""
        self._at_once = True

    def tick(self, now: float) -> bool:
        """Sign a checkpoint if it is time; returns whether there is anything to say.

        The journal must have been flushed.
        """
        last = self._last
        size, under = self._journal.head.count, last.size if last else 0
        if is_due(under, size, now - self._since, self._settings, at_once=self._at_once):
            self._since, self._at_once = now, False
            self._make(now)
        return self._said is not self._newest or bool(self._asked)

    def _make(self, now: float) -> None:
        self._follow()
        made = checkpoint_of(self._fleet, self._tree, now, self._last)
        remembered = [*self._remembered, self._sign(made, "checkpoint")][-KEPT:]
        data = msgspec.msgpack.encode(SignedCheckpoints(checkpoints=tuple(remembered)))
        try:
            write_state(self._path, data, kind="checkpoints")
        except OSError as error:  # a full disk among them: the next one is tried in its time
            log.warning("no checkpoint of the journal was signed: %s", error)
            return
        self._remembered = remembered
        self._newest = self._message()
        log.info("checkpoint of %d events, root %s", made.size, made.root.hex()[:12])

    def _message(self) -> m.SignedCheckpoint | None:
        if not self._remembered:
            return None
        return signed_checkpoint(self._fleet, self._tree, self._remembered, self._sign)

    def _follow(self) -> None:
        while (first := self._tree.size) < self._journal.head.count:
            for one in self._journal.hashes(first, min(first + _BATCH, self._journal.head.count)):
                self._tree.append(one)

    def _read(self) -> list[m.SignedEnvelope]:
        try:
            remembered = decode_struct(read_state(self._path), SignedCheckpoints).checkpoints
            own = [one for one in remembered if document_in(one).fleet == self._fleet]
        except FileNotFoundError:
            return []
        except (DecodeError, DamagedFileError, OSError) as error:
            log.warning("signed checkpoints cannot be read (%s): going on without them", error)
            return []
        kept = sound(own, self._tree)
        if len(kept) < len(own):
            log.error(
                "this journal of %d events is not the one that this server signed checkpoints of:"
                " it was restored from an older copy, or changed; devices that saw a checkpoint"
                " will report a contradiction, see docs/audit.md",
                self._tree.size,
            )
        return kept

    def _sign(self, document: msgspec.Struct, kind: str) -> m.SignedEnvelope:
        return sign(document, kind, self._signing_key)

    # --- devices ---------------------------------------------------------------------------------

    def heard(
        self, device: str, said: m.Witness, *, doubted: bool
    ) -> i.WitnessReported | i.MessageForged | None:
        """Take note of what a device keeps and asks; returns what its report means, if anything.

        After each checkpoint every device says what it keeps: for a large fleet that must cost
        next to nothing.

        Args:
            device: who said it.
            said: its message.
            doubted: whether it has reported a contradiction before.
        """
        if said.wants:
            self._asked[device] = (said.size, said.wants)
        if said.contradiction is None:
            return i.WitnessReported(device, None, said.accepted) if doubted else None
        try:
            return i.WitnessReported(device, self._claim(device, said.contradiction))
        except DecodeError as error:
            return i.MessageForged(device, "witness", str(error))

    def _claim(self, device: str, claim: m.Contradiction) -> ContradictionReported:
        kept, seen = document_in(claim.kept), document_in(claim.seen)
        return ContradictionReported(
            device=device,
            kind=claim.kind,
            kept_size=kept.size,
            kept_root=kept.root[:HASH_SIZE].hex(),
            seen_size=seen.size,
            seen_root=seen.root[:HASH_SIZE].hex(),
            proven=is_proven(claim, self._verifier),
        )

    # --- what is to be said ----------------------------------------------------------------------

    def forgotten(self) -> None:
        """Note that the broker may have lost what was said."""
        self._said = None

    def due(self) -> dict[Topic, m.Message | None]:
        """Return what has to be said now, and take it as said."""
        found: dict[Topic, m.Message | None] = {}
        if self._newest is not self._said:
            self._said = found[CHECKPOINT] = self._newest
        for device in list(self._asked)[:ANSWERS]:
            proof = proof_of(self._fleet, self._tree, *self._asked.pop(device))
            if proof is not None:
                answer = m.Proof(proof=self._sign(proof, "consistency"))
                found[DownTopic(device, ServerSays.PROOF)] = answer
        return found
