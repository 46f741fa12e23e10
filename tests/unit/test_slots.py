import errno
import logging
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import DecodeError, DigestError, RollbackError
from edge_agent import slot_state
from edge_agent.slot_state import MAX_ATTEMPTS, SlotState
from edge_agent.slots import ModelSlots
from edge_agent.stored_model import MODEL_FILE, STATE_FILE, NotInstalledError, read_current
from journal.errors import DamagedFileError, DiskFullError
from tests.fakes.full_disk import full_disk
from tests.fakes.toy_onnx import manifest_of

A, B, C = b"model a" * 50, b"model b" * 60, b"model c" * 70


def deploy(slots, onnx, counter, *, confirm=True):
    manifest = manifest_of(onnx)
    slots.install(manifest, onnx, counter)
    slots.activate(manifest.digest, counter)
    if confirm:
        slots.confirm()


def digest(onnx):
    return manifest_of(onnx).digest


def running(slots):
    current = slots.current()
    return current.read() if current else None


def folders(slots):
    return {path.name for path in (slots.folder / "models").iterdir()}


@pytest.fixture
def slots(tmp_path):
    return ModelSlots(tmp_path / "agent")


def test_a_new_device_runs_no_model(slots):
    assert slots.current() is None
    assert slots.previous() is None
    assert slots.last_counter() == 0
    assert slots.start() is None


def test_an_installed_model_runs_only_once_activated(slots):
    manifest = manifest_of(A)
    placed = slots.install(manifest, A, 1)
    assert placed.read() == A
    assert slots.current() is None

    slots.activate(manifest.digest, 1)

    assert running(slots) == A
    assert slots.current().manifest == manifest
    assert slots.current().counter == 1
    assert not slots.current().confirmed
    assert slots.last_counter() == 1


def test_current_previous_and_counter_survive_a_restart(slots):
    deploy(slots, A, 3)
    deploy(slots, B, 4)

    again = ModelSlots(slots.folder)

    assert running(again) == B
    assert again.current().confirmed
    assert again.previous().read() == A
    assert (again.last_counter(), again.last_digest()) == (4, digest(B))


def test_an_older_deployment_is_refused_at_every_step(slots):
    deploy(slots, A, 5)
    deploy(slots, B, 6)
    for act in (
        lambda: slots.install(manifest_of(C), C, 5),
        lambda: slots.activate(digest(A), 5),
        lambda: slots.remove(5),
        lambda: slots.give_up(digest(C), 5, "no"),
        lambda: slots.activate(digest(A), 6),
        lambda: slots.remove(6),
    ):
        with pytest.raises(RollbackError, match="higher counter"):
            act()
    assert running(slots) == B


def test_a_rollback_is_a_higher_counter_that_names_an_older_model(slots):
    deploy(slots, A, 5)
    deploy(slots, B, 6)
    slots.activate(digest(A), 7)
    slots.confirm()
    assert running(slots) == A
    assert slots.previous().read() == B


def test_the_same_deployment_again_changes_nothing(slots):
    deploy(slots, A, 5)
    deploy(slots, A, 5)
    deploy(slots, A, 6)
    assert running(slots) == A
    assert slots.current().confirmed
    assert slots.previous() is None


def test_a_model_that_differs_from_its_manifest_is_not_placed(slots):
    with pytest.raises(DigestError, match="fetch it again"):
        slots.install(manifest_of(A), B, 1)
    assert folders(slots) == set()


def test_a_model_that_is_not_there_cannot_be_activated(slots):
    deploy(slots, A, 1)
    for absent in (digest(B), "../../etc", "", "a" * 63):
        with pytest.raises(NotInstalledError, match="install it first"):
            slots.activate(absent, 2)
    assert running(slots) == A


def test_only_current_and_previous_are_kept(slots):
    for counter, onnx in enumerate((A, B, C), start=1):
        deploy(slots, onnx, counter)
    assert folders(slots) == {digest(B), digest(C)}


