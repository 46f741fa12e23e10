"""An exported audit log: what was tampered with shows, and what did not shows nothing."""

import json
import shutil
import sqlite3

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as search
from hypothesis import strategies as st

from broker import messages as m
from broker.envelope import Verifier, public_key_of, public_key_text, sign
from journal import events as e
from journal.audit_check import Outcome, check_export
from journal.audit_export import (
    FORMAT,
    Export,
    ExportEnd,
    ExportHead,
    export_lines,
    exported,
)
from journal.audit_proof import check_proof, gather, prove, read_proof
from journal.chain import EMPTY, Head, extend, verify
from journal.errors import AuditError, ChainError
from journal.merkle import root_of
from journal.reader import DATABASE, JournalReader
from journal.store import Journal

FLEET, DEVICE = "plant", "press"
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
PUBLIC = public_key_text(public_key_of(KEY))
VERIFIER = Verifier.trusting([public_key_of(KEY)], FLEET, "")
COUNT, COVERED, KEPT = 40, 35, 20


def contribution(device, score):
    return e.Contribution(device=device, score=score, update="ab" * 32)


def scored(number):
    return e.RoundScored(
        round=number,
        digest="cd" * 32,
        curve=(),
        contributions=(contribution(DEVICE, 0.25), contribution("lathe", 0.5)),
        method="exact-shapley",
        value_before=0.0,
        value_after=1.0,
        coalitions=3,
        seconds=0.1,
        better=True,
    )


def rewards(number):
    reward = e.Reward(
        device=DEVICE,
        contribution=0.25,
        share=1.0,
        value=0.5,
        target=0.5,
        width=0.5,
        score=0.6,
        reason="as it earned",
    )
    return e.RewardsAllocated(round=number, rule="equal-gain", note="", rewards=(reward,))


def happened(count=COUNT):
    """Return events with everything about one device's round 2 among others."""
    events = [
        e.PresenceChanged(device=f"d{n}", state="online", cause="birth") for n in range(count)
    ]
    events[5] = e.DeviceDropped(round=1, device=DEVICE, reason=m.DropReason.LATE)
    events[10] = e.DeviceDropped(round=2, device="lathe", reason=m.DropReason.LATE)
    events[12] = e.UpdateRefused(
        round=2, device=DEVICE, blob="ef" * 32, reason=m.DropReason.LATE, detail="x"
    )
    events[20], events[21] = scored(1), scored(2)
    events[30], events[31], events[33] = rewards(1), rewards(3), rewards(4)
    return events


def records(events=None, at=1000.5):
    return extend(EMPTY, events or happened(), at)


def checkpoint(history, size, key=KEY, fleet=FLEET):
    document = m.Checkpoint(
        fleet=fleet, size=size, root=root_of([one.hash for one in history[:size]]), signed_at=5.0
    )
    return sign(document, "checkpoint", key)


HISTORY = records()
SIGNED, WITNESSED = checkpoint(HISTORY, COVERED), checkpoint(HISTORY, KEPT)


def lines_of(history, signed=SIGNED, known=None, key=PUBLIC):
    head = ExportHead(format=FORMAT, fleet=FLEET, public_key=key, checkpoint=signed)
    return list(export_lines(head, history, known))


def findings(lines, verifier=VERIFIER, **witnesses):
    return check_export(Export(lines), verifier, witnesses)


def failures(lines, **more):
    return [one.text for one in findings(lines, **more) if one.outcome is Outcome.FAILS]


# --- a sound log ----------------------------------------------------------------------------------


def test_a_sound_export_holds_with_checkpoint_and_witness():
    found = findings(lines_of(HISTORY), press=WITNESSED)
    assert [one.outcome for one in found] == ["ok", "ok", "ok", "note"]
    assert found[0].text == "chain: 40 events, each continues the one before"
    assert found[1].text.startswith("press: signed over 20 events, root ")
    assert found[2].text.startswith("checkpoint: signed over 35 events, root ")
    assert found[3].text == "5 events are newer than the checkpoint: only the chain holds"


