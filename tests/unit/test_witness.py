"""A device as a witness: what it keeps, what it asks, and what it takes for a contradiction."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import messages as m
from broker.envelope import Verifier, public_key_of, sign
from edge_agent.actions import KeepWitness, Note, Say
from edge_agent.inputs import ContradictionAccepted, ServerSaid, Tick
from edge_agent.session import AgentSession
from edge_agent.witness import ASK_AGAIN_S, HISTORY, REPEAT_S, SPREAD_S, Witness
from edge_agent.witness_state import (
    Acceptance,
    WitnessState,
    decode_witness_state,
    encode_witness_state,
)
from journal.contradiction import contradiction_of, is_proven
from journal.merkle import Tree

FLEET, DEVICE = "plant", "press"
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
NOW = 1000.0
VERIFIER = Verifier.trusting([public_key_of(KEY)], FLEET, DEVICE)


class Log:
    """A server's journal and what it signs of it."""

    def __init__(self, count, salt=b"", *, same=0, key=KEY, fleet=FLEET):
        """Make records; the first ``same`` are those of a log without salt."""
        self.key, self.fleet = key, fleet
        self.hashes = [
            hashlib.sha256((b"" if n < same else salt) + n.to_bytes(4, "big")).digest()
            for n in range(count)
        ]
        self.tree = Tree(lambda first, end: self.hashes[first:end])
        for one in self.hashes:
            self.tree.append(one)

    def checkpoint(self, size, at=None, /, **changes):
        document = m.Checkpoint(
            fleet=self.fleet,
            size=size,
            root=self.tree.root_at(size),
            signed_at=float(size) if at is None else at,
        )
        return sign(msgspec.structs.replace(document, **changes), "checkpoint", self.key)

    def proof(self, old, new, **changes):
        document = m.ConsistencyProof(
            fleet=self.fleet,
            old_size=old,
            new_size=new,
            new_root=self.tree.root_at(new),
            hashes=self.tree.consistency(old, new),
        )
        return sign(msgspec.structs.replace(document, **changes), "consistency", self.key)

    def said(self, size, *olds, at=None):
        return m.SignedCheckpoint(
            checkpoint=self.checkpoint(size, at), proofs=tuple(self.proof(o, size) for o in olds)
        )


LOG = Log(300)


def witness(kept=None):
    state = WitnessState(kept=LOG.checkpoint(kept)) if kept else None
    return Witness(DEVICE, VERIFIER, state)


def asked(one, now=NOW + SPREAD_S):
    """Let time pass until the device asks, and return what it says."""
    (said,) = one.tick(now)
    return said.message


# --- keeping --------------------------------------------------------------------------------------


def test_the_first_checkpoint_is_kept():
    one = witness()
    assert one.message() == m.Witness()
    assert one.heard(LOG.said(10), NOW) == [KeepWitness()]
    assert (one.message().size, one.message().root) == (10, LOG.tree.root_at(10))


def test_a_newer_one_that_comes_with_its_proof_is_kept_without_a_question():
    one = witness(10)
    assert one.heard(LOG.said(20, 3, 10, 15), NOW) == [KeepWitness()]
    assert one.message().size == 20
    assert one.tick(NOW + 1e6) == []


def test_a_device_that_was_away_asks_once_and_keeps_what_the_answer_proves():
    one = witness(10)
    assert one.heard(LOG.said(200, 150, 180), NOW) == []
    assert one.message().size == 10
    said = asked(one)
    assert (said.size, said.wants) == (10, 200)
    assert one.tick(NOW + SPREAD_S + 1.0) == []
    assert one.answered(m.Proof(proof=LOG.proof(10, 200)), NOW) == [KeepWitness()]
    assert (one.message().size, one.message().wants) == (200, 0)


def test_an_answer_that_is_lost_is_asked_for_again_and_is_no_contradiction():
    one = witness(10)
    one.heard(LOG.said(200), NOW)
    asked(one)
    for times in (1, 2):
        again = NOW + SPREAD_S + times * ASK_AGAIN_S
        assert one.tick(again - 1.0) == []
        assert asked(one, again).wants == 200
    assert one.state.contradiction is None


