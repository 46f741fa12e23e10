"""The goals, held against every table. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from benchmarks.fairness import measures
from benchmarks.fairness.measures import BASELINES, FAIR_BASELINES, mean_of
from coordinator.fairness import largest_mean_gain

PEARSON = 0.98
HALF = 0.5
MOSTLY_NOISE = 0.5  # a ceiling below which equal rewards are what contributions call for
Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """One goal in one table.

    Attributes:
        name: of the goal.
        met: None where it does not apply.
        said: the figures that decided.
        reachable: whether any rewards at all could meet it in this table.
    """

    name: str
    met: bool | None
    said: str
    reachable: bool = True


NAMES = (
    "Pearson at 0.98 or the noise ceiling",
    "CGS at most half of the best baseline's",
    "top contributor not below stand-alone",
    "MCG no worse than the best fair baseline's",
)


def goals(cells: Sequence[Cell], method: str) -> list[Goal]:
    """Return how a method stands in one table.

    Means over the seeds are compared, but no seed may leave the top contributor below what it has
    alone.

    Args:
        cells: of the table, one per seed, that have the method.
        method: a variant of Aequa.
    """
    mine = [measures.figures(cell, method) for cell in cells]
    return [
        _correlation(cells, mine),
        _spread(cells, mine),
        _top(mine),
        _gain(cells, mine),
    ]


def _correlation(cells: Sequence[Cell], mine: Sequence[measures.Figures]) -> Goal:
    found = mean_of([one.pearson for one in mine])
    ceiling = mean_of([measures.ceiling(cell) for cell in cells])
    wanted = PEARSON if ceiling is None else min(PEARSON, ceiling)
    said = f"{_text(found)}, wanted {wanted:.3f}"
    if not all(measures.fits(cell) for cell in cells):
        rank = mean_of([one.spearman for one in mine])
        said += f"; contributions spread wider than the ladder, Spearman {_text(rank)}"
        return Goal(NAMES[0], None, said)
    if found is None and wanted < MOSTLY_NOISE:
        return Goal(NAMES[0], None, f"{said}; contributions differ by less than their noise")
    return Goal(NAMES[0], found is not None and found >= wanted, said)


def _spread(cells: Sequence[Cell], mine: Sequence[measures.Figures]) -> Goal:
    found = mean_of([one.gain_spread for one in mine])
    least, who = _extreme(cells, BASELINES, "gain_spread", largest=False)
    noise = mean_of([measures.noise(cell) for cell in cells])
    assert found is not None
    assert noise is not None
    said = f"{found:.2f} against {least:.2f} of {who}; noise alone makes {noise:.2f}"
    return Goal(NAMES[1], found <= HALF * least, said, noise <= HALF * least)


def _top(mine: Sequence[measures.Figures]) -> Goal:
    worst = min(one.top_gain for one in mine)
    return Goal(NAMES[2], worst >= 0, f"worst seed {worst:+.2f} points")


def _gain(cells: Sequence[Cell], mine: Sequence[measures.Figures]) -> Goal:
    found = mean_of([one.mean_gain for one in mine])
    most, who = _extreme(cells, FAIR_BASELINES, "mean_gain", largest=True)
    bound = mean_of([most_with_equal_gains(cell) for cell in cells])
    assert found is not None
    assert bound is not None
    said = (
        f"{found:+.2f} against {most:+.2f} of {who}; with half the best baseline's CGS no rewards"
        f" can have more than {bound:+.2f}"
    )
    return Goal(NAMES[3], found >= most, said, bound >= most)


def most_with_equal_gains(cell: Cell) -> float:
    """Return the largest mean gain of any rewards that meet the goal of equal gains as well."""
    known = [method for method in BASELINES if method in cell["methods"]]
    least = min(measures.figures(cell, method).gain_spread for method in known)
    c = measures.contributions(cell)
    return largest_mean_gain(c, measures.best_anywhere(cell), HALF * least)


def _extreme(
    cells: Sequence[Cell], methods: Sequence[str], figure: str, *, largest: bool
) -> tuple[float, str]:
    """Return the best mean over the seeds among methods that all cells have, and whose it is."""
    sign = 1 if largest else -1
    best, who = -inf, "nobody"
    for method in methods:
        if all(method in cell["methods"] for cell in cells):
            found = mean_of([getattr(measures.figures(cell, method), figure) for cell in cells])
            if found is not None and sign * found > best:
                best, who = sign * found, method
    return sign * best, who


def _text(value: float | None) -> str:
    return "undefined (equal rewards)" if value is None else f"{value:.3f}"
