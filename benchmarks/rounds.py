"""What share of a round's CPU time is the coordinator's, where the devices really train?

Many devices, of which a cohort trains in each round: the network, the data and the steps of the
image experiments, one epoch of a thousand images of Fashion-MNIST. Coordinator, link, journal, blob
folder and its jobs are the real ones; a device says what an agent would say, and trains as one.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import torch

from benchmarks.arguments import positive
from benchmarks.crowd import FLEET, Crowd, CrowdRound, coordinator_of, play
from benchmarks.errors import BenchmarkError
from benchmarks.fairness.network import cnn
from benchmarks.fashion_mnist import CLASSES, FOLDER, read_fashion_mnist
from benchmarks.results import Ratio, Result, Table
from benchmarks.simulate_ours import settings_for
from broker import messages as m
from coordinator.bench import Bench, RoundResult, ScoreJob
from coordinator.settings import Settings
from journal.blobs import BlobFolder
from journal.disk import make_folder
from journal.platform import unflushed
from journal.store import Journal
from slimfleet.simulation import virtual_clock
from slimfleet.simulation.jobs import InProcessJobs
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.state import decode_state, encode_state
from slimmable.training import train
from slimmable.training_rule import TrainingRule

GOAL = 0.05
DEADLINE_S = 3600.0  # virtual


@dataclass(frozen=True)
class RoundCost:
    """CPU seconds of one round.

    Attributes:
        devices: training, encoding and all else that devices did, and the broker.
        loop: the coordinator's own process.
        jobs: its worker: putting updates together, measuring, contributions.
        updates: that were put together.
    """

    devices: float
    loop: float
    jobs: float
    updates: int

    @property
    def share(self) -> float:
        """The coordinator's part of the whole."""
        ours = self.loop + self.jobs
        return ours / (ours + self.devices)


class TrainingCrowd(Crowd):
    """Devices that train what they are asked to.

    Attributes:
        base: digest of the weights that the open round started from.
        trained: how many updates were made.
    """

    def __init__(
        self, devices: int, settings: Settings, model: SlimmableModel, images: Samples, blobs: Path
    ) -> None:
        """Prepare.

        Args:
            devices: how many.
            settings: of the campaign.
            model: what they train.
            images: that they draw their own from.
            blobs: the coordinator's folder: what is shared is read there, and not decrypted.
        """
        super().__init__(devices, model.spec, settings.model)
        self._model, self._images, self._blobs = model, images, blobs
        self.base = ""
        self.trained = 0

    def payload(self, device: str, task: m.Task) -> bytes:
        """Train on the device's own images and return the new weights."""
        rule = TrainingRule(**msgspec.structs.asdict(task.training))
        draw = np.random.default_rng(list(device.encode()))
        chosen = draw.choice(len(self._images), rule.steps * rule.batch_size, replace=False)
        state = decode_state(BlobFolder(self._blobs, owner=False).get(self.base))
        own, rng = self._images.take(chosen), np.random.default_rng(task.seed)
        trained, _ = train(self._model, state, task.width, own, rule, rng)
        self.trained += 1
        return encode_state(trained)


class CountedJobs(InProcessJobs):
    """Jobs whose CPU seconds are counted.

    Attributes:
        rounds: per round that was scored, CPU seconds and updates.
    """

    def __init__(self, crowd: TrainingCrowd) -> None:
        """Count nothing yet; the crowd is told what the next round starts from."""
        super().__init__(export=False)
        self._crowd = crowd
        self.rounds: list[tuple[float, int]] = []

    async def initialise(self, bench: Bench) -> tuple[str, float, str]:
        """See `coordinator.work.initialise`."""
        found = await super().initialise(bench)
        self._crowd.base = found[0]
        return found

    async def score(self, bench: Bench, job: ScoreJob) -> RoundResult:
        """See `coordinator.scoring.score_round`."""
        started = time.process_time()
        found = await super().score(bench, job)
        # Nothing else goes on: no device has a task now.
        self.rounds.append((time.process_time() - started, len(job.updates)))
        self._crowd.base = found.digest
        return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--devices", type=positive, default=1000, help="that are there")
    parser.add_argument("--cohort", type=positive, default=100, help="of them train in a round")
    parser.add_argument("--rounds", type=positive, default=3, help="how many")
    parser.add_argument("--images", type=positive, default=1000, help="a device trains on, at most")
    parser.add_argument("--validation", type=positive, default=1000, help="images of the server")
    parser.add_argument("--method", default="data-size", help="of contributions")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of Fashion-MNIST's .gz files")