def test_the_records_come_back_as_they_were():
    export = Export(lines_of(HISTORY))
    assert list(export.records()) == HISTORY
    assert export.end.records == COUNT
    assert export.end.lost == ""


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=30))
def test_any_time_and_text_comes_back_from_the_file(at, text):
    history = extend(EMPTY, [e.CampaignFinished(detail=text)], at)
    assert list(Export(lines_of(history, None)).records()) == history


def test_an_export_without_a_checkpoint_says_what_that_means():
    found = findings(lines_of(HISTORY, None))
    assert [one.outcome for one in found] == ["ok", "note"]
    assert "a rewrite of the whole would not show" in found[1].text


# --- tampering ------------------------------------------------------------------------------------


def edited(history, place):
    changed = history[place].payload.replace(b"online", b"0nline").replace(b"late", b"l4te")
    return [
        *history[:place],
        msgspec_record(history[place], payload=changed),
        *history[place + 1 :],
    ]


def msgspec_record(record, **changes):
    fields = {
        name: getattr(record, name) for name in ("index", "at", "payload", "previous", "hash")
    }
    return type(record)(**(fields | changes))


def raw_lines(history):
    """Return lines as a forger writes them, whatever the chain says."""
    head = ExportHead(format=FORMAT, fleet=FLEET, public_key=PUBLIC, checkpoint=SIGNED)
    body = [exported(one) for one in history]
    return [
        msgspec.json.encode(one) + b"\n" for one in (head, *body, ExportEnd(records=len(history)))
    ]


@pytest.mark.parametrize("place", [0, 7, 34])
def test_an_edited_entry_shows(place):
    (first, *_) = failures(raw_lines(edited(HISTORY, place)))
    assert f"journal record {place}: its content and its hash differ" in first


@pytest.mark.parametrize("place", [0, 7, 38])
def test_a_removed_entry_shows(place):
    (first, *_) = failures(raw_lines([*HISTORY[:place], *HISTORY[place + 1 :]]))
    assert f"journal record {place}: missing" in first


def test_entries_in_another_order_show():
    (first, *_) = failures(raw_lines([*HISTORY[:7], HISTORY[8], HISTORY[7], *HISTORY[9:]]))
    assert "journal record 7: missing; number 8 stands in its place" in first


def test_an_added_entry_shows():
    (first, *_) = failures(raw_lines([*HISTORY[:7], HISTORY[6], *HISTORY[7:]]))
    assert "journal record 7" in first


@pytest.mark.parametrize("count", [34, 20, 0])
def test_a_cut_below_the_checkpoint_shows_by_the_checkpoint(count):
    (only,) = failures(raw_lines(HISTORY[:count]))
    assert only.startswith(f"checkpoint: signed over 35 events, only {count} are here")


def test_a_cut_below_what_a_witness_kept_shows_by_the_witness_where_the_server_hides_its_own():
    cut = lines_of(HISTORY[:15], checkpoint(HISTORY, 15))
    assert failures(cut) == []
    (only,) = failures(cut, press=WITNESSED)
    assert only.startswith("press: signed over 20 events, only 15 are here: the end was cut off")


@pytest.mark.parametrize("place", [0, 7, 19])
def test_a_whole_journal_rewritten_with_a_new_chain_and_new_signatures_shows_by_a_witness(place):
    """The server itself lies: chain, tree and signatures are all in order."""
    events = happened()
    events[place] = e.PresenceChanged(device="nobody", state="offline", cause="invented")
    rewritten = records(events)
    verify(rewritten)
    lines = lines_of(rewritten, checkpoint(rewritten, COUNT))
    assert failures(lines) == []
    (only,) = failures(lines, press=WITNESSED)
    assert only.startswith("press: over 20 events another root was signed")
    assert only.endswith("the history was rewritten")


@given(st.integers(0, KEPT - 1), st.integers(0, 30))
@search(max_examples=30)
def test_no_rewrite_below_a_witness_goes_unseen(place, more):
    events = [*happened()[:place], *happened()[place + 1 :], *happened()[:more]]
    rewritten = records(events)
    lines = lines_of(rewritten, checkpoint(rewritten, len(rewritten)))
    assert failures(lines, press=WITNESSED)