def test_what_became_newer_while_it_waited_is_kept_too():
    one = witness(10)
    one.heard(LOG.said(200), NOW)
    asked(one)
    one.heard(LOG.said(250, 200), NOW + 40.0)
    actions = one.answered(m.Proof(proof=LOG.proof(10, 200)), NOW + 41.0)
    assert actions == [KeepWitness(), KeepWitness()]
    assert one.message().size == 250


def test_devices_ask_at_moments_of_their_own():
    moments = set()
    for number in range(40):
        one = Witness(f"press-{number}", VERIFIER, WitnessState(kept=LOG.checkpoint(10)))
        one.heard(LOG.said(200), NOW)
        moments.add(next(t for t in range(int(SPREAD_S) + 2) if one.tick(NOW + t)))
    assert len(moments) > 15
    assert max(moments) <= SPREAD_S + 1


@pytest.mark.parametrize("step", [-1e9, -10.0])
def test_a_clock_that_was_set_back_does_not_put_a_question_off_for_ever(step):
    one = witness(10)
    one.heard(LOG.said(200), NOW)
    ticks = [NOW + step + second for second in range(int(SPREAD_S) + 12)]
    assert any(one.tick(now) for now in ticks)


# --- contradictions -------------------------------------------------------------------------------


def test_a_smaller_tree_that_was_signed_later_is_a_contradiction():
    one = witness(100)
    note, keep = one.heard(LOG.said(50, at=101.0), NOW)
    assert isinstance(note, Note)
    assert "docs/audit.md" in note.text
    assert keep == KeepWitness()
    found = one.state.contradiction
    assert found.kind is m.ContradictionKind.SMALLER_TREE
    assert (found.kept, found.seen) == (LOG.checkpoint(100), LOG.checkpoint(50, 101.0))
    assert found.noticed_at == NOW
    assert one.message().contradiction == found
    assert one.message().size == 100
    assert is_proven(found, VERIFIER)


def test_an_old_checkpoint_that_a_broker_delivers_late_is_none():
    one = witness(100)
    assert one.heard(LOG.said(50), NOW) == []
    assert one.state.contradiction is None
    assert one.message().size == 100


def test_another_root_for_the_same_size_is_a_contradiction_whenever_it_was_signed():
    for at in (1.0, 100.0, 500.0):
        one = witness(100)
        one.heard(Log(100, b"x", same=50).said(100, at=at), NOW)
        assert one.state.contradiction.kind is m.ContradictionKind.OTHER_ROOT
        assert is_proven(one.state.contradiction, VERIFIER)


def test_the_same_checkpoint_signed_again_is_none():
    one = witness(100)
    assert one.heard(LOG.said(100, at=500.0), NOW) == []
    assert one.state.contradiction is None


@given(st.integers(1, 120), st.integers(0, 120), st.integers(1, 150))
def test_a_rewritten_history_contradicts_whatever_proof_comes_with_it(kept, same, more):
    same = min(same, kept - 1)
    rewritten = Log(kept + more, b"x", same=same)
    for where in ("beside the checkpoint", "as an answer"):
        one = witness(kept)
        if where == "beside the checkpoint":
            one.heard(rewritten.said(kept + more, kept), NOW)
        else:
            one.heard(rewritten.said(kept + more), NOW)
            asked(one)
            one.answered(m.Proof(proof=rewritten.proof(kept, kept + more)), NOW)
        assert one.state.contradiction.kind is m.ContradictionKind.BROKEN_PROOF
        assert one.state.contradiction.proof
        assert is_proven(one.state.contradiction, VERIFIER)
        assert one.message().size == kept


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 3))
def test_an_honest_server_is_never_accused(kept, size, late):
    one = witness(kept)
    one.heard(LOG.said(size, *({kept} if kept < size else ()), at=float(size)), NOW)
    if late:
        one.heard(LOG.said(min(size, late)), NOW)
    assert one.state.contradiction is None
    assert one.message().size == max(kept, size)


def test_while_it_stands_nothing_newer_is_kept_and_both_checkpoints_stay_as_evidence():
    one = witness(100)
    one.heard(LOG.said(50, at=101.0), NOW)
    before = one.state
    assert one.heard(LOG.said(300, 100), NOW) == []
    assert one.answered(m.Proof(proof=LOG.proof(100, 300)), NOW) == []
    assert one.state == before


