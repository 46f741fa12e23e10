"""When a checkpoint of the journal is signed, and what is said with it. Pure."""

import math
from collections.abc import Callable, Sequence

import msgspec

from broker import messages as m
from broker.decoding import decode_struct
from coordinator.settings import AuditSettings
from journal.merkle import Tree

Sign = Callable[[msgspec.Struct, str], m.SignedEnvelope]
KEPT = 6
"""So many checkpoints are remembered; from each older one a proof travels with the newest. More
would not fit into a control message beside a journal of any size."""


class SignedCheckpoints(msgspec.Struct, frozen=True, kw_only=True):
    """What the server remembers on its disk: envelopes of a `Checkpoint` each, the newest last."""

    checkpoints: tuple[m.SignedEnvelope, ...] = ()


def is_due(
    last: int, size: int, waited_s: float, settings: AuditSettings, *, at_once: bool
) -> bool:
    """Return whether a checkpoint is to be signed now.

    An idle journal needs none, however long it waits.

    Args:
        last: records under the last checkpoint, 0 where there is none.
        size: records that are on the medium: what a power failure could take away must not be
            promised.
        waited_s: since the last one.
        settings: when it is due.
        at_once: whether rewards were allocated since, or the server was started.
    """
    if size <= last:
        return False
    if last == 0 or at_once:
        return True
    if waited_s < settings.pause_s:
        return False
    return size - last >= settings.events or waited_s >= 60.0 * settings.minutes


def checkpoint_of(fleet: str, tree: Tree, now: float, last: m.Checkpoint | None) -> m.Checkpoint:
    """Return the checkpoint of a tree; its time is above that of the last one, whatever the clock.

    A device tells by the time which of two checkpoints the server signed later.
    """
    signed_at = max(now, math.nextafter(last.signed_at, math.inf)) if last else now
    return m.Checkpoint(fleet=fleet, size=tree.size, root=tree.root, signed_at=signed_at)


def proof_of(fleet: str, tree: Tree, old: int, new: int) -> m.ConsistencyProof | None:
    """Return the proof that a device asked for; None where there can be none."""
    if not 0 < old < new <= tree.size:
        return None
    return m.ConsistencyProof(
        fleet=fleet,
        old_size=old,
        new_size=new,
        new_root=tree.root_at(new),
        hashes=tree.consistency(old, new),
    )


def signed_checkpoint(
    fleet: str, tree: Tree, remembered: Sequence[m.SignedEnvelope], sign: Sign
) -> m.SignedCheckpoint:
    """Return what stands on ``srv/checkpoint``: the newest one, and proofs from those before it."""
    *older, newest = remembered
    size = document_in(newest).size
    proofs = [proof_of(fleet, tree, document_in(one).size, size) for one in older]
    return m.SignedCheckpoint(
        checkpoint=newest,
        proofs=tuple(sign(proof, "consistency") for proof in proofs if proof is not None),
    )


def sound(remembered: Sequence[m.SignedEnvelope], tree: Tree) -> list[m.SignedEnvelope]:
    """Return those of the server's own checkpoints that its journal still bears out."""

    def holds(envelope: m.SignedEnvelope) -> bool:
        one = document_in(envelope)
        return 0 < one.size <= tree.size and tree.root_at(one.size) == one.root

    return [envelope for envelope in remembered if holds(envelope)]


def document_in(envelope: m.SignedEnvelope) -> m.Checkpoint:
    """Return the checkpoint in an envelope that the server itself made.

    Raises:
        DecodeError: it holds none.
    """
    return decode_struct(envelope.payload, m.Checkpoint)