def measure(arguments: argparse.Namespace) -> Result:
    """Play the rounds.

    Raises:
        BenchmarkError: the data is missing, or the cohort is larger than the fleet.
    """
    if arguments.cohort > arguments.devices:
        raise BenchmarkError("--cohort must be at most --devices")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as place, unflushed():
        costs = play_rounds(arguments, Path(place))
    return Result(
        name="rounds",
        summary="the coordinator's share of a round's CPU time",
        tables=(_table(arguments, costs),),
        ratios=tuple(_ratios(arguments, costs)),
        notes=NOTES,
    )


NOTES = (
    (
        "devices train by turn, on one thread: the network of 105,866 parameters, SGD, batches of"
        " 64; the broker is counted with them, and is next to nothing"
    ),
    (
        "the coordinator is its event loop (journal, encryption, messages) and its jobs (updates"
        " read, checked and averaged, the new model measured on the validation images and its"
        " interval worked out); by default contributions are the sizes of the data"
    ),
    "the devices do not decrypt what they fetch, and write no outbox: their share is understated",
)


def play_rounds(arguments: argparse.Namespace, folder: Path) -> list[RoundCost]:
    """Return what each round cost."""
    settings = campaign_of(arguments)
    model = cnn(classes=CLASSES)
    images = read_fashion_mnist(arguments.folder, "train")
    test = read_fashion_mnist(arguments.folder, "t10k").take(np.arange(arguments.validation))
    np.savez(folder / "validation.npz", x=test.x, y=test.y)
    crowd = TrainingCrowd(arguments.devices, settings, model, images, folder / "blobs")
    jobs = CountedJobs(crowd)

    async def body(journal: Journal) -> list[CrowdRound]:
        coordinator = coordinator_of(crowd, settings, model.spec, jobs, folder, journal)
        return await play(crowd, coordinator, arguments.rounds, journal)

    with Journal.open(make_folder(folder / "journal")) as journal:
        played = virtual_clock.run(body(journal))
    return [
        RoundCost(devices=one.others, loop=one.cpu - spent, jobs=spent, updates=updates)
        for one, (spent, updates) in zip(played, jobs.rounds, strict=True)
    ]


def campaign_of(arguments: argparse.Namespace) -> Settings:
    """Return the campaign of the image experiments, with a cohort of so many devices."""
    plain = settings_for(arguments.rounds, arguments.images)
    rounds = msgspec.structs.replace(
        plain.rounds,
        cohort=arguments.cohort,
        min_devices=arguments.devices,
        deadline_s=DEADLINE_S,
    )
    credit = msgspec.structs.replace(plain.contributions, method=arguments.method)
    return msgspec.structs.replace(plain, fleet=FLEET, rounds=rounds, contributions=credit).check()


def _table(arguments: argparse.Namespace, costs: Sequence[RoundCost]) -> Table:
    return Table(
        f"{arguments.devices} devices, cohorts of {arguments.cohort}: CPU seconds",
        ("round", "updates", "devices", "loop", "jobs", "share"),
        tuple(
            (1 + number, one.updates, one.devices, one.loop, one.jobs, one.share)
            for number, one in enumerate(costs)
        ),
    )


def _ratios(arguments: argparse.Namespace, costs: Sequence[RoundCost]) -> Iterator[Ratio]:
    whole = arguments.devices == 1000 and arguments.cohort == 100
    yield Ratio(
        "the coordinator's share of a round's CPU time, median round",
        median(one.share for one in costs),
        "goal",
        GOAL,
        at_most=1.0 if whole else None,
    )