def test_it_is_said_again_from_time_to_time():
    one = witness(100)
    one.heard(LOG.said(50, at=101.0), NOW)
    assert one.tick(NOW) == []
    assert one.tick(NOW + REPEAT_S - 1) == []
    assert one.tick(NOW + REPEAT_S) == [Say(one.message())]
    assert one.tick(NOW + REPEAT_S + 1) == []


# --- forgers --------------------------------------------------------------------------------------


def forged(envelope):
    return msgspec.structs.replace(envelope, payload=envelope.payload[:-1] + b"\x07")


FORGED = {
    "by another key": lambda: Log(300, key=OTHER_KEY).checkpoint(50, 500.0),
    "altered": lambda: forged(LOG.checkpoint(50, 500.0)),
    "of another fleet": lambda: Log(300, fleet="other").checkpoint(50, 500.0),
    "a release's signature": lambda: msgspec.structs.replace(
        sign(m.Checkpoint(fleet=FLEET, size=50, root=bytes(32), signed_at=5e2), "release", KEY),
        kind="checkpoint",
    ),
    "of no records": lambda: LOG.checkpoint(50, 500.0, size=0),
    "with a short root": lambda: LOG.checkpoint(50, 500.0, root=b"r"),
    "at no time": lambda: LOG.checkpoint(50, float("nan")),
    "unsigned": lambda: msgspec.structs.replace(LOG.checkpoint(50, 500.0), signatures=()),
}


@pytest.mark.parametrize("how", FORGED)
@pytest.mark.parametrize("kept", [None, 100])
def test_a_forged_checkpoint_is_neither_kept_nor_a_contradiction(how, kept):
    one = witness(kept)
    (note,) = one.heard(m.SignedCheckpoint(checkpoint=FORGED[how]()), NOW)
    assert note.text.startswith("a checkpoint was ignored: ")
    assert one.state.contradiction is None
    assert one.message().size == (kept or 0)


FORGED_PROOFS = {
    "by another key": lambda: Log(300, key=OTHER_KEY).proof(10, 200, hashes=()),
    "altered": lambda: forged(LOG.proof(10, 200)),
    "garbled": lambda: m.SignedEnvelope(kind="consistency", payload=b"\xc1", signatures=()),
    "of other sizes": lambda: LOG.proof(11, 200),
    "to another root": lambda: LOG.proof(10, 200, new_root=bytes(32)),
    "of another fleet": lambda: Log(300, fleet="other").proof(10, 200, hashes=()),
    "a checkpoint": lambda: LOG.checkpoint(200),
}


@pytest.mark.parametrize("how", FORGED_PROOFS)
def test_a_forged_proof_makes_nobody_doubt_the_server(how):
    one = witness(10)
    one.heard(LOG.said(200), NOW)
    asked(one)
    assert one.answered(m.Proof(proof=FORGED_PROOFS[how]()), NOW) == []
    assert one.state.contradiction is None
    assert one.answered(m.Proof(proof=LOG.proof(10, 200)), NOW) == [KeepWitness()]


def test_an_answer_that_nobody_asked_for_is_nothing():
    one = witness(10)
    assert one.answered(m.Proof(proof=LOG.proof(10, 200)), NOW) == []


def test_a_claim_that_the_signatures_do_not_bear_out_is_not_proven():
    one = witness(100)
    one.heard(LOG.said(50, at=101.0), NOW)
    sound = one.state.contradiction
    lies = [
        msgspec.structs.replace(sound, kind=m.ContradictionKind.OTHER_ROOT),
        msgspec.structs.replace(sound, seen=LOG.checkpoint(50)),
        msgspec.structs.replace(sound, seen=forged(sound.seen)),
        msgspec.structs.replace(sound, kept=sound.seen, seen=sound.kept),
        m.Contradiction(
            kind=m.ContradictionKind.BROKEN_PROOF,
            kept=LOG.checkpoint(10),
            seen=LOG.checkpoint(20),
            proof=LOG.proof(10, 20),
        ),
        m.Contradiction(
            kind=m.ContradictionKind.BROKEN_PROOF,
            kept=LOG.checkpoint(10),
            seen=LOG.checkpoint(20),
            proof=Log(300, key=OTHER_KEY).proof(10, 20, hashes=()),
        ),
    ]
    assert is_proven(sound, VERIFIER)
    assert not any(is_proven(lie, VERIFIER) for lie in lies)


