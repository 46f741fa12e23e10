"""Blobs under their digest."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.blobs import BlobFolder
from journal.errors import BlobMissingError, DamagedFileError, DiskFullError
from tests.fakes.full_disk import full_disk

ABSENT = hashlib.sha256(b"absent").hexdigest()


@pytest.fixture
def blobs(tmp_path):
    return BlobFolder(tmp_path / "blobs")


@settings(max_examples=20, deadline=None)
@given(data=st.binary(max_size=5000))
def test_a_blob_comes_back_under_its_digest(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("blobs")
    digest = BlobFolder(folder).put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert BlobFolder(folder).get(digest) == data


def test_the_same_bytes_are_kept_once(blobs):
    assert blobs.put(b"abc") == blobs.put(b"abc")
    assert len(blobs.digests()) == 1
    assert blobs.size() == 3


def test_a_missing_blob_is_named(blobs):
    assert not blobs.has(ABSENT)
    assert not blobs.delete(ABSENT)
    with pytest.raises(BlobMissingError, match=ABSENT[:12]):
        blobs.get(ABSENT)


@pytest.mark.parametrize("name", ["", "../secret", ABSENT.upper(), ABSENT + "\n", "/etc/passwd"])
def test_what_is_no_digest_never_becomes_a_path(tmp_path, blobs, name):
    (tmp_path / "secret").write_bytes(b"x")
    assert not blobs.has(name)
    assert not blobs.delete(name)
    with pytest.raises(BlobMissingError, match="no SHA-256 digest"):
        blobs.get(name)
    assert (tmp_path / "secret").exists()


def test_a_blob_that_changed_on_the_disk_is_not_returned_and_can_be_put_again(blobs):
    digest = blobs.put(b"abc")
    (blobs.folder / digest).write_bytes(b"abd")
    with pytest.raises(DamagedFileError, match=digest[:12]):
        blobs.get(digest)
    blobs.put(b"abc")
    assert blobs.get(digest) == b"abc"


def test_collecting_removes_all_but_what_is_kept(blobs):
    first, second, third = (blobs.put(one) for one in (b"1", b"22", b"333"))
    assert blobs.collect({second, ABSENT}) == tuple(sorted((first, third)))
    assert blobs.digests() == (second,)
    assert blobs.size() == 2
    assert blobs.delete(second)
    assert blobs.digests() == ()


def test_opening_clears_away_what_a_killed_process_left_and_nothing_else(tmp_path):
    blobs = BlobFolder(tmp_path)
    digest = blobs.put(b"abc")
    (tmp_path / f".{ABSENT}.0123.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert BlobFolder(tmp_path, owner=False).leftovers == []
    assert (tmp_path / f".{ABSENT}.0123.tmp").exists()
    assert BlobFolder(tmp_path).leftovers == [f".{ABSENT}.0123.tmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([digest, "notes.txt"])
    assert blobs.digests() == (digest,)


def test_a_full_disk_leaves_the_folder_as_it_was(blobs):
    kept = blobs.put(b"abc")
    with full_disk(after=10), pytest.raises(DiskFullError):
        blobs.put(b"x" * 100)
    assert [path.name for path in blobs.folder.iterdir()] == [kept]
    blobs.put(b"x" * 100)
    assert blobs.size() == 103
