"""How fast is a simulated campaign, against Flower's simulation and a pool written by hand?

All play the same experiment: a CNN of 105,866 parameters, 10,000 images of Fashion-MNIST dealt to
ten clients, five rounds of one local epoch (SGD 0.05, momentum 0.9, batch 64), and after each round
the global model is tested on the 10,000 test images. Each program runs in a fresh process, in
turns. Flower is installed by this benchmark, in an environment of its own.

A second table is about many devices and no work: what a round costs the coordinator itself.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.arguments import positive
from benchmarks.crowd import CrowdRound, crowd_rounds
from benchmarks.errors import BenchmarkError
from benchmarks.fashion_mnist import FOLDER, read_fashion_mnist
from benchmarks.peer_environment import cache_folder, peer_python
from benchmarks.results import Ratio, Result, Table
from benchmarks.simulate_ours import BATCH
from benchmarks.watched_run import watch
from edge_agent.trainer_process import MALLOC_SETTINGS
from journal.platform import unflushed

HERE = Path(__file__).resolve().parent
PEERS = HERE / "simulate_peers"
FLOWER_VERSION = "1.41.0"
FLOWER, TUNED = "Flower", "Flower, our malloc settings"
POOL, OURS = "two-process pool", "slimfleet.simulation"
TOTAL_GOAL, WARM_GOAL, POOL_GOAL = 0.4, 0.6, 1.0
CROWD_GOAL_S = 1.0
LIMIT_S = 900.0
QUIET = {  # neither asks a server on the network
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Program:
    """One program that plays the experiment.

    Attributes:
        command: before the paths of the experiment and of the result.
        environment: what is added to ours.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Played:
    """One run.

    Attributes:
        total: seconds from the start of the process to its end.
        first, warm: seconds of round 1, start-up included, and median of the other rounds.
        cpu: seconds of all processes.
        peak: bytes, see `benchmarks.watched_run`.
        accuracy: of the last round's model on the test images.
    """

    total: float
    first: float
    warm: float
    cpu: float
    peak: float
    accuracy: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--repeats", type=positive, default=3, help="runs of each program")
    parser.add_argument("--samples", type=positive, default=10_000, help="images to train on")
    parser.add_argument("--clients", type=positive, default=10, help="that share them equally")
    parser.add_argument("--rounds", type=positive, default=5, help="at least 2")
    parser.add_argument("--crowd", type=int, default=1000, help="devices without work; 0 = none")
    parser.add_argument("--crowd-only", action="store_true", help="leave the experiment out")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of Fashion-MNIST's .gz files")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder(), help="keeps Flower between runs"
    )


