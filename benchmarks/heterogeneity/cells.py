"""What is run: one cell is one method in one case on one data set with one seed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

from benchmarks.heterogeneity.cases import CASES
from benchmarks.heterogeneity.methods import CANDIDATES, METHODS, NAMED, OTHERS

SEEDS = (0, 1, 2)
DATA = ("fashion-mnist", "watch")
RATES = 3  # that every method may choose from
TUNING_SEED = 100  # of the cells that learning rates are chosen on, and of nothing else
TUNING_CASE = "all"
OTHERS_CASE = "all"  # the one case of the methods outside the eight


@dataclass(frozen=True)
class Cell:
    """One campaign.

    Attributes:
        data: "fashion-mnist" or "watch".
        case: a name of `benchmarks.heterogeneity.cases.CASES`.
        method: a name of `benchmarks.heterogeneity.methods.METHODS`.
        seed: of data, weights and batches.
        tuning: position of the learning rate that is tried; None = the one that was chosen.
    """

    data: str
    case: str
    method: str
    seed: int
    tuning: int | None = None

    @property
    def key(self) -> str:
        """Name of the result file."""
        parts = [self.data, self.case, self.method, f"s{self.seed}"]
        return "_".join(parts + ([f"rate{self.tuning}"] if self.tuning is not None else []))

    @property
    def tuned_method(self) -> str:
        """The method whose trials choose the learning rate."""
        return METHODS[self.method].tuned_as or self.method

    def as_json(self) -> dict[str, object]:
        """Return the fields."""
        return asdict(self)


def tuning(data: str, methods: Sequence[str]) -> list[Cell]:
    """Return the cells that the learning rates of some methods are chosen on."""
    return [
        Cell(data, TUNING_CASE, name, TUNING_SEED, at)
        for name, at in product(methods, range(RATES))
    ]


def named(data: Sequence[str]) -> list[Cell]:
    """Return the eight methods in every case; what comes first gives a whole picture first."""
    return [
        Cell(one, case, method.name, seed)
        for one in DATA
        if one in data
        for seed, case, method in product(SEEDS, CASES, NAMED)
    ]


def others() -> list[Cell]:
    """Return the other methods, one case each, and the candidates for the defaults in all."""
    one_case = [
        Cell(DATA[0], OTHERS_CASE, method.name, seed) for seed, method in product(SEEDS, OTHERS)
    ]
    return one_case + [
        Cell(DATA[0], case, name, seed)
        for seed, case, name in product(SEEDS, CASES, CANDIDATES)
        if case != OTHERS_CASE
    ]
