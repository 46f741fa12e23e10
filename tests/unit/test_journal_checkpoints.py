"""The server's checkpoints: when they are signed, that they outlive it, what devices are told."""

import logging
import shutil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import messages as m
from broker.codec import CONTROL_LIMIT, encode
from broker.envelope import Verifier, public_key_of, sign
from broker.topics import DownTopic, ServerSays
from coordinator import inputs as i
from coordinator import witnessing
from coordinator.journal_checkpoints import (
    KEPT,
    checkpoint_of,
    document_in,
    is_due,
    proof_of,
    signed_checkpoint,
)
from coordinator.settings import AuditSettings, SettingsError
from coordinator.witnessing import ANSWERS, CHECKPOINT, CHECKPOINTS_FILE, Witnessing
from journal import events as e
from journal.contradiction import grew
from journal.merkle import Tree, root_of
from journal.store import Journal

FLEET = "plant"
KEY = bytes(range(32))
VERIFIER = Verifier.trusting([public_key_of(KEY)], FLEET, "")
START = 1_800_000_000.0
SETTINGS = AuditSettings(events=10, minutes=10.0, pause_s=30.0)


def event(number=0):
    return e.ServerStarted(epoch=number)


class Server:
    """A journal, and what signs its checkpoints; `restart` opens both anew."""

    def __init__(self, folder, settings=SETTINGS):
        self.folder, self.settings, self.now = folder, settings, START
        self.journal = None
        self.restart()

    def restart(self):
        self.close()
        self.journal = Journal.open(self.folder / "journal")
        self.witnessing = Witnessing(FLEET, self.settings, self.journal, KEY, self.folder, self.now)
        return self

    def close(self):
        if self.journal:
            self.journal.close()

    def happen(self, count):
        self.journal.append([event(n) for n in range(count)], self.now)
        return self

    def tick(self, later=0.0):
        self.now += later
        return self.witnessing.tick(self.now)

    def told(self):
        return self.witnessing.due()

    @property
    def size(self):
        newest = self.witnessing.newest
        return newest.size if newest else 0

    def root(self, size):
        return root_of([record.hash for record in self.journal.records()][:size])


@pytest.fixture
def server(tmp_path):
    found = Server(tmp_path)
    yield found
    found.close()


# --- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "size", "waited_s", "at_once", "due"),
    [
        (0, 0, 1e9, True, False),  # nothing to sign
        (0, 1, 0.0, False, True),  # the first one
        (5, 5, 1e9, False, False),  # an idle fleet
        (5, 5, 1e9, True, False),
        (5, 6, 29.0, False, False),
        (5, 6, 599.0, False, False),
        (5, 6, 600.0, False, True),
        (5, 14, 30.0, False, False),
        (5, 15, 29.0, False, False),  # never sooner than the pause
        (5, 15, 30.0, False, True),
        (5, 6, 0.0, True, True),  # rewards do not wait
    ],
)
def test_a_checkpoint_is_due(last, size, waited_s, at_once, due):
    assert is_due(last, size, waited_s, SETTINGS, at_once=at_once) == due


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1e6), st.booleans())
def test_no_checkpoint_is_ever_due_without_a_new_event(last, size, waited_s, at_once):
    if is_due(last, size, waited_s, SETTINGS, at_once=at_once):
        assert size > last


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"events": 0}, "events"), ({"minutes": 0.0}, "minutes"), ({"pause_s": -1.0}, "pause_s"),
     ({"minutes": float("nan")}, "minutes"), ({"pause_s": float("inf")}, "pause_s")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong, name):
    with pytest.raises(SettingsError, match=rf"audit\.{name} = "):
        AuditSettings(**wrong).check()


@given(st.floats(0, 2e9), st.floats(0, 2e9))
def test_a_later_checkpoint_has_a_later_time_whatever_the_clock(first, second):
    tree = Tree(lambda *_: [])
    tree.append(bytes(32))
    one = checkpoint_of(FLEET, tree, first, None)
    assert checkpoint_of(FLEET, tree, second, one).signed_at > one.signed_at


# --- what -----------------------------------------------------------------------------------------


def test_a_checkpoint_is_the_root_of_the_records_signed_by_the_server(server):
    server.happen(5)
    assert server.tick()
    said = server.told()[CHECKPOINT]
    found = VERIFIER.checkpoint(said.checkpoint)
    assert (found.fleet, found.size, found.root) == (FLEET, 5, server.root(5))
    assert found.signed_at == START
    assert server.told() == {}


def test_a_signed_checkpoint_passes_for_no_other_document(server):
    server.happen(5).tick()
    envelope = server.told()[CHECKPOINT].checkpoint
    for check in (VERIFIER.release, VERIFIER.deployment):
        arguments = (START,) if check == VERIFIER.release else (START, 0)
        for kind in ("checkpoint", "release", "deployment"):
            with pytest.raises(Exception, match=r"stands where|not signed by"):
                check(msgspec.structs.replace(envelope, kind=kind), *arguments)


