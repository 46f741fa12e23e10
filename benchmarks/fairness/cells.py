"""What is run: one cell is one partition, number of participants and seed of one data set."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from benchmarks.fairness.data import NATURAL

ROUNDS = 10
SEEDS = (0, 1, 2)
RATES = 3  # that every method may choose from
TUNING_SEED = 100  # of the cells that learning rates are chosen on, and of nothing else
SCHEMES = (
    "imbalanced(0.8, 1)",
    "dirichlet(0.5)",
    "homogeneous",
    "imbalanced(0.8, 2)",
    "dirichlet(0.1)",
    "imbalanced(0.7, 1)",
    "classes(3)",
)
MNIST_SCHEMES = ("imbalanced(0.8, 1)", "dirichlet(0.5)", "homogeneous")
FULL_SCHEMES = ("imbalanced(0.8, 1)", "dirichlet(0.5)")
TUNING_SCHEMES = ("dirichlet(0.5)", "imbalanced(0.8, 1)")
RIDERS = ("zero", "replayed-delta")
RIDER_SCHEMES = ("homogeneous", "dirichlet(0.5)")
PEOPLE = 8
# Rewards in training need a training of their own, so they are run on these cells alone.
TRAINING_TIME_SEEDS = (0,)
TRAINING_TIME_MOST = PEOPLE


@dataclass(frozen=True)
class Cell:
    """One experiment; all methods run on it.

    Attributes:
        data: a name of `benchmarks.fairness.data.TASKS`.
        scheme: how the data is dealt.
        participants: how many, a rider included.
        seed: of data, weights and batches.
        rider: "" or what the last participant sends, see `benchmarks.fairness.fleet.Fleet`.
        full: all training images.
        tuning: position of the learning rate that is tried; None = those that were chosen.
    """

    data: str
    scheme: str
    participants: int
    seed: int
    rider: str = ""
    full: bool = False
    tuning: int | None = None

    @property
    def key(self) -> str:
        """Name of the result file."""
        scheme = self.scheme.replace("(", "-").replace(", ", "-").replace(")", "")
        parts = [self.data, scheme, f"n{self.participants}", f"s{self.seed}"]
        parts += [f"{self.rider}-rider"] if self.rider else []
        parts += ["full"] if self.full else []
        parts += [f"rate{self.tuning}"] if self.tuning is not None else []
        return "_".join(parts)

    @property
    def training_time(self) -> bool:
        """Whether rewards in training are run too."""
        fits = self.participants <= TRAINING_TIME_MOST
        return fits and self.seed in TRAINING_TIME_SEEDS and self.tuning is None

    def as_json(self) -> dict[str, object]:
        """Return the fields."""
        return asdict(self)


def tuning(data: Sequence[str]) -> list[Cell]:
    """Return the cells that learning rates are chosen on; MNIST takes Fashion-MNIST's choice."""
    cells = []
    for name in dict.fromkeys(tuned_on(one) for one in data):
        natural = name == "watch"
        schemes, participants = ((NATURAL,), PEOPLE) if natural else (TUNING_SCHEMES, 5)
        cells += [
            Cell(name, scheme, participants, TUNING_SEED, tuning=at)
            for scheme, at in product(schemes, range(RATES))
        ]
    return cells


def tuned_on(data: str) -> str:
    """Return whose learning rates a data set takes."""
    return "fashion-mnist" if data == "mnist" else data


def quick(data: Sequence[str]) -> list[Cell]:
    """Return the quick suite; what comes first gives a whole picture first."""
    return [cell for cell in _quick() if cell.data in data]


def _quick() -> Iterator[Cell]:
    first, *others = SEEDS
    yield from (Cell("fashion-mnist", scheme, 5, first) for scheme in SCHEMES)
    yield Cell("watch", NATURAL, PEOPLE, first)
    for scheme, rider in product(RIDER_SCHEMES, RIDERS):
        yield Cell("fashion-mnist", scheme, 5, first, rider)
    yield from (Cell("fashion-mnist", scheme, 10, first) for scheme in SCHEMES)
    yield from (Cell("mnist", scheme, 5, first) for scheme in MNIST_SCHEMES)
    for seed in others:
        yield Cell("watch", NATURAL, PEOPLE, seed)
        yield from (Cell("fashion-mnist", scheme, 5, seed) for scheme in SCHEMES)
    for seed in others:
        yield from (Cell("fashion-mnist", scheme, 10, seed) for scheme in SCHEMES)
    yield from (Cell("mnist", scheme, 5, seed) for seed in others for scheme in MNIST_SCHEMES)


def full() -> list[Cell]:
    """Return the suite on all images."""
    return [
        Cell("fashion-mnist", scheme, 5, seed, full=True)
        for seed in SEEDS
        for scheme in FULL_SCHEMES
    ]
