"""Whether two checkpoints can be of one journal that only grew. Pure.

Device, server and auditor ask the same question here, so that nobody can be accused of what another
would not see.
"""

from broker.envelope import Verifier
from broker.errors import ReleaseError
from broker.messages import Checkpoint, ConsistencyProof, Contradiction, ContradictionKind
from journal.merkle import consistency_holds


def contradiction_of(
    kept: Checkpoint, seen: Checkpoint, proof: ConsistencyProof | None = None
) -> ContradictionKind | None:
    """Return how a checkpoint denies one that was kept earlier, None where it does not.

    A larger tree denies nothing by itself: only a proof that does not hold does. A smaller one that
    was signed earlier is an old message, as a broker may deliver it after it was killed.

    Args:
        kept: a verified checkpoint.
        seen: another one of the same server.
        proof: a verified document, see `fits`; another one says nothing.
    """
    if seen.size == kept.size:
        return None if seen.root == kept.root else ContradictionKind.OTHER_ROOT
    if seen.size < kept.size:
        return ContradictionKind.SMALLER_TREE if seen.signed_at > kept.signed_at else None
    if proof is None or not fits(proof, kept, seen) or grew(proof, kept, seen):
        return None
    return ContradictionKind.BROKEN_PROOF


def fits(proof: ConsistencyProof, kept: Checkpoint, seen: Checkpoint) -> bool:
    """Return whether a proof is about these two checkpoints."""
    return (proof.old_size, proof.new_size, proof.new_root) == (kept.size, seen.size, seen.root)


def grew(proof: ConsistencyProof, kept: Checkpoint, seen: Checkpoint) -> bool:
    """Return whether a proof shows that the journal of ``kept`` grew to that of ``seen``."""
    return fits(proof, kept, seen) and consistency_holds(
        kept.size, kept.root, seen.size, seen.root, proof.hashes
    )


def is_proven(claim: Contradiction, verifier: Verifier) -> bool:
    """Return whether the server's own signatures prove what a device claims."""
    try:
        kept, seen = verifier.checkpoint(claim.kept), verifier.checkpoint(claim.seen)
        proof = verifier.consistency(claim.proof) if claim.proof else None
    except ReleaseError:
        return False
    return contradiction_of(kept, seen, proof) is claim.kind
