"""Runs ``slimfleet demo`` as a user does, watches it, and reads what it left."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from benchmarks.errors import BenchmarkError
from journal import events as e
from journal.chain import Record
from journal.errors import JournalError
from journal.reader import JournalReader

SAMPLE_S = 0.5
LIMIT_S = 900.0


@dataclass(frozen=True)
class DemoRun:
    """One run of the demo.

    Attributes:
        seconds: from its start to its end, as the user waits.
        peak_bytes: largest sum of the resident memory of all its processes; pages that several
            processes share count once for each.
        processes: how many there were at most.
        records: its journal.
    """

    seconds: float
    peak_bytes: int
    processes: int
    records: tuple[Record, ...]


@cache
def run_demo(devices: int, rounds: int, seed: int) -> DemoRun:
    """Run the demo; a second benchmark of this process that wants the same run gets the first.

    Raises:
        BenchmarkError: the demo failed.
    """
    return fresh_demo(devices, rounds, seed)


def fresh_demo(devices: int, rounds: int, seed: int) -> DemoRun:
    """Run the demo and watch its processes.

    Raises:
        BenchmarkError: the demo failed, or took longer than a quarter of an hour.
    """
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
        out, log = Path(folder) / "run", Path(folder) / "demo.log"
        command = [sys.executable, "-m", "slimfleet", "demo", "--out", str(out)]
        command += ["--devices", str(devices), "--rounds", str(rounds), "--seed", str(seed)]
        started = time.monotonic()
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                peak, processes = _watch(child, started + LIMIT_S)
            finally:
                if child.poll() is None:
                    child.terminate()  # it ends its own children
                    child.wait()
        seconds = time.monotonic() - started
        if child.returncode:
            said = log.read_text(errors="replace").strip().splitlines() or ["(no output)"]
            raise BenchmarkError(f"the demo ended with status {child.returncode}: {said[-1]}")
        return DemoRun(seconds, peak, processes, tuple(records_of(out)))


def records_of(run: Path) -> Sequence[Record]:
    """Return the journal of a folder that the demo left, or of a server.

    Raises:
        BenchmarkError: there is none.
    """
    try:
        return list(JournalReader(run / "journal").records())
    except JournalError as error:
        raise BenchmarkError(
            f"no journal in {run}: {error}; name a folder such as demo-run"
        ) from error


def phases(records: Sequence[Record]) -> dict[str, float]:
    """Return the seconds that each part of a campaign took, as far as it went."""
    first: dict[type, float] = {}
    for record in records:
        first.setdefault(type(record.event), record.at)
    parts = {
        "gather and profile": (e.CampaignStarted, e.RoundOpened),
        "train": (e.RoundOpened, e.TrainingStopped),
        "export": (e.TrainingStopped, e.ReleaseBuilt),
        "deliver and confirm": (e.ReleaseBuilt, e.CampaignFinished),
    }
    return {
        name: first[end] - first[start]
        for name, (start, end) in parts.items()
        if start in first and end in first
    }


def _watch(child: subprocess.Popen[bytes], deadline: float) -> tuple[int, int]:
    peak, most = 0, 0
    root = psutil.Process(child.pid)
    while child.poll() is None:
        resident, number = _resident(root)
        peak, most = max(peak, resident), max(most, number)
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the demo was not done after {LIMIT_S:.0f} s")
        time.sleep(SAMPLE_S)
    return peak, most


def _resident(root: psutil.Process) -> tuple[int, int]:
    total, number = 0, 0
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.Error:  # it has just ended
        return 0, 0
    for process in family:
        try:
            total += process.memory_info().rss
            number += 1
        except psutil.Error:
            continue
    return total, number
