"""The device as a witness of the server's journal: it keeps the newest checkpoint that it verified.

A server that changes what it has recorded would have to show every device a checkpoint that denies
the one kept there; the device then holds both, signed by the server itself. Pure; the shell writes
`Witness.state` to the disk and publishes `Witness.message`.
"""

import hashlib
from typing import Self

import msgspec

from broker import messages as m
from broker.decoding import decode_struct
from broker.envelope import Verifier
from broker.errors import DecodeError, ReleaseError
from edge_agent.actions import Action, KeepWitness, Note, Say
from edge_agent.witness_state import (
    Acceptance,
    Accepted,
    WitnessState,
    decode_witness_state,
    document_of,
)
from journal.contradiction import contradiction_of, fits, grew

SPREAD_S = 30.0
"""Devices that lack a proof ask for it within this time, each at a moment of its own."""
ASK_AGAIN_S = 300.0
REPEAT_S = 3600.0
"""A contradiction is said again so often: somebody might have cleared the broker's copy."""
HISTORY = 8
REASON_LIMIT = 500


class Witness:
    """One device's memory of the server's checkpoints."""

    def __init__(self, device: str, verifier: Verifier, state: WitnessState | None = None) -> None:
        """Go on from what is on the disk."""
        self.state = state or WitnessState()
        self._verifier = verifier
        kept = document_of(self.state.kept)
        if kept and kept.fleet != verifier.fleet:  # the device has moved to another one
            self.state = WitnessState(accepted=self.state.accepted)
        place = int.from_bytes(hashlib.sha256(device.encode()).digest()[:4], "big") / 2**32
        self._delay_s = place * SPREAD_S
        self._kept = document_of(self.state.kept)
        self._newest: m.SignedCheckpoint | None = None
        self._asked: m.SignedEnvelope | None = None
        self._ask_at: float | None = None
        self._repeat_at: float | None = None

    @classmethod
    def restored(cls, device: str, verifier: Verifier, data: bytes) -> Self:
        """Go on from the bytes of `encode_witness_state`.

        Raises:
            DecodeError: they are none.
        """
        return cls(device, verifier, decode_witness_state(data))

    def message(self) -> m.Witness:
        """Return what the device says of itself as a witness."""
        kept, asked = self._kept, document_of(self._asked)
        last = self.state.accepted[-1].reason if self.state.accepted else ""
        return m.Witness(
            size=kept.size if kept else 0,
            root=kept.root if kept else b"",
            signed_at=kept.signed_at if kept else 0.0,
            wants=asked.size if asked else 0,
            contradiction=self.state.contradiction,
            accepted=last,
        )

    # --- the server said --------------------------------------------------------------------------

    def heard(self, said: m.SignedCheckpoint, now: float) -> list[Action]:
        """Compare a checkpoint with the one that is kept."""
        try:
            seen = self._verifier.checkpoint(said.checkpoint)
        except ReleaseError as error:
            return [Note(f"a checkpoint was ignored: {error}")]
        if self.state.contradiction:
            self._newest = said  # for whoever accepts it
            return []
        kept = self._kept
        if kept is None:
            return self._keep(said.checkpoint, seen)
        if contradiction_of(kept, seen):
            return self._contradicted(said.checkpoint, seen, None, now)
        if seen.size <= kept.size:
            return []
        self._newest = said
        for envelope in said.proofs:
            if actions := self._weigh(said.checkpoint, seen, envelope, now):
                return actions
        if self._ask_at is None:
            self._ask_at = now + self._delay_s
        return []

    def answered(self, said: m.Proof, now: float) -> list[Action]:
        """Check the proof that was asked for."""
        if self._asked is None or self.state.contradiction:
            return []
        seen = document_of(self._asked)
        assert seen is not None
        actions = self._weigh(self._asked, seen, said.proof, now)
        if actions and self._newest and not self.state.contradiction:
            return [*actions, *self.heard(self._newest, now)]
        return actions

    def _weigh(
        self, envelope: m.SignedEnvelope, seen: m.Checkpoint, proof: m.SignedEnvelope, now: float
    ) -> list[Action]:
        """Return what follows from a proof; nothing where it is about something else, or forged."""
        kept = self._kept
        assert kept is not None
        try:  # most proofs are for other devices: their signatures need no check
            if not fits(decode_struct(proof.payload, m.ConsistencyProof), kept, seen):
                return []
            document = self._verifier.consistency(proof)
        except (DecodeError, ReleaseError):
            return []
        if grew(document, kept, seen):
            return self._keep(envelope, seen)
        return self._contradicted(envelope, seen, proof, now)

    def _keep(self, envelope: m.SignedEnvelope, document: m.Checkpoint) -> list[Action]:
        self.state = msgspec.structs.replace(self.state, kept=envelope)
        self._kept = document
        self._asked = self._ask_at = None
        newest = document_of(self._newest.checkpoint) if self._newest else None
        if newest and newest.size <= document.size:
            self._newest = None
        return [KeepWitness()]

    def _contradicted(
        self,
        envelope: m.SignedEnvelope,
        seen: m.Checkpoint,
        proof: m.SignedEnvelope | None,
        now: float,
    ) -> list[Action]:
        kept, before = self._kept, self.state.kept
        assert kept is not None
        assert before is not None
        document = self._verifier.consistency(proof) if proof else None
        kind = contradiction_of(kept, seen, document)
        assert kind is not None
        found = m.Contradiction(kind=kind, kept=before, seen=envelope, proof=proof, noticed_at=now)
        self.state = msgspec.structs.replace(self.state, contradiction=found)
        self._newest = self._asked = self._ask_at = None
        why = (
            f"the server's journal was changed ({kind}): {kept.size} events were kept, {seen.size}"
            " events deny them; ask the operator, see docs/audit.md"
        )
        return [Note(why), KeepWitness()]

    # --- time, and the operator -------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Ask for the proof that is missing; repeat a contradiction from time to time."""
        if self.state.contradiction:
            if self._repeat_at is None or _over(self._repeat_at, now, REPEAT_S):
                first, self._repeat_at = self._repeat_at is None, now + REPEAT_S
                return [] if first else [Say(self.message())]
            return []
        if self._newest is None or self._ask_at is None:
            return []
        if not _over(self._ask_at, now, ASK_AGAIN_S):
            return []
        self._asked, self._ask_at = self._newest.checkpoint, now + ASK_AGAIN_S
        return [Say(self.message())]

    def accept(self, given: Acceptance, now: float) -> list[Action]:
        """Take an operator's word: what denied the kept checkpoint is kept from now on."""
        found = self.state.contradiction
        if found is None or found.seen.payload != given.seen:
            return []
        past = Accepted(contradiction=found, reason=given.reason[:REASON_LIMIT], at=now)
        history = (*self.state.accepted, past)[-HISTORY:]
        self.state = WitnessState(kept=found.seen, accepted=history)
        self._kept, self._repeat_at = document_of(found.seen), None
        newest, self._newest = self._newest, None
        actions: list[Action] = [KeepWitness()]
        return [*actions, *self.heard(newest, now)] if newest else actions


def _over(moment: float, now: float, longest: float) -> bool:
    """Return whether a moment has come; a clock that was set back does not put it off for long."""
    return now >= moment or moment - now > longest
