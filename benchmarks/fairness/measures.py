"""What a cell's result says, in percentage points, judged by contributions measured again. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import fmean, stdev
from typing import Any

from coordinator.fairness import (
    gain_spread,
    mean_gain,
    noise_ceiling,
    noise_spread,
    pearson,
    rational_share,
    smallest_gain,
    spearman,
)

BASELINES = ("fedavg", "fedavg-ft", "cgsv", "iafl", "shapfed")
FAIR_BASELINES = ("cgsv", "iafl", "shapfed")  # those that give unlike participants unlike models
Cell = Mapping[str, Any]
Key = tuple[str, str, int, str, bool]
"""Of a table: data, partition, participants, rider, and whether on all images."""


@dataclass(frozen=True)
class Figures:
    """One method in one cell; accuracies and gains in percentage points, the rider left out.

    Attributes:
        pearson, spearman: of rewards and contributions; None where one of them is constant.
        mean_gain: MCG; gain_spread: CGS; smallest_gain: of all participants.
        rational: share of participants that are no worse off than alone.
        top_gain: of the participant with the largest contribution.
        mean, best: accuracy of what participants have in the end.
        released: how many received a model.
        megabytes: sent and received by a participant on average.
        cpu_s: of training, and for Aequa of measuring contributions.
    """

    pearson: float | None
    spearman: float | None
    mean_gain: float
    gain_spread: float
    smallest_gain: float
    rational: float
    top_gain: float
    mean: float
    best: float
    released: int
    megabytes: float
    cpu_s: float


def honest(cell: Cell, values: Sequence[Any]) -> list[Any]:
    """Return the values of those that do not ride."""
    return list(values[: len(cell["samples"])])


def contributions(cell: Cell) -> list[float]:
    """Return the accuracy of each honest participant's own model, a mean of new trainings."""
    return [100 * fmean(values) for values in zip(*_measured_again(cell), strict=True)]


def _measured_again(cell: Cell) -> list[list[float]]:
    return [honest(cell, values) for values in cell["contributions"]]


def rewards(cell: Cell, method: str) -> list[float]:
    """Return the accuracy of what each honest participant has in the end.

    Who receives no release keeps the model that it trained alone, as it was when contributions
    were measured for the allocation: not the one that contributions are judged by.
    """
    own = cell["methods"]["stand-alone"]["reward"]
    given = cell["methods"][method]["reward"]
    pairs = zip(honest(cell, given), honest(cell, own), strict=True)
    return [100 * (kept if reward is None else reward) for reward, kept in pairs]


def ceiling(cell: Cell) -> float | None:
    """Return how well one measurement of the contributions agrees with those that judge."""
    first = honest(cell, cell["methods"]["stand-alone"]["reward"])
    return _defined(noise_ceiling(first, *_measured_again(cell)))


def noise(cell: Cell) -> float:
    """Return how much chance alone spreads the contributions that judge, in points."""
    return 100 * noise_spread(*_measured_again(cell))


def best_anywhere(cell: Cell) -> float:
    """Return the accuracy of the best model that any method left a participant with."""
    return max(figures(cell, method).best for method in cell["methods"])


def figures(cell: Cell, method: str) -> Figures:
    """Return what a method came to in a cell."""
    c, r, entry = contributions(cell), rewards(cell, method), cell["methods"][method]
    top = max(range(len(c)), key=c.__getitem__)
    return Figures(
        pearson=_defined(pearson(r, c)),
        spearman=_defined(spearman(r, c)),
        mean_gain=mean_gain(r, c),
        gain_spread=gain_spread(r, c),
        smallest_gain=smallest_gain(r, c),
        rational=rational_share(r, c),
        top_gain=r[top] - c[top],
        mean=fmean(r),
        best=max(r),
        released=sum(one is not None for one in honest(cell, entry["reward"])),
        megabytes=(entry["sent"] + entry["received"]) / len(entry["reward"]) / 1e6,
        cpu_s=entry["cpu_s"],
    )


def fits(cell: Cell) -> bool:
    """Return whether the widths on offer span as much as the contributions."""
    offered = [100 * point["fitted"] for point in cell["curve"] if point["offered"]]
    c = contributions(cell)
    return bool(offered) and max(c) - min(c) <= max(offered) - min(offered)


def payoff(cell: Cell, method: str) -> float:
    """Return what the rider gains over having nothing: 0 where it receives no release."""
    reward = cell["methods"][method]["reward"][-1]
    return 0.0 if reward is None else 100 * (reward - cell["untrained"])


def demoted(cell: Cell, method: str) -> int:
    """Return how many honest participants received no release."""
    return sum(one is None for one in honest(cell, cell["methods"][method]["reward"]))


def _defined(value: float) -> float | None:
    return None if isnan(value) else value


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that are defined."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def spread_of(values: Sequence[float | None]) -> float | None:
    """Return the sample standard deviation of those that are defined; None for fewer than two."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None


def number_text(value: float | None, digits: int) -> str:
    """Return a figure for a table; a dash where it is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def groups(cells: Sequence[Cell]) -> dict[Key, list[Cell]]:
    """Return the cells of each table: one partition at one number of participants, all seeds."""
    found: dict[Key, list[Cell]] = {}
    for cell in cells:
        what = cell["cell"]
        key = (what["data"], what["scheme"], what["participants"], what["rider"], what["full"])
        found.setdefault(key, []).append(cell)
    return found


def methods_of(cells: Sequence[Cell]) -> list[str]:
    """Return every method that some cell has, Aequa's variants first."""
    names = dict.fromkeys(name for cell in cells for name in cell["methods"])
    return sorted(names, key=lambda name: (not name.startswith("aequa"), name == "stand-alone"))