def test_a_checkpoint_by_another_key_shows():
    forged = lines_of(HISTORY, checkpoint(HISTORY, COVERED, key=OTHER_KEY))
    (only,) = failures(forged)
    assert only.startswith("checkpoint: checkpoint is not signed by a trusted key")


def test_a_witness_of_another_server_shows():
    for other in (
        checkpoint(HISTORY, KEPT, key=OTHER_KEY),
        checkpoint(HISTORY, KEPT, fleet="other"),
    ):
        assert len(failures(lines_of(HISTORY), press=other)) == 1


def test_an_export_that_was_cut_off_shows():
    whole = lines_of(HISTORY)
    assert failures(whole[:-1]) == ["the export has no end: it was cut off; copy it again"]
    (torn,) = failures([*whole[:-2], whole[-2][:50]])
    assert "is no record" in torn
    (short,) = failures([*whole[:-2], whole[-1]])
    assert "counts 40 records and holds 39" in short
    (behind,) = failures([*whole, whole[-1]])
    assert "nothing may stand behind the end" in behind


@given(st.data())
@search(max_examples=60)
def test_no_single_changed_byte_of_a_record_goes_unseen(data):
    lines = lines_of(HISTORY)
    number = data.draw(st.integers(1, COUNT))
    line = bytearray(lines[number])
    place = data.draw(st.integers(0, len(line) - 2))
    line[place] ^= data.draw(st.integers(1, 255))
    changed = [*lines[:number], bytes(line), *lines[number + 1 :]]
    try:
        same = list(Export(changed).records()) == HISTORY
    except AuditError:
        same = False
    assert same or failures(changed, press=WITNESSED)


def test_something_else_is_refused_in_one_line():
    with pytest.raises(AuditError, match="not an export of an audit log"):
        Export([])
    with pytest.raises(AuditError, match="not an export of an audit log"):
        Export([b"\x00\xff\n"])
    other = msgspec.json.encode(ExportHead(format="x/9", fleet="f", public_key=""))
    with pytest.raises(AuditError, match="this software knows slimfleet-audit/1"):
        Export([other])


# --- a damaged journal ----------------------------------------------------------------------------


def test_what_is_intact_is_exported_and_the_loss_is_said():
    def damaged():
        yield from HISTORY[:12]
        raise ChainError(12, "is no record")

    lines = lines_of(damaged())
    assert len(list(Export(lines).records())) == 12
    lost, missing = failures(lines)
    assert lost.startswith("lost: journal record 12: is no record")
    assert "only 12 are here" in missing


def test_a_journal_that_ends_before_its_noted_end_says_so():
    (lost, _) = failures(lines_of(HISTORY[:12], known=Head(39, HISTORY[39].hash)))
    assert lost == "lost: the journal was known to reach record 39 and ends at 11: it was cut off"


def test_a_journal_on_a_truncated_file_is_exported_up_to_the_damage(tmp_path):
    with Journal.open(tmp_path) as journal:
        for _ in range(60):
            journal.append(happened(), 1000.5)
        whole = list(journal.records())
    path = tmp_path / DATABASE
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 3 // 5 // 4096 * 4096)
    reader = JournalReader(tmp_path, salvage=True)
    lines = lines_of(reader.records(), checkpoint(whole, 2400))
    export = Export(lines)
    intact = list(export.records())
    assert 500 < len(intact) < len(whole)
    assert intact == whole[: len(intact)]
    assert "damaged or cut off" in export.end.lost
    assert any("were" in text or "lost" in text for text in failures(lines))


