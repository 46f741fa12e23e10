import hashlib
import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BlobError
from broker.messages import BlobReference, Update
from edge_agent.outbox import KEPT, Outbox
from journal.errors import DiskFullError
from tests.fakes.full_disk import full_disk


def update_of(round_number, data):
    digest = hashlib.sha256(data).hexdigest()
    return Update(
        device="press-1",
        round=round_number,
        width=0.5,
        model="toy",
        spec_hash="0" * 64,
        blob=BlobReference(blob=digest, size=len(data), block_size=1024, plaintext=digest),
    )


def put(outbox, round_number, data):
    update = update_of(round_number, data)
    outbox.put(update, data)
    return update


def rounds(outbox):
    return [update.round for update in outbox.pending()]


def entry_files(outbox):
    return sorted(outbox._folder.glob("*.update"))


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def again(outbox):
    return lambda: Outbox(outbox._folder)


def test_an_update_waits_through_restarts_until_its_receipt(outbox, again):
    update = put(outbox, 7, b"weights")
    for box in (outbox, again()):
        assert box.pending() == [update]
        assert box.data(update.blob.blob) == b"weights"
        assert len(box) == 1
    assert outbox.settle(7, update.blob.blob)
    for box in (outbox, again()):
        assert box.pending() == []
        assert len(box) == 0
    assert not outbox.settle(7, update.blob.blob)


def test_a_receipt_for_another_update_settles_nothing(outbox):
    old, new = update_of(7, b"old"), put(outbox, 7, b"new")
    assert not outbox.settle(7, old.blob.blob)
    assert not outbox.settle(8, new.blob.blob)
    assert outbox.pending() == [new]


def test_a_newer_update_takes_the_place_of_the_rounds_older_one(outbox, again):
    old = put(outbox, 7, b"old")
    new = put(outbox, 7, b"new")
    for box in (outbox, again()):
        assert box.pending() == [new]
        with pytest.raises(BlobError, match="train the round again"):
            box.data(old.blob.blob)
    assert len(entry_files(outbox)) == 1


def test_the_same_update_may_be_put_twice(outbox):
    first = put(outbox, 7, b"same")
    put(outbox, 7, b"same")
    assert outbox.pending() == [first]
    assert outbox.data(first.blob.blob) == b"same"


def test_only_the_newest_updates_are_kept(outbox, again):
    for round_number in range(1, KEPT + 3):
        put(outbox, round_number, str(round_number).encode())
    assert rounds(outbox) == rounds(again()) == [3, 4, 5, 6]
    assert len(entry_files(outbox)) == KEPT


def test_a_server_that_counts_from_one_again_loses_no_update(outbox, again):
    for round_number in (40, 41, 42, 43, 1, 2):
        put(outbox, round_number, str(round_number).encode())
    assert rounds(again()) == [42, 43, 1, 2]


def test_bytes_that_the_update_does_not_name_are_refused(outbox):
    with pytest.raises(BlobError, match="encode it again"):
        outbox.put(update_of(7, b"weights"), b"others")
    assert outbox.pending() == []
    assert entry_files(outbox) == []


@pytest.mark.parametrize("after", [0, 10, 100, 300])
def test_a_full_disk_refuses_the_update_and_keeps_the_others(outbox, again, after):
    kept = put(outbox, 7, b"x" * 500)
    with full_disk(after=after), pytest.raises(DiskFullError, match="make room"):
        put(outbox, 8, b"y" * 500)
    for box in (outbox, again()):
        assert box.pending() == [kept]
    assert [path for path in outbox._folder.iterdir() if path.suffix != ".update"] == []


@pytest.mark.parametrize("position", [0, 4, 6, 20, 45, 60, -1])
def test_a_damaged_update_is_set_aside_with_a_line_in_the_log(outbox, again, caplog, position):
    put(outbox, 7, b"damaged" * 40)
    whole = put(outbox, 8, b"whole")
    path = entry_files(outbox)[0]
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        box = again()
    assert box.pending() == [whole]
    assert "set aside" in caplog.text
    assert str(path) in caplog.text
    caplog.clear()
    assert again().pending() == [whole]
    assert caplog.text == ""


def test_an_update_that_is_damaged_while_it_waits_is_not_sent(outbox):
    update = put(outbox, 7, b"weights")
    entry_files(outbox)[0].write_bytes(b"")
    with pytest.raises(BlobError, match="damaged on the disk"):
        outbox.data(update.blob.blob)
    assert outbox.pending() == []


def test_many_damaged_updates_do_not_fill_the_disk(outbox, again):
    for number in range(10, 60):
        (outbox._folder / f"{number:010d}.update").write_bytes(b"rot")
    assert again().pending() == []
    assert len(list(outbox._folder.iterdir())) == 1


def test_a_file_of_a_strange_name_is_set_aside(outbox, again):
    (outbox._folder / "notes.update").write_bytes(b"")
    assert again().pending() == []


@given(content=st.binary(max_size=200), cut=st.integers(0, 400))
def test_files_of_any_content_never_stop_the_outbox(tmp_path_factory, content, cut):
    folder = tmp_path_factory.mktemp("outbox")
    box = Outbox(folder)
    put(box, 1, b"weights")
    path = entry_files(box)[0]
    whole = path.read_bytes()
    (folder / "0000000002.update").write_bytes(whole[:cut] + content)
    (folder / "0000000003.update").write_bytes(content)
    assert all(update.blob == update_of(1, b"weights").blob for update in Outbox(folder).pending())


def test_fields_of_a_later_version_are_ignored(outbox, again):
    update = put(outbox, 7, b"weights")
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(update)) | {"later": 1}
    message = msgspec.msgpack.encode(fields)
    path = entry_files(outbox)[0]
    header = b"SFO1" + len(message).to_bytes(4, "big") + hashlib.sha256(message).digest()
    path.write_bytes(header + message + b"weights")
    assert again().pending() == [update]