def test_a_larger_tree_alone_says_nothing():
    documents = [
        VERIFIER.checkpoint(one.checkpoint(size)) for one, size in ((LOG, 10), (Log(20, b"x"), 20))
    ]
    assert contradiction_of(*documents) is None


# --- the operator's word, and the disk ------------------------------------------------------------


def test_an_accepted_contradiction_is_over_and_remembered():
    one = witness(100)
    fresh = Log(50, b"new")
    one.heard(fresh.said(30, at=500.0), NOW)
    one.heard(fresh.said(40, 30, at=600.0), NOW)
    found = one.state.contradiction
    actions = one.accept(Acceptance(seen=found.seen.payload, reason="restored"), NOW + 9)
    assert actions == [KeepWitness(), KeepWitness()]
    said = one.message()
    assert (said.size, said.contradiction, said.accepted) == (40, None, "restored")
    assert one.state.accepted[0].contradiction == found
    assert one.heard(fresh.said(50, 40, at=700.0), NOW) == [KeepWitness()]


def test_another_contradiction_is_not_accepted_with_it():
    one = witness(100)
    one.heard(LOG.said(50, at=101.0), NOW)
    assert one.accept(Acceptance(seen=b"another", reason="x"), NOW) == []
    assert one.state.contradiction
    assert witness(100).accept(Acceptance(seen=b"", reason="x"), NOW) == []


def test_only_the_last_accepted_ones_are_kept():
    one = witness(300)
    for number in range(HISTORY + 3):
        one.heard(LOG.said(200 - number, at=1000.0 + number), NOW)
        seen = one.state.contradiction.seen.payload
        one.accept(Acceptance(seen=seen, reason=str(number)), NOW)
    assert [past.reason for past in one.state.accepted][-1] == str(HISTORY + 2)
    assert len(one.state.accepted) == HISTORY


def test_a_restart_goes_on_from_the_disk():
    one = witness(100)
    one.heard(LOG.said(50, at=101.0), NOW)
    data = encode_witness_state(one.state)
    again = Witness.restored(DEVICE, VERIFIER, data)
    assert again.state == one.state == decode_witness_state(data)
    assert again.message() == one.message()


def test_a_device_that_moves_to_another_fleet_begins_anew_there():
    elsewhere = Verifier.trusting([public_key_of(KEY)], "other", DEVICE)
    state = WitnessState(kept=LOG.checkpoint(100))
    assert Witness(DEVICE, elsewhere, state).message().size == 0


# --- in the session -------------------------------------------------------------------------------


def test_a_session_goes_on_training_whatever_the_history():
    session = AgentSession(DEVICE, VERIFIER, can_train=True, witness=witness(100))
    session.handle(ServerSaid(LOG.said(50, at=101.0), live=True), NOW)
    assert session.witness.state.contradiction
    actions = session.handle(ServerSaid(m.ServerState(status=m.LinkStatus.ONLINE, model="t")), NOW)
    assert [type(one).__name__ for one in actions] == ["MakeProfile"]
    seen = session.witness.state.contradiction.seen.payload
    accepted = ContradictionAccepted(Acceptance(seen=seen, reason="x"))
    assert session.handle(accepted, NOW) == [KeepWitness()]


def test_a_session_asks_and_hears_the_answer():
    session = AgentSession(DEVICE, VERIFIER, can_train=True, witness=witness(10))
    session.handle(ServerSaid(LOG.said(200)), NOW)
    said = [a for t in range(40) for a in session.handle(Tick(), NOW + t) if isinstance(a, Say)]
    assert [one.message.wants for one in said] == [200]
    answer = ServerSaid(m.Proof(proof=LOG.proof(10, 200)))
    assert session.handle(answer, NOW + 41) == [KeepWitness()]