def test_a_journal_edited_behind_the_servers_back_is_exported_up_to_there(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append(happened(), 1000.5)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET payload = ? WHERE idx = 9", (b"{}",))
    lines = lines_of(JournalReader(tmp_path).records(), None)
    assert len(list(Export(lines).records())) == 9
    assert "record 9" in json.loads(lines[-1])["lost"]


def test_an_export_beside_a_writer_sees_what_is_written(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append(happened(), 1000.5)
        lines = lines_of(JournalReader(tmp_path).records(), None)
        journal.append([e.CampaignFinished(detail="")], 1001.0)
    assert len(list(Export(lines).records())) == COUNT
    shutil.rmtree(tmp_path)


# --- proofs ---------------------------------------------------------------------------------------


def proof_for(device=DEVICE, number=2, history=HISTORY, signed=SIGNED):
    hashes, found = gather(history, device, number)
    return prove(hashes, found, signed, VERIFIER.checkpoint(signed), PUBLIC, device, number)


def broken(proof, **changes):
    """Return what fails of a proof whose first record is changed."""
    first = msgspec.structs.replace(proof.records[0], **changes)
    forged = msgspec.structs.replace(proof, records=(first, *proof.records[1:]))
    checked = check_proof(forged, VERIFIER)
    assert len(checked.records) == len(proof.records) - 1
    return [one.text for one in checked.findings if one.outcome is Outcome.FAILS]


def test_a_proof_holds_what_a_device_gave_in_a_round_and_the_rewards_that_followed():
    proof = read_proof(msgspec.json.encode(proof_for()))
    checked = check_proof(proof, VERIFIER)
    assert {one.outcome for one in checked.findings} == {Outcome.HOLDS}
    assert [record.index for record in checked.records] == [12, 21, 31]
    kinds = [type(record.event) for record in checked.records]
    assert kinds == [e.UpdateRefused, e.RoundScored, e.RewardsAllocated]


def test_a_proof_needs_the_key_and_nothing_else():
    other = Verifier.trusting([public_key_of(OTHER_KEY)], FLEET, "")
    checked = check_proof(proof_for(), other)
    assert checked.records == []
    assert [one.outcome for one in checked.findings] == [Outcome.FAILS]


def test_no_altered_record_is_proven():
    proof = proof_for()
    first, second = proof.records[:2]
    assert "content was changed" in broken(proof, payload=second.payload)[0]
    assert "content was changed" in broken(proof, at=1.0)[0]
    assert "content was changed" in broken(proof, index=13)[0]
    assert "is not among the 35" in broken(proof, path=second.path)[0]
    assert "is not among the 35" in broken(proof, path=first.path[:-1])[0]
    assert "is not among the 35" in broken(proof, path=(*first.path, "00" * 32))[0]
    assert "cannot be read" in broken(proof, hash="xyz")[0]
    assert "cannot be read" in broken(proof, path=("xyz",))[0]


def test_an_invented_record_with_a_sound_hash_is_not_proven():
    invented = records([*happened()[:12], rewards(2)])[12]
    found = broken(
        proof_for(),
        payload=invented.payload.decode(),
        hash=invented.hash.hex(),
        previous=invented.previous.hex(),
    )
    assert "is not among the 35" in found[0]


def test_a_sound_record_about_somebody_else_proves_nothing():
    proof = msgspec.structs.replace(proof_for(), device="lathe")
    checked = check_proof(proof, VERIFIER)
    failed = [one.text for one in checked.findings if one.outcome is Outcome.FAILS]
    assert failed == [f"record {n} says nothing of lathe in round 2" for n in (12, 31)]


def test_an_empty_proof_proves_nothing():
    checked = check_proof(msgspec.structs.replace(proof_for(), records=()), VERIFIER)
    assert [one.outcome for one in checked.findings] == [Outcome.HOLDS, Outcome.FAILS]


def test_a_proof_that_cannot_be_made_says_why():
    with pytest.raises(AuditError, match="nothing is recorded of what press gave in round 9"):
        proof_for(number=9, history=HISTORY[:30])
    with pytest.raises(AuditError, match="wait until the server has signed the next one"):
        proof_for(signed=checkpoint(HISTORY, 25))
    with pytest.raises(AuditError, match="the journal is not the one whose 35 events"):
        proof_for(history=records(happened(), at=7.0))
    with pytest.raises(AuditError, match="not a proof"):
        read_proof(b"{}")
    with pytest.raises(AuditError, match="this software knows slimfleet-proof/1"):
        read_proof(msgspec.json.encode(msgspec.structs.replace(proof_for(), format="x")))
