"""Files that are either old or new."""

import errno
import fcntl
import hashlib
import os

import pytest

from journal import disk, platform
from journal.disk import (
    make_folder,
    remove_leftovers,
    write_atomically,
    write_state,
)
from journal.errors import DamagedFileError, DiskFullError
from journal.reading import read_checked, read_state
from tests.fakes.full_disk import full_disk


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_whole_content(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"a long first version")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_a_file_belongs_to_its_user_unless_told_otherwise(tmp_path):
    write_atomically(tmp_path / "key", b"")
    write_atomically(tmp_path / "page", b"", mode=0o644)
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert (tmp_path / "page").stat().st_mode & 0o200


def test_bytes_and_name_are_flushed_in_the_safe_order(tmp_path, monkeypatch):
    steps = []
    replace = os.replace
    monkeypatch.setattr(platform, "flush", lambda _: steps.append("bytes"))
    monkeypatch.setattr(platform, "flush_folder", lambda _: steps.append("folder"))
    monkeypatch.setattr(disk.os, "replace", lambda *a: (steps.append("rename"), replace(*a)))
    write_atomically(tmp_path / "file", b"x")
    assert steps == ["bytes", "rename", "folder"]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(disk.os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    write_atomically(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("after", [0, 1, 50])
def test_a_full_disk_keeps_the_old_file_and_no_other(tmp_path, after):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with full_disk(after=after), pytest.raises(DiskFullError, match="make room") as caught:
        write_atomically(path, b"new" * 100)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_any_other_failure_keeps_the_old_file_too(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def broken(_):
        raise OSError(errno.EIO, "the medium is gone")

    monkeypatch.setattr(platform, "flush", broken)
    with pytest.raises(OSError, match="medium") as caught:
        write_atomically(path, b"new")
    assert not isinstance(caught.value, DiskFullError)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_checked_read_refuses_other_bytes(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"abc")
    assert read_checked(path, hashlib.sha256(b"abc").hexdigest()) == b"abc"
    with pytest.raises(DamagedFileError, match="fetch it again"):
        read_checked(path, hashlib.sha256(b"abd").hexdigest())
    with pytest.raises(FileNotFoundError):
        read_checked(tmp_path / "none", "")


def test_state_comes_back(tmp_path):
    path = tmp_path / "state"
    with pytest.raises(FileNotFoundError):
        read_state(path)
    for data in (b"", b"one", b"two\nlines"):
        write_state(path, data)
        assert read_state(path) == data


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"0" * 64 + b"\ntwo", b"0" * 64])
def test_damaged_state_falls_back_to_the_version_before(tmp_path, damage, caplog):
    path = tmp_path / "state"
    write_state(path, b"one")
    write_state(path, b"two")
    path.write_bytes(damage)
    assert read_state(path) == b"one"
    assert "went back" in caplog.text
    write_state(path, b"three")
    path.write_bytes(damage)
    assert read_state(path) == b"one"


def test_state_damaged_twice_is_an_error(tmp_path):
    path = tmp_path / "state"
    write_state(path, b"one")
    path.write_bytes(b"?")
    with pytest.raises(DamagedFileError, match="checksum"):
        read_state(path)
    write_state(path, b"one")
    write_state(path, b"two")
    for one in tmp_path.iterdir():
        one.write_bytes(b"?")
    with pytest.raises(DamagedFileError, match="checksum"):
        read_state(path)


def test_folders_are_made_with_those_above(tmp_path):
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_leftovers_are_the_files_of_killed_writers_only(tmp_path):
    for name in (".file.12ab.tmp", "file", "file.tmp", ".hidden"):
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == [".file.12ab.tmp"]
    assert names(tmp_path) == [".hidden", "file", "file.tmp"]


def test_whether_a_lock_is_held_can_be_seen_without_taking_it(tmp_path):
    path = tmp_path / "lock"
    assert platform.is_held(path) is False
    assert not path.exists()
    with platform.FileLock(path):
        before = path.read_bytes()
        assert [platform.is_held(path) for _ in range(3)] == [True] * 3
        assert path.read_bytes() == before
    assert platform.is_held(path) is False
    platform.FileLock(path).release()


def test_whoever_only_looks_at_a_lock_keeps_nobody_from_taking_it(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.touch()
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    waited = []

    def wait(seconds):
        waited.append(seconds)
        os.close(looking)  # a look is over long before

    monkeypatch.setattr(platform.time, "sleep", wait)
    platform.FileLock(path).release()
    assert len(waited) == 1


def test_a_lock_that_may_not_be_read_is_unknown(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(platform.os, "open", refuse)
    assert platform.is_held(tmp_path / "lock") is None


def test_a_lock_is_held_once_and_says_by_whom(tmp_path):
    with platform.FileLock(tmp_path / "lock") as lock:
        with pytest.raises(platform.HeldError) as caught:
            platform.FileLock(tmp_path / "lock")
        assert str(os.getpid()) in caught.value.holder
        lock.release()
        platform.FileLock(tmp_path / "lock").release()