def test_reverting_goes_back_to_the_confirmed_model_and_says_why(slots):
    deploy(slots, A, 1)
    deploy(slots, B, 2, confirm=False)

    back = slots.revert("too slow")

    assert back.read() == A
    assert back.counter == 1
    assert slots.last_counter() == 2
    assert ModelSlots(slots.folder).failure() == "too slow"
    assert folders(slots) == {digest(A)}


def test_a_model_that_was_never_confirmed_is_not_gone_back_to(slots):
    deploy(slots, A, 1)
    deploy(slots, B, 2, confirm=False)
    deploy(slots, C, 3, confirm=False)
    assert slots.revert("too slow").read() == A


def test_reverting_the_first_model_leaves_none(slots):
    deploy(slots, A, 1, confirm=False)
    assert slots.revert("dies") is None
    assert folders(slots) == set()


def test_a_model_that_ends_the_process_each_time_is_left_without_the_server(tmp_path):
    folder = tmp_path / "agent"
    first = ModelSlots(folder)
    deploy(first, A, 1)
    deploy(first, B, 2, confirm=False)

    started = [ModelSlots(folder).start().read() for _ in range(MAX_ATTEMPTS + 2)]

    assert started == [B] * MAX_ATTEMPTS + [A] * 2
    assert "never confirmed" in ModelSlots(folder).failure()


def test_a_confirmed_model_may_start_as_often_as_it_likes(slots):
    deploy(slots, A, 1)
    assert [slots.start().read() for _ in range(2 * MAX_ATTEMPTS)] == [A] * 2 * MAX_ATTEMPTS


def test_giving_up_keeps_the_model_and_remembers_the_counter(slots):
    deploy(slots, A, 1)
    slots.install(manifest_of(B), B, 2)
    slots.give_up(digest(B), 2, "illegal instruction")
    assert running(slots) == A
    assert (slots.last_counter(), slots.failure()) == (2, "illegal instruction")
    assert folders(slots) == {digest(A)}
    with pytest.raises(RollbackError):
        slots.remove(1)


def test_a_deployment_that_takes_the_model_away_leaves_no_file(slots):
    deploy(slots, A, 1)
    deploy(slots, B, 2)
    slots.remove(3)
    assert slots.current() is None
    assert slots.previous() is None
    assert slots.last_counter() == 3
    assert folders(slots) == set()


def test_the_same_file_under_a_new_description_runs_with_the_new_one(slots):
    deploy(slots, A, 1)
    renamed = manifest_of(A, score=0.1)
    slots.install(renamed, A, 2)
    slots.activate(renamed.digest, 2)
    assert slots.current().manifest == renamed
    assert slots.current().confirmed


def test_an_application_reads_the_current_model_without_changing_anything(slots):
    assert read_current(slots.folder) is None
    deploy(slots, A, 1)
    slots.install(manifest_of(B), B, 2)
    before = folders(slots)
    assert read_current(slots.folder).read() == A
    assert folders(slots) == before


# --- full and damaged disks -----------------------------------------------------------------------


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path):
    room = 10**9
    slots = ModelSlots(tmp_path, free_bytes=lambda _: room)
    deploy(slots, A, 1)
    room = 2 * len(B) - 1
    with pytest.raises(DiskFullError, match="make room"):
        slots.install(manifest_of(B), B, 2)
    assert running(slots) == A
    assert folders(slots) == {digest(A)}
    room += 1
    deploy(slots, B, 2)
    assert running(slots) == B


@pytest.mark.parametrize("after", [0, 1, 100, 420, 421, 600, 700, 750, 900, 1100])
def test_a_disk_that_fills_while_a_model_is_installed_keeps_the_old_one(slots, after):
    deploy(slots, A, 1)
    finished = False
    with full_disk(after=after):
        try:
            deploy(slots, B, 2)
            finished = True
        except DiskFullError:
            pass
    again = ModelSlots(slots.folder)
    assert running(again) == running(slots)
    assert running(again) == (B if finished or again.last_counter() == 2 else A)
    deploy(again, B, 2)
    assert running(again) == B
    assert again.previous().read() == A
    assert not [path for path in slots.folder.rglob(".*") if path.name != "."]