def test_proofs_from_the_last_checkpoints_come_with_the_newest(server):
    sizes = []
    for _ in range(KEPT + 3):
        server.happen(10).tick(60.0)
        sizes.append(server.size)
    said = server.told()[CHECKPOINT]
    newest = VERIFIER.checkpoint(said.checkpoint)
    proofs = [VERIFIER.consistency(one) for one in said.proofs]
    assert [one.old_size for one in proofs] == sizes[-KEPT:-1]
    for one in proofs:
        old = m.Checkpoint(
            fleet=FLEET, size=one.old_size, root=server.root(one.old_size), signed_at=0.0
        )
        assert grew(one, old, newest)


def test_what_is_told_fits_a_control_message_for_a_journal_of_any_size():
    most = 60  # hashes, of 2^60 records
    proof = m.ConsistencyProof(
        fleet="f" * 64,
        old_size=2**60 - 1,
        new_size=2**60,
        new_root=bytes(32),
        hashes=(bytes(32),) * most,
    )
    envelope = sign(proof, "consistency", KEY)
    checkpoint = sign(
        m.Checkpoint(fleet="f" * 64, size=2**60, root=bytes(32), signed_at=1e9), "checkpoint", KEY
    )
    said = m.SignedCheckpoint(checkpoint=checkpoint, proofs=(envelope,) * (KEPT - 1))
    assert len(encode(said)) < CONTROL_LIMIT
    claim = m.Contradiction(
        kind=m.ContradictionKind.BROKEN_PROOF, kept=checkpoint, seen=checkpoint, proof=envelope
    )
    assert len(encode(m.Witness(contradiction=claim, accepted="x" * 500))) < CONTROL_LIMIT


def test_only_what_is_on_the_medium_is_signed(server):
    server.happen(3)
    server.journal.later([event(9)], START)
    server.tick()
    assert server.size == 3


# --- an idle fleet, and a restart -----------------------------------------------------------------


def test_an_idle_fleet_gets_no_further_checkpoints_and_its_journal_does_not_grow(server):
    server.happen(5).tick()
    server.told()
    before = (server.folder / CHECKPOINTS_FILE).read_bytes()
    for _ in range(100):
        assert not server.tick(3600.0)
    assert server.told() == {}
    assert server.journal.head.count == 5
    assert (server.folder / CHECKPOINTS_FILE).read_bytes() == before


def test_a_restarted_server_has_the_same_root_and_tells_the_same_checkpoint(server):
    server.happen(25).tick()
    first = server.told()[CHECKPOINT]
    server.restart()
    assert server.tick()
    again = server.told()[CHECKPOINT]
    assert again.checkpoint == first.checkpoint
    server.happen(10).tick(60.0)
    newest = server.told()[CHECKPOINT]
    assert VERIFIER.checkpoint(newest.checkpoint).root == server.root(35)
    old, new = VERIFIER.checkpoint(first.checkpoint), VERIFIER.checkpoint(newest.checkpoint)
    assert any(grew(VERIFIER.consistency(one), old, new) for one in newest.proofs)


def test_a_restart_with_a_clock_that_went_back_signs_later_all_the_same(server):
    server.happen(5).tick()
    first = server.witnessing.newest
    server.now -= 1e6
    server.restart().happen(10).tick(60.0)
    assert server.size == 15
    assert server.witnessing.newest.signed_at > first.signed_at


@pytest.mark.parametrize("how", ["missing", "garbled"])
def test_a_lost_file_of_checkpoints_is_no_reason_to_end(server, how, caplog):
    server.happen(5).tick()
    for path in server.folder.glob(f"{CHECKPOINTS_FILE}*"):
        path.unlink() if how == "missing" else path.write_bytes(b"nonsense")
    server.restart()
    assert server.size == 0
    assert ("cannot be read" in caplog.text) == (how == "garbled")
    assert server.tick()
    assert server.size == 5


def test_a_server_whose_journal_was_restored_from_an_older_copy_says_so(server, caplog):
    server.happen(5)
    server.close()
    shutil.copytree(server.folder / "journal", server.folder / "copy")
    server.restart().happen(10).tick()
    server.close()
    server.journal = None
    shutil.rmtree(server.folder / "journal")
    (server.folder / "copy").rename(server.folder / "journal")
    with caplog.at_level(logging.ERROR):
        server.restart()
    assert "restored from an older copy, or changed" in caplog.text
    server.tick(60.0)
    assert server.size == 5


def test_a_full_disk_puts_a_checkpoint_off(server, monkeypatch, caplog):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(witnessing, "write_state", full)
        assert not server.happen(5).tick()
    assert "no checkpoint of the journal was signed" in caplog.text
    assert server.size == 0
    assert server.tick(60.0)
    assert server.size == 5


