"""A child process that writes to a journal, a blob folder and a state file until it is killed.

It says what was acknowledged, one line each, as soon as it was. Its parent checks later that all of
it is there. Arguments: what to do (`write`, `hold` or `fill`), the folder, and how many turns.
"""

import resource
import sys
from pathlib import Path

from journal.blobs import BlobFolder
from journal.disk import write_state
from journal.errors import DiskFullError, JournalError
from journal.events import AnyEvent, ModelInitialised, WorkFailed
from journal.store import Journal

BATCH = 3
BLOB_BYTES = 5000


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def blob_of(turn: int) -> bytes:
    return bytes([turn % 256]) * BLOB_BYTES


def write(folder: Path, turns: int) -> None:
    """Keep a blob, name it in a transaction of three events, note the turn in a state file."""
    with Journal.open(folder) as journal:
        blobs = BlobFolder(folder / "blobs")
        first = (journal.head.index + 1) // BATCH
        for turn in range(first, first + turns):
            digest = blobs.put(blob_of(turn))
            say("blob", digest)
            events: list[AnyEvent] = [
                WorkFailed(job=str(turn), detail="before"),
                ModelInitialised(digest=digest, score=float(turn)),
                WorkFailed(job=str(turn), detail="after"),
            ]
            say("journal", journal.append(events, 1000.0 + turn)[-1].index)
            write_state(folder / "turn", str(turn).encode())
            say("state", turn)


def hold(folder: Path) -> None:
    """Keep the journal open until standard input ends."""
    with Journal.open(folder) as journal:
        journal.append([WorkFailed(job="0", detail="held")], 1.0)
        say("open")
        sys.stdin.read()


def fill(folder: Path, limit: int) -> None:
    """Write until no file may grow further, a file of the old content beside."""
    blobs = BlobFolder(folder / "blobs")
    kept = blobs.put(b"small")
    with Journal.open(folder) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            blobs.put(b"x" * (limit + 1))
        except DiskFullError:
            say("full", kept)
        try:
            for turn in range(10_000):
                events = [WorkFailed(job=str(turn), detail="x" * 500)] * BATCH
                say("journal", journal.append(events, 1.0)[-1].index)
        except JournalError as error:
            say("refused", type(error).__name__)


if __name__ == "__main__":
    task, where = sys.argv[1], Path(sys.argv[2])
    if task == "write":
        write(where, int(sys.argv[3]))
    elif task == "hold":
        hold(where)
    else:
        fill(where, int(sys.argv[3]))