def measure(arguments: argparse.Namespace) -> Result:
    """Run the programs in turns, then the crowd."""
    if arguments.crowd_only:
        return _crowd_result(arguments)
    if arguments.rounds < 2:
        raise BenchmarkError("--rounds must be at least 2: the first one is no warm round")
    programs, missing = _programs(arguments.cache)
    found: dict[str, list[Played]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as place:
        experiment = Path(place) / "experiment.npz"
        write_experiment(experiment, arguments)
        for turn in range(arguments.repeats):
            for name in _turned(list(programs), turn):
                folder = Path(place) / f"{turn}-{name.replace(' ', '-')}"
                folder.mkdir()
                found[name].append(_play(programs[name], experiment, folder))
        crowd = _crowd(arguments.crowd, Path(place)) if arguments.crowd else []
    return Result(
        name="simulate",
        summary="a simulated campaign, against Flower's simulation and a pool written by hand",
        tables=(_table(arguments, found), *_crowd_table(arguments.crowd, crowd)),
        ratios=tuple(_ratios(found, arguments.crowd, crowd)),
        notes=(*missing, _batches(arguments.samples // arguments.clients), *NOTES),
    )


def _crowd_result(arguments: argparse.Namespace) -> Result:
    if arguments.crowd < 1:
        raise BenchmarkError("--crowd-only needs devices: give --crowd a number from 1")
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as place:
        crowd = _crowd(arguments.crowd, Path(place))
    return Result(
        name="simulate",
        summary="what a round of many devices costs the coordinator",
        tables=tuple(_crowd_table(arguments.crowd, crowd)),
        ratios=tuple(_ratios({}, arguments.crowd, crowd)),
        notes=(CROWD_NOTE,),
    )


def _batches(samples: int) -> str:
    """Say in how many batches each program trains a client with so many samples."""
    steps = -(-samples // BATCH)
    trained, last = steps * BATCH, samples - (steps - 1) * BATCH
    if trained == samples:
        return f"every program takes {steps} steps of {BATCH} samples a client and round"
    return (
        f"every program takes {steps} steps a client and round; ours draws whole batches, {trained}"
        f" samples ({trained / samples - 1:.1%} more work), where the others' last batch has"
        f" {last}, {samples} samples: with a multiple of {BATCH} for each client all are the same"
    )


CROWD_NOTE = (
    "the coordinator of many devices keeps its journal as in a simulation, without waiting for"
    " the medium; broker and devices are not counted, their messages are"
)
NOTES = (
    "all read the same images and shards and test the whole model on the test images each round",
    (
        "the pool tests in its two processes, Flower in its server, ours in two threads of its own;"
        " no coalition of devices is measured, because contributions are the sizes of the data"
    ),
    (
        "what only ours does besides, in the times shown: it journals with a hash chain, encrypts"
        " and signs what travels, works out an interval for the score and whether the model got"
        " better, and before round 1 it tests the untrained model"
    ),
    (
        "the pool is tuned harder than a plain loop: channels-last layout, one thread a process,"
        " glibc keeps its pages; Flower runs as its manual says, and again with these settings"
    ),
    CROWD_NOTE,
    "RSS of all processes is summed at one moment; pages that they share count for each",
)


def _programs(cache: Path) -> tuple[dict[str, Program], tuple[str, ...]]:
    """Return what can be run here, and why something cannot."""
    one_thread = {"OMP_NUM_THREADS": "1"}
    tuned = {**one_thread, **MALLOC_SETTINGS}
    programs = {
        OURS: Program(
            (sys.executable, "-m", "benchmarks.simulate_ours"),
            {**tuned, "PYTHONPATH": str(HERE.parent)},
        ),
        POOL: Program((sys.executable, str(PEERS / "pool.py")), tuned),
    }
    try:
        python = peer_python(
            cache, f"flower-{FLOWER_VERSION}", [f"flwr[simulation]=={FLOWER_VERSION}"]
        )
    except BenchmarkError as error:
        return programs, (str(error),)
    command = (str(python), str(PEERS / "flower.py"))
    programs[FLOWER] = Program(command, {**one_thread, **QUIET})
    programs[TUNED] = Program(command, {**tuned, **QUIET})
    return programs, ()


def _turned(names: list[str], turn: int) -> list[str]:
    """Return the names in another order every turn, so that nobody always follows the same one."""
    start = turn % len(names)
    return names[start:] + names[:start]


def write_experiment(path: Path, arguments: argparse.Namespace) -> None:
    """Write what every program reads: images, labels, shards and the number of rounds.

    Raises:
        BenchmarkError: the data is missing, or too small for the clients.
    """
    train = read_fashion_mnist(arguments.folder, "train")
    test = read_fashion_mnist(arguments.folder, "t10k")
    each = arguments.samples // arguments.clients
    if not 0 < each * arguments.clients <= len(train):
        raise BenchmarkError(
            f"{arguments.samples} of {len(train)} images for {arguments.clients} clients: take"
            " fewer clients, or another number of images"
        )
    chosen = np.random.default_rng(0).permutation(len(train))[: each * arguments.clients]
    np.savez(
        path,
        x=train.x[chosen],
        y=train.y[chosen],
        test_x=test.x,
        test_y=test.y,
        shards=np.arange(len(chosen)).reshape(arguments.clients, each),
        rounds=arguments.rounds,
    )


def _play(program: Program, experiment: Path, folder: Path) -> Played:
    result = folder / "result.json"
    run = watch(
        [*program.command, experiment, result], program.environment, folder, limit_s=LIMIT_S
    )
    try:
        said = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{program.command[-1]} wrote no result: {error}") from error
    rounds = np.diff(said["marks"])
    return Played(
        total=run.wall,
        first=float(rounds[0]),
        warm=float(np.median(rounds[1:])),
        cpu=run.cpu,
        peak=run.peak,
        accuracy=said["accuracies"][-1],
    )


def _table(arguments: argparse.Namespace, found: Mapping[str, Sequence[Played]]) -> Table:
    columns: tuple[tuple[str, Callable[[Played], float]], ...] = (
        ("total s", lambda one: one.total),
        ("round 1 s", lambda one: one.first),
        ("warm round s", lambda one: one.warm),
        ("CPU s", lambda one: one.cpu),
        ("peak RSS GB", lambda one: 1e-9 * one.peak),
        ("accuracy", lambda one: one.accuracy),
    )
    return Table(
        f"{arguments.clients} clients, {arguments.samples} samples, {arguments.rounds} rounds,"
        f" median of {arguments.repeats} runs",
        ("program", *(name for name, _ in columns)),
        tuple(
            (name, *(median(figure(one) for one in runs) for _, figure in columns))
            for name, runs in found.items()
        ),
    )


def _crowd(devices: int, folder: Path) -> list[CrowdRound]:
    with unflushed():  # as in every simulation
        return crowd_rounds(devices, 3, folder)


def _crowd_table(devices: int, rounds: Sequence[CrowdRound]) -> Iterator[Table]:
    if rounds:
        yield Table(
            f"{devices} devices that answer one after the other, no work: one round",
            ("round", "coordinator CPU s", "events", "messages published"),
            tuple((1 + n, one.cpu, one.events, one.published) for n, one in enumerate(rounds)),
        )


def _ratios(
    found: Mapping[str, Sequence[Played]], devices: int, crowd: Sequence[CrowdRound]
) -> Iterator[Ratio]:
    goals = ((FLOWER, TOTAL_GOAL, WARM_GOAL), (TUNED, None, None), (POOL, None, POOL_GOAL))
    for peer, total_goal, warm_goal in goals:
        if peer not in found:
            continue
        # Paired: both ran in the same turn, under the same load.
        for what, goal in (("total", total_goal), ("warm", warm_goal)):
            name = "total" if what == "total" else "warm round"
            ratio = median(
                getattr(ours, what) / getattr(theirs, what)
                for ours, theirs in zip(found[OURS], found[peer], strict=True)
            )
            yield Ratio(f"{name}, median of the turns' ratios", ratio, peer, 1.0, at_most=goal)
    if crowd:
        yield Ratio(
            f"an empty round of {devices} devices, coordinator CPU",
            median(one.cpu for one in crowd),
            "goal",
            CROWD_GOAL_S,
            unit="s",
            at_most=1.0 if devices == 1000 else None,
        )