def test_a_broker_that_forgot_is_told_again(server):
    server.happen(5).tick()
    first = server.told()
    server.witnessing.forgotten()
    assert server.told() == first


# --- questions ------------------------------------------------------------------------------------


def test_a_device_that_asks_gets_a_proof_that_holds(server):
    server.happen(7).tick()
    old = server.witnessing.newest
    server.happen(300).tick(60.0)
    server.told()
    server.witnessing.heard("press", m.Witness(size=7, wants=307), doubted=False)
    assert server.tick()
    ((topic, answer),) = server.told().items()
    assert topic == DownTopic("press", ServerSays.PROOF)
    assert grew(VERIFIER.consistency(answer.proof), old, server.witnessing.newest)
    assert not server.tick()


@pytest.mark.parametrize(
    ("size", "wants"),
    [(0, 5), (5, 5), (6, 5), (5, 10**6), (2**63, 2**63 + 1), (-3, 5), (5, -1)],
)
def test_a_question_without_an_answer_is_dropped(server, size, wants):
    server.happen(10).tick()
    server.told()
    server.witnessing.heard("press", m.Witness(size=size, wants=wants), doubted=False)
    assert server.told() == {}


def test_a_fleet_that_asks_at_once_is_answered_over_some_ticks(server):
    server.happen(100).tick()
    server.told()
    for number in range(3 * ANSWERS):
        server.witnessing.heard(f"press-{number}", m.Witness(size=5, wants=100), doubted=False)
        server.witnessing.heard(f"press-{number}", m.Witness(size=7, wants=100), doubted=False)
    answered = []
    for _ in range(3):
        assert server.tick()
        answers = server.told()
        assert len(answers) == ANSWERS
        answered += answers
    assert not server.tick()
    assert len(set(answered)) == 3 * ANSWERS


def test_proofs_exist_only_of_what_the_tree_held():
    tree = Tree(lambda first, end: [bytes(32)] * (end - first))
    for _ in range(10):
        tree.append(bytes(32))
    assert proof_of(FLEET, tree, 3, 9)
    for old, new in ((0, 9), (9, 9), (9, 3), (3, 11)):
        assert proof_of(FLEET, tree, old, new) is None


# --- reports --------------------------------------------------------------------------------------


def claim(seen_size=3, at=START + 9):
    kept = m.Checkpoint(fleet=FLEET, size=9, root=b"k" * 32, signed_at=START)
    seen = m.Checkpoint(fleet=FLEET, size=seen_size, root=b"s" * 32, signed_at=at)
    return m.Contradiction(
        kind=m.ContradictionKind.SMALLER_TREE,
        kept=sign(kept, "checkpoint", KEY),
        seen=sign(seen, "checkpoint", KEY),
    )


def test_a_report_becomes_an_event_with_what_contradicts_and_whether_it_is_proven(server):
    given_ = server.witnessing.heard("press", m.Witness(contradiction=claim()), doubted=False)
    assert given_ == i.WitnessReported(
        "press",
        e.ContradictionReported(
            device="press",
            kind=m.ContradictionKind.SMALLER_TREE,
            kept_size=9,
            kept_root=(b"k" * 32).hex(),
            seen_size=3,
            seen_root=(b"s" * 32).hex(),
            proven=True,
        ),
    )
    lie = server.witnessing.heard(
        "press", m.Witness(contradiction=claim(at=START - 9)), doubted=False
    )
    assert not lie.claim.proven


def test_a_device_without_a_contradiction_costs_nothing_unless_it_had_one(server):
    said = m.Witness(size=5, accepted="restored")
    assert server.witnessing.heard("press", said, doubted=False) is None
    found = server.witnessing.heard("press", said, doubted=True)
    assert found == i.WitnessReported("press", None, "restored")


def test_a_garbled_report_is_a_refused_message(server):
    garbled = msgspec.structs.replace(
        claim(), seen=m.SignedEnvelope(kind="checkpoint", payload=b"\xc1", signatures=())
    )
    found = server.witnessing.heard("press", m.Witness(contradiction=garbled), doubted=False)
    assert isinstance(found, i.MessageForged)
    assert found.sender == "press"


def test_the_newest_of_what_is_remembered_is_what_is_signed():
    tree = Tree(lambda first, end: [bytes(32)] * (end - first))
    envelopes = []
    for size in (1, 2, 3):
        tree.append(bytes(32))
        one = checkpoint_of(FLEET, tree, float(size), None)
        envelopes.append(sign(one, "checkpoint", KEY))
    said = signed_checkpoint(FLEET, tree, envelopes, lambda one, kind: sign(one, kind, KEY))
    assert document_in(said.checkpoint).size == 3
    assert len(said.proofs) == 2
