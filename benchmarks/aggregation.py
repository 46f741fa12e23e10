"""How fast are updates of mixed widths put together, and does memory grow with their number?

The updates are slices of one network, each scaled a little differently. They are averaged, and the
same bytes are copied: an average cannot be faster than the machine moves bytes. Flower averages as
many bytes of full-width updates, because it knows no widths, in a process and environment of its
own.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.arguments import numbers, positive
from benchmarks.errors import BenchmarkError
from benchmarks.peer_environment import cache_folder, peer_python
from benchmarks.references import REFERENCES, derive_reference
from benchmarks.results import Ratio, Result, Table
from coordinator.aggregation.readers import ChangeReader, readers_of
from coordinator.aggregation.rules import MEAN, put_together
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import UpdateFile
from coordinator.settings import Aggregation
from coordinator.update_file import stored_change
from journal.blobs import BlobFolder
from journal.platform import unflushed
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.state import ModelState, encode_state

PEER = Path(__file__).resolve().parent / "aggregation_peers" / "flower.py"
FLOWER_VERSION = "1.41.0"
FLOWER = "aggregate"
COPY_GOAL, FLOWER_GOAL = 0.5, 5.0
OURS = "ours, updates in memory"
# Rule -> one in so many updates, and all of those, are put together: sorting takes its time.
RULES = {"mean": (MEAN, 1), "median": (Aggregation(rule="median"), 5)}
LIMIT_S = 900.0


@dataclass(frozen=True)
class Round:
    """What is aggregated.

    Attributes:
        updates: in memory.
        size: bytes of all their parameters.
    """

    spec: WidthSpec
    base: ModelState
    updates: tuple[DeviceUpdate, ...]
    size: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--network", choices=sorted(REFERENCES), default="resnet18")
    parser.add_argument("--updates", type=positive, default=50, help="how many")
    parser.add_argument(
        "--widths", type=numbers, default=(0.25, 0.5, 0.75, 1.0), help="of the updates, in turn"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="the least CPU time is taken")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder(), help="keeps Flower between runs"
    )


def measure(arguments: argparse.Namespace) -> Result:
    """Time averaging, copying and the peer in turns; then look at memory."""
    given = make_round(arguments)
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as place:
        folder = Path(place)
        blobs, files = _stored(given, folder)
        work = _ours(given, blobs, files)
        seconds = {name: float("inf") for name in work}
        peer, missing = _peer(arguments.cache, given, folder)
        theirs: dict[str, float] = {}
        peer_bytes = 0
        for turn in range(2):  # the peer's process runs between two blocks of ours
            for name, one in work.items():
                seconds[name] = min(seconds[name], _least(one, arguments.repeats))
            if peer and not turn:
                theirs, peer_bytes = _run_peer(peer, given, arguments.repeats, folder)
        memory = _memory(given, blobs, files)
    return Result(
        name="aggregation",
        summary=f"{len(given.updates)} updates of {arguments.network} in mixed widths put together",
        tables=(_speed_table(given, seconds, theirs, peer_bytes), _memory_table(memory)),
        ratios=tuple(_ratios(given, seconds, theirs, peer_bytes, memory)),
        notes=(*missing, *NOTES),
    )


NOTES = (
    (
        "CPU seconds of the process, the least of the repeats, because other work may run on the"
        " machine; all on one thread. GB/s are bytes of updates, each counted once"
    ),
    ("copied: each parameter of each update into an array of its shape that is there already"),
    (
        "Flower's aggregate gets as many bytes, to the nearest whole update, as full-width arrays"
        " in memory, all with the same number of samples, and so do we; its other two also decode"
        " their updates from bytes in memory, and ours from the blob folder are read from files"
        " whose SHA-256 is checked"
    ),
    (
        "ours subtracts what the device had received before it averages: a parameter that nobody"
        " trained stays as it is to the last bit"
    ),
    (
        "memory is the peak of what Python and numpy allocate while updates in the blob folder are"
        " put together; files mapped into memory are not counted, the system may drop them"
    ),
)


def make_round(arguments: argparse.Namespace) -> Round:
    """Return updates that differ a little from what they started from."""
    if not arguments.widths or not all(0 < width <= 1 for width in arguments.widths):
        raise BenchmarkError("--widths must be above 0 and at most 1")
    widths = tuple(arguments.widths)
    reference = derive_reference(arguments.network, sorted({*widths, 1.0}))
    spec, base = reference.model.spec, reference.state
    updates = []
    for number in range(arguments.updates):
        width = widths[number % len(widths)]
        cut = slice_state(base, spec, width)
        for name in spec.parameters:
            cut[name] *= np.float32(1.0 + 0.001 * (number + 1))
        updates.append(DeviceUpdate(f"device-{number:03d}", width, cut))
    size = sum(one.state[name].nbytes for one in updates for name in spec.parameters)
    return Round(spec, base, tuple(updates), size)


def _stored(given: Round, folder: Path) -> tuple[BlobFolder, tuple[UpdateFile, ...]]:
    blobs = BlobFolder(folder / "blobs")
    with unflushed():
        files = tuple(
            UpdateFile(one.device, one.width, blobs.put(encode_state(one.state)), one.weight)
            for one in given.updates
        )
    return blobs, files


def _changes(given: Round, blobs: BlobFolder, files: Sequence[UpdateFile]) -> list[ChangeReader]:
    return [stored_change(blobs, given.spec, file) for file in files]


def _ours(
    given: Round, blobs: BlobFolder, files: Sequence[UpdateFile]
) -> dict[str, Callable[[], object]]:
    spec, base = given.spec, given.base
    same = readers_of(spec, given.updates)
    weighted = [
        DeviceUpdate(one.device, one.width, one.state, 100.0 + 7 * number)
        for number, one in enumerate(given.updates)
    ]
    unequal = readers_of(spec, weighted)
    copies = {
        width: {name: np.empty(spec.shape(name, width), np.float32) for name in spec.parameters}
        for width in {one.width for one in given.updates}
    }

    def copy() -> None:
        for one in given.updates:
            for name in spec.parameters:
                np.copyto(copies[one.width][name], one.state[name])

    return {
        "copied": copy,
        OURS: lambda: put_together(base, spec, same),
        "ours, weighted by samples": lambda: put_together(base, spec, unequal),
        "ours, updates in the blob folder": lambda: put_together(
            base, spec, _changes(given, blobs, files)
        ),
        "ours, of that checking SHA-256": lambda: [blobs.mapped(file.digest) for file in files],
    }


def _least(work: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return min(spent)


def _peer(cache: Path, given: Round, folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Return the peer's interpreter, or why there is none."""
    shapes = [given.spec.shape(name, 1.0) for name in given.spec.parameters]
    (folder / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
    name = f"flower-aggregation-{FLOWER_VERSION}"
    try:
        return peer_python(cache, name, [f"flwr=={FLOWER_VERSION}"]), ()
    except BenchmarkError as error:
        return None, (str(error),)


def _run_peer(
    python: Path, given: Round, repeats: int, folder: Path
) -> tuple[dict[str, float], int]:
    """Return the peer's CPU seconds, and how many bytes it put together."""
    each = sum(4 * int(np.prod(given.spec.shape(n, 1.0))) for n in given.spec.parameters)
    updates = max(1, round(given.size / each))
    done = subprocess.run(
        [python, PEER, folder / "shapes.json", str(updates), str(repeats)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchmarkError(f"Flower's aggregation failed: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1]), updates * each


def _memory(
    given: Round, blobs: BlobFolder, files: Sequence[UpdateFile]
) -> dict[str, dict[int, int]]:
    """Return rule -> number of updates -> bytes at the peak."""
    found: dict[str, dict[int, int]] = {}
    for rule, (how, one_in) in RULES.items():
        most = max(1, len(files) // one_in)
        found[rule] = {}
        for count in sorted({max(1, most // 5), most}):
            changes = _changes(given, blobs, files[:count])
            tracemalloc.start()
            put_together(given.base, given.spec, changes, how)
            found[rule][count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return found


def _speed_table(
    given: Round, seconds: Mapping[str, float], theirs: Mapping[str, float], peer_bytes: int
) -> Table:
    def row(name: str, size: int, spent: float) -> tuple[str, float, float, float]:
        return name, size / 1e6, 1e3 * spent, size / spent / 1e9

    return Table(
        f"{len(given.updates)} updates, widths "
        + ", ".join(f"{width:g}" for width in sorted({one.width for one in given.updates})),
        ("what", "MB of updates", "CPU ms", "GB/s"),
        (
            *(row(name, given.size, spent) for name, spent in seconds.items()),
            *(row(f"Flower, {name}", peer_bytes, spent) for name, spent in theirs.items()),
        ),
    )


def _memory_table(memory: Mapping[str, Mapping[int, int]]) -> Table:
    return Table(
        "memory at the peak",
        ("rule", "updates", "MB"),
        tuple(
            (rule, count, peak / 1e6)
            for rule, peaks in memory.items()
            for count, peak in peaks.items()
        ),
    )


def _ratios(
    given: Round,
    seconds: Mapping[str, float],
    theirs: Mapping[str, float],
    peer_bytes: int,
    memory: Mapping[str, Mapping[int, int]],
) -> Iterator[Ratio]:
    def speed(name: str) -> float:
        return given.size / seconds[name] / 1e9

    copied = speed("copied")
    yield Ratio(OURS, speed(OURS), "copied", copied, "GB/s", at_least=COPY_GOAL)
    weighted = "ours, weighted by samples"
    yield Ratio(weighted, speed(weighted), "copied", copied, "GB/s", at_least=COPY_GOAL)
    for name, spent in theirs.items():
        ours = OURS if name == FLOWER else "ours, updates in the blob folder"
        yield Ratio(
            ours,
            speed(ours),
            f"Flower, {name}",
            peer_bytes / spent / 1e9,
            "GB/s",
            at_least=FLOWER_GOAL if name == FLOWER else None,
        )
    for rule, peaks in memory.items():
        if len(peaks) > 1:
            (few, least), (many, most) = sorted(peaks.items())
            yield Ratio(
                f"memory of {many} updates, {rule}",
                most / 1e6,
                f"of {few}",
                least / 1e6,
                "MB",
                at_most=1.1,
            )
