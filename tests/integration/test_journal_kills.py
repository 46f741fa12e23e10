"""Real processes, killed at every place where the power may fail: nothing acknowledged is lost."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from journal.blobs import BlobFolder
from journal.chain import verify
from journal.crashpoints import CRASH_AT, CRASHPOINTS, KILLED
from journal.disk import remove_leftovers
from journal.errors import JournalLockedError
from journal.events import ModelInitialised
from journal.reader import JournalReader
from journal.reading import read_state
from journal.store import Journal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills POSIX processes")

ROOT = Path(__file__).parents[2]
BATCH = 3
# Importing the room has registered its crash points; other rooms test their own.
OURS = sorted(name for name in CRASHPOINTS if name.startswith(("blob-", "file-", "journal-")))
ONCE = {"journal-created", "journal-named"}
PLACES = [
    pytest.param(name if nth == 1 else f"{name}:{nth}", id=f"{name}-{nth}")
    for name in OURS
    for nth in (1, 3)
    if nth == 1 or name not in ONCE
]


@pytest.fixture
def child():
    """Start children, and leave none behind whatever happens."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, crash_at="", **options):
            program = Path(__file__).with_name("journal_writer.py")
            process = subprocess.Popen(
                [sys.executable, program, *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": str(ROOT), CRASH_AT: crash_at},
                stdout=subprocess.PIPE,
                text=True,
                **options,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def finish(process):
    """Return the lines that were not read yet; `communicate` loses what `readline` has buffered."""
    if process.stdin:
        process.stdin.close()
    lines = process.stdout.read().splitlines()
    process.wait(timeout=60)
    return lines


def said(lines, word):
    return [line.split()[1] for line in lines if line.startswith(f"{word} ")]


def check_nothing_is_lost(folder, lines):
    """Open what a killed child left and compare with what it had said."""
    acknowledged = [int(index) for index in said(lines, "journal")]
    with Journal.open(folder) as journal:
        records = list(journal.records())
        assert verify(records, journal.head) == journal.head
    assert len(records) % BATCH == 0, "half of a transaction was kept"
    whole = len(acknowledged)
    assert len(records) // BATCH in {whole, whole + 1}, "a transaction was lost, or added"
    assert all(index < len(records) for index in acknowledged)
    kept = BlobFolder(folder / "blobs")
    named = [one.event.digest for one in records if isinstance(one.event, ModelInitialised)]
    for digest in {*named, *said(lines, "blob")}:
        kept.get(digest)
    assert not list(kept.folder.glob(".*"))
    remove_leftovers(folder)
    if states := said(lines, "state"):
        assert int(read_state(folder / "turn")) in {int(states[-1]), int(states[-1]) + 1}
    return len(records)


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_at_a_crash_point_loses_nothing_that_was_acknowledged(tmp_path, child, place):
    process = child("write", tmp_path, 4, crash_at=place)
    lines = finish(process)
    assert process.returncode == KILLED, f"never passed {place}"
    before = check_nothing_is_lost(tmp_path, lines)
    process = child("write", tmp_path, 1)
    finish(process)
    assert process.returncode == 0
    assert len(list(JournalReader(tmp_path).records())) == before + BATCH


@pytest.mark.parametrize("turn", [2, 9, 25])
def test_sigkill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path, child, turn):
    process = child("write", tmp_path, 100_000)
    lines = []
    while len(lines) < 3 * turn:
        lines.append(process.stdout.readline().rstrip("\n"))
    process.kill()
    rest = finish(process)
    assert process.returncode < 0
    assert check_nothing_is_lost(tmp_path, [*lines, *rest]) >= BATCH * turn


def test_a_second_process_cannot_write_but_can_read(tmp_path, child):
    holder = child("hold", tmp_path, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(JournalLockedError, match=f"process {holder.pid} on"):
        Journal.open(tmp_path)
    assert [one.event.detail for one in JournalReader(tmp_path).records()] == ["held"]
    finish(holder)
    assert holder.returncode == 0
    Journal.open(tmp_path).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path, child):
    holder = child("hold", tmp_path, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "open\n"
    holder.kill()
    finish(holder)
    assert (tmp_path / "journal.sqlite-wal").exists()
    assert [one.event.detail for one in JournalReader(tmp_path).records()] == ["held"]
    with Journal.open(tmp_path) as journal:
        assert journal.head.index == 0


def test_when_no_file_may_grow_everything_acknowledged_stays(tmp_path, child):
    process = child("fill", tmp_path, 200_000)
    lines = finish(process)
    assert process.returncode == 0
    assert said(lines, "refused")
    (kept,) = said(lines, "full")
    folder = BlobFolder(tmp_path / "blobs")
    assert folder.leftovers == []
    assert folder.digests() == (kept,)
    with Journal.open(tmp_path) as journal:
        assert len(list(journal.records())) == journal.head.index + 1
        assert journal.head.index >= int(said(lines, "journal")[-1])
        assert (journal.head.index + 1) % BATCH == 0