def test_a_full_disk_of_folders_says_so_too(slots, monkeypatch):
    deploy(slots, A, 1)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        with pytest.raises(DiskFullError, match="current model stays"):
            slots.install(manifest_of(B), B, 2)
    assert running(slots) == A


def test_a_damaged_current_model_gives_way_to_the_previous_one(slots, caplog):
    deploy(slots, A, 1)
    deploy(slots, B, 2)
    (slots.current().folder / MODEL_FILE).write_bytes(b"rot")

    again = ModelSlots(slots.folder)

    assert running(again) == A
    assert "damaged on the disk" in caplog.text
    assert (again.last_counter(), again.failure()) == (2, "")
    deploy(again, B, 2)
    assert running(again) == B


def test_a_damaged_previous_model_is_forgotten(slots):
    deploy(slots, A, 1)
    deploy(slots, B, 2)
    shutil.rmtree(slots.previous().folder)
    again = ModelSlots(slots.folder)
    assert running(again) == B
    assert again.previous() is None


def test_a_damaged_model_is_placed_anew(slots):
    slots.install(manifest_of(A), A, 1).path.write_bytes(b"rot")
    with pytest.raises(NotInstalledError):
        slots.activate(digest(A), 1)
    deploy(slots, A, 1)
    assert running(slots) == A


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\x00" * 200])
def test_a_damaged_state_falls_back_to_the_version_before_it(slots, damage):
    deploy(slots, A, 1)
    deploy(slots, B, 2, confirm=False)
    (slots.folder / STATE_FILE).write_bytes(damage)
    again = ModelSlots(slots.folder)
    assert running(again) == A
    assert again.last_counter() == 1


def test_a_state_that_cannot_be_read_at_all_begins_anew_and_says_so(slots, caplog):
    deploy(slots, A, 1)
    deploy(slots, B, 2)
    for path in slots.folder.glob(f"{STATE_FILE}*"):
        path.write_bytes(b"garbage")
    with pytest.raises(DamagedFileError):
        read_current(slots.folder)
    with caplog.at_level(logging.WARNING):
        again = ModelSlots(slots.folder)
    assert again.current() is None
    assert "begin anew" in caplog.text
    deploy(again, B, 2)
    assert running(ModelSlots(slots.folder)) == B


# --- the state itself -----------------------------------------------------------------------------

DIGESTS = st.sampled_from(["a" * 64, "b" * 64, "c" * 64])
STEPS = st.one_of(
    st.tuples(st.just("activate"), DIGESTS, st.integers(0, 3)),
    st.tuples(st.just("give up"), DIGESTS, st.integers(0, 3)),
    st.tuples(st.just("remove"), st.just(""), st.integers(0, 3)),
    st.tuples(st.sampled_from(["confirm", "start", "revert"]), st.just(""), st.just(0)),
)


def step(state, name, named, ahead):
    counter = state.counter + ahead - 1
    match name:
        case "activate":
            return slot_state.activate(state, named, counter)
        case "give up":
            return slot_state.give_up(state, named, counter, "no")
        case "remove":
            return slot_state.remove(state, counter)
        case "confirm":
            return slot_state.confirm(state)
        case "start":
            return slot_state.start(state)
    return slot_state.revert(state, "no")


@given(st.lists(STEPS, max_size=30))
def test_whatever_happens_the_counter_never_falls_and_previous_was_confirmed(steps):
    state, ran = SlotState(counter=1), set()
    for name, named, ahead in steps:
        try:
            after = step(state, name, named, ahead)
        except RollbackError:
            continue
        if after.confirmed:
            ran.add(after.current)
        assert after.counter >= state.counter
        assert after.previous == "" or after.previous in ran
        assert after.previous != after.current or after.current == ""
        assert after.confirmed is False or after.current
        assert after.attempts <= MAX_ATTEMPTS
        assert slot_state.decode_slot_state(slot_state.encode_slot_state(after)) == after
        assert after == state or after.revision > state.revision
        state = after


@given(st.binary(max_size=300))
def test_a_state_of_any_bytes_is_read_or_refused(data):
    try:
        slot_state.decode_slot_state(data)
    except DecodeError:
        return
    assert msgspec.msgpack.decode(data) is not None
