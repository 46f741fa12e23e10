"""What watching a large fleet costs: folding, the page's first data, its updates, memory, disk.

Nothing is trained and no broker runs: devices are what they say (`benchmarks.monitored_fleet`). The
journal is a real one on disk, and is followed as the page and the terminal follow it.
"""

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import msgspec

from benchmarks.arguments import positive
from benchmarks.monitored_fleet import beginning, device_names, round_events, telemetry
from benchmarks.results import Ratio, Result, Table
from journal import platform
from journal.reader import DATABASE
from journal.store import Journal
from monitor.device_data import Seen, device_row, device_rows
from monitor.feed import JournalFeed
from monitor.fleet_data import overview
from monitor.fleet_view import FleetView
from monitor.folding import fold

FOLDED_PER_S = 20_000.0
FIRST_DATA_S = 1.0
UPDATE_S = 0.1  # of processor time, a second
STILL = 1.05  # memory after an hour over that after ten minutes
ROOM_MB = 256.0
MB = 1e6
VARIANTS = 20  # of what a device says


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--devices", type=positive, default=2000, help="that are watched")
    parser.add_argument("--every", type=positive, default=10, help="seconds between telemetry")
    parser.add_argument("--rounds", type=positive, default=5, help="of all devices, in the journal")
    parser.add_argument("--live", type=positive, default=30, help="seconds of updates")
    parser.add_argument(
        "--minutes", type=positive, default=60, help="of the memory's simulated time"
    )


