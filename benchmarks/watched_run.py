"""Run a program with all its children and see how long it takes and how much memory it needs."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.errors import BenchmarkError

LOOK_S = 0.2
DYING_S = 10.0


@dataclass(frozen=True)
class Watched:
    """One run.

    Attributes:
        wall: seconds from the start of the process to its end.
        cpu: seconds of it and all its children, as they were last seen.
        peak: most bytes that the process and all its children had resident at one moment, each
            on its own account: pages that they share count once for each.
    """

    wall: float
    cpu: float
    peak: float


def watch(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path, limit_s: float
) -> Watched:
    """Run a program to its end.

    Args:
        command: the program and its arguments.
        environment: what is added to ours.
        folder: to run in; takes what the program says.
        limit_s: it is ended after this.

    Raises:
        BenchmarkError: it failed, or took too long; the message holds its last line.
    """
    log = folder / "output.log"
    with log.open("w", encoding="utf-8") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        family = psutil.Process(process.pid)
        peak, cpu = 0, dict[int, float]()
        while process.poll() is None and time.monotonic() - started < limit_s:
            peak = max(peak, _look(family, cpu))
            try:
                process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                continue
        wall = time.monotonic() - started
        _end(process, family)
    if process.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise BenchmarkError(f"{' '.join(map(str, command))} failed: {last}")
    return Watched(wall, sum(cpu.values()), peak)


def _look(family: psutil.Process, cpu: dict[int, float]) -> int:
    """Return the resident bytes of all processes and note the CPU seconds of each so far."""
    total = 0
    try:
        members = [family, *family.children(recursive=True)]
    except psutil.Error:  # it has just ended
        return 0
    for member in members:
        try:
            total += member.memory_info().rss
            times = member.cpu_times()
        except psutil.Error:
            continue
        cpu[member.pid] = times.user + times.system
    return total


def _end(process: "subprocess.Popen[bytes]", family: psutil.Process) -> None:
    """End what still runs: the program took too long."""
    if process.poll() is not None:
        return
    for member in [*family.children(recursive=True), family]:
        try:
            member.terminate()
        except psutil.Error:
            continue
    process.wait(DYING_S)