@dataclass
class Clock:
    """Wall and processor time of what was done inside `running`."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    each: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.each.append(time.process_time() - cpu)
        self.cpu_s += self.each[-1]
        self.wall_s += time.perf_counter() - wall


def measure(arguments: argparse.Namespace) -> Result:
    """Fold, read, show and follow a fleet, and let an hour pass."""
    names = device_names(arguments.devices)
    messages, events = _folded(names, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder, platform.unflushed():
        followed = _followed(Path(folder), names, arguments)
    talk = _of_telemetry(names, arguments)
    rounds = _of_rounds(names, arguments.minutes)
    return Result(
        name="monitor",
        summary=(
            f"{len(names)} devices that say something every {arguments.every} s:"
            " what it costs to watch them"
        ),
        tables=(_speeds(messages, events, followed), _sizes(talk, rounds, followed)),
        ratios=(
            _speed("telemetry folded", messages),
            _speed("events folded", events),
            Ratio(
                "first data of the page",
                followed.first.wall_s,
                "goal",
                FIRST_DATA_S,
                "s",
                at_most=1.0,
            ),
            Ratio(
                "processor time of updates, a second",
                mean(followed.updates.each),
                "goal",
                UPDATE_S,
                "s",
                at_most=1.0,
            ),
            Ratio(
                f"memory after {arguments.minutes} minutes of telemetry",
                talk.late / MB,
                f"after {arguments.minutes // 6} minutes",
                talk.early / MB,
                "MB",
                at_most=STILL,
            ),
            Ratio(
                f"memory after {arguments.minutes} rounds of all devices",
                rounds.late / MB,
                "room",
                ROOM_MB,
                "MB",
                at_most=1.0,
            ),
        ),
        notes=(
            "first data: overview and all devices as JSON, from a view that is read already",
            "updates: reading what is new, the overview and the changed devices as JSON",
        ),
    )


@dataclass(frozen=True)
class Speed:
    """How many of something took how long."""

    count: int
    seconds: float

    @property
    def per_s(self) -> float:
        """How many in a second."""
        return self.count / self.seconds


def _speed(what: str, found: Speed) -> Ratio:
    return Ratio(what, found.per_s, "goal", FOLDED_PER_S, "/s", at_least=1.0)


def _folded(names: list[str], rounds: int) -> tuple[Speed, Speed]:
    """Return how quickly a view takes in telemetry, and events of rounds."""
    view, clock = FleetView(), Clock()
    events = list(beginning(names))
    for number in range(1, rounds + 1):
        events += round_events(number, names)
    with clock.running():
        for at, event in enumerate(events):
            fold(view, float(at), event)
    said = [telemetry(number, number % VARIANTS) for number in range(len(names))]
    heard = Clock()
    turns = max(1, 100_000 // len(names))
    with heard.running():
        for turn in range(turns):
            for name, one in zip(names, said, strict=True):
                view.hear(name, float(turn), one)
    return Speed(turns * len(names), heard.cpu_s), Speed(len(events), clock.cpu_s)


@dataclass
class Followed:
    """What following a journal took.

    Attributes:
        start: reading it from the beginning; first: the first data after that.
        updates: one part a second of live updates.
        records, messages: events and telemetry that were read at the start.
        first_bytes: of the first data; row_bytes: of the database for one telemetry message.
    """

    start: Clock = field(default_factory=Clock)
    first: Clock = field(default_factory=Clock)
    updates: Clock = field(default_factory=Clock)
    records: int = 0
    messages: int = 0
    first_bytes: int = 0
    row_bytes: float = 0.0


def _followed(folder: Path, names: list[str], arguments: argparse.Namespace) -> Followed:
    found = Followed()
    with Journal.open(folder) as journal:
        journal.append(list(beginning(names)), 0.0)
        for number in range(1, arguments.rounds + 1):
            journal.append(list(round_events(number, names)), float(number))
        found.records = journal.head.count
        journal.close()
    before = (folder / DATABASE).stat().st_size
    with Journal.open(folder) as journal:
        for turn in range(VARIANTS):
            for number, name in enumerate(names):
                journal.add_telemetry(name, 100.0 + turn, telemetry(number, turn))
    found.messages = VARIANTS * len(names)
    found.row_bytes = ((folder / DATABASE).stat().st_size - before) / found.messages
    feed = JournalFeed(folder)
    with found.start.running():
        feed.refresh()
    with found.first.running():
        seen = Seen(now=200.0, server_online=True)
        data = {"overview": overview(feed.view, seen), "devices": device_rows(feed.view, seen)}
        found.first_bytes = len(msgspec.json.encode(data))
    _live(folder, names, arguments, feed, found.updates)
    return found


def _live(
    folder: Path,
    names: list[str],
    arguments: argparse.Namespace,
    feed: JournalFeed,
    updates: Clock,
) -> None:
    """Let the fleet go on for some seconds, in a round, and follow it second by second."""
    events = round_events(arguments.rounds + 1, names)
    share = -(-4 * len(names) // arguments.live)
    with Journal.open(folder) as journal:
        for second in range(arguments.live):
            now = 300.0 + second
            speaking = range(second % arguments.every, len(names), arguments.every)
            for number in speaking:
                journal.add_telemetry(names[number], now, telemetry(number, second))
            happened = [event for event, _ in zip(events, range(share), strict=False)]
            journal.append(happened, now)
            with updates.running():
                feed.refresh()
                seen = Seen(now=now, server_online=True)
                changed = {names[number] for number in speaking}
                changed |= {getattr(event, "device", names[0]) for event in happened}
                view = feed.view
                rows = [device_row(view.devices[name], view, seen) for name in sorted(changed)]
                msgspec.json.encode({"overview": overview(view, seen), "devices": rows})


@dataclass(frozen=True)
class Memory:
    """Bytes of a view after a sixth of some simulated time, and after all of it."""

    early: int
    late: int


def _of_telemetry(names: list[str], arguments: argparse.Namespace) -> Memory:
    """Let devices talk, and nothing else happen."""
    said = [[telemetry(number, turn) for turn in range(2)] for number in range(len(names))]

    def turn(view: FleetView, number: int) -> None:
        for name, variants in zip(names, said, strict=True):
            view.hear(name, float(number * arguments.every), variants[number % 2])

    return _remembered(names, 60 * arguments.minutes // arguments.every, turn)


def _of_rounds(names: list[str], minutes: int) -> Memory:
    """Let every device train in a round a minute."""

    def turn(view: FleetView, number: int) -> None:
        for event in round_events(number, names):
            fold(view, 60.0 * number, event)

    return _remembered(names, minutes, turn)


def _remembered(names: list[str], turns: int, turn: Callable[[FleetView, int], None]) -> Memory:
    sizes = {}
    tracemalloc.start()
    view = FleetView()
    for event in beginning(names):
        fold(view, 0.0, event)
    for number in range(1, turns + 1):
        turn(view, number)
        if number in (turns // 6, turns):
            sizes[number] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return Memory(sizes[turns // 6], sizes[turns])


def _speeds(messages: Speed, events: Speed, followed: Followed) -> Table:
    read = followed.records + followed.messages
    return Table(
        "speed (processor time)",
        ("what", "how many", "seconds", "a second"),
        (
            ("telemetry, folded", messages.count, messages.seconds, messages.per_s),
            ("events, folded", events.count, events.seconds, events.per_s),
            (
                "read from the journal, checked and folded",
                read,
                followed.start.cpu_s,
                read / followed.start.cpu_s,
            ),
        ),
    )


def _sizes(talk: Memory, rounds: Memory, followed: Followed) -> Table:
    return Table(
        "the page and the disk",
        ("what", "figure"),
        (
            ("first data, s", followed.first.wall_s),
            ("first data, kB of JSON", followed.first_bytes / 1e3),
            ("updates, ms of processor time a second, mean", 1e3 * mean(followed.updates.each)),
            ("the same, the worst second", 1e3 * max(followed.updates.each)),
            ("memory of the view, MB, telemetry alone, early", talk.early / MB),
            ("memory of the view, MB, telemetry alone, at the end", talk.late / MB),
            ("memory of the view, MB, a round a minute, early", rounds.early / MB),
            ("memory of the view, MB, a round a minute, at the end", rounds.late / MB),
            ("disk for one telemetry message, bytes", followed.row_bytes),
        ),
    )
