"""The tables of `benchmarks.width_training`: accuracy per width, and what it cost. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.results import Ratio, Table

WIDTHS = (0.25, 0.5, 0.75, 1.0)
POINTS = 0.5  # what a width may be worse than the dense network


@dataclass(frozen=True)
class SeedRun:
    """One seed.

    Attributes:
        dense, slimmable: width -> accuracy in percent.
        dense_cpu_s: of the four dense trainings together; slimmable_cpu_s: of the one.
        dense_steps: of each dense training; slimmable_steps: of the one.
    """

    seed: int
    dense: Mapping[float, float]
    slimmable: Mapping[float, float]
    dense_cpu_s: float
    slimmable_cpu_s: float
    dense_steps: int
    slimmable_steps: int


def seeds_table(runs: Sequence[SeedRun]) -> Table:
    """Return the accuracies of every seed."""
    return Table(
        "Accuracy per seed, %",
        ("seed", "width", "dense", "slimmable", "difference", f"within {POINTS:g} or better"),
        tuple(
            (run.seed, width, *_verdict(run.dense[width], run.slimmable[width]))
            for run in runs
            for width in WIDTHS
        ),
    )


def means_table(runs: Sequence[SeedRun]) -> Table:
    """Return the accuracies, averaged over the seeds."""
    return Table(
        f"Accuracy, mean of {len(runs)} seeds, %",
        ("width", "dense", "slimmable", "difference", f"within {POINTS:g} or better"),
        tuple((width, *_verdict(*_means(runs, width))) for width in WIDTHS),
    )


def _means(runs: Sequence[SeedRun], width: float) -> tuple[float, float]:
    return mean(run.dense[width] for run in runs), mean(run.slimmable[width] for run in runs)


def _verdict(dense: float, slimmable: float) -> tuple[str, str, str, str]:
    difference = slimmable - dense
    # Accuracies are counts of images: rounding keeps 0.5 points from being 0.5000000001.
    within = round(difference, 6) >= -POINTS
    return (
        f"{dense:.2f}",
        f"{slimmable:.2f}",
        f"{difference:+.2f}",
        "yes" if within else "NO",
    )


def cost_table(runs: Sequence[SeedRun]) -> Table:
    """Return what the trainings of every seed cost."""
    return Table(
        "CPU time of the training steps, one thread",
        ("seed", "steps of each dense", "s, four dense", "steps of the slimmable", "s, slimmable"),
        tuple(
            (
                run.seed,
                run.dense_steps,
                run.dense_cpu_s,
                run.slimmable_steps,
                run.slimmable_cpu_s,
            )
            for run in runs
        ),
        digits=4,
    )


def ratios(runs: Sequence[SeedRun]) -> tuple[Ratio, ...]:
    """Return the averages beside what they are held against."""
    accuracies = []
    for width in WIDTHS:
        dense, slimmable = _means(runs, width)
        accuracies.append(
            Ratio(
                f"accuracy at width {width:g}",
                slimmable,
                f"dense, less {POINTS:g} points",
                dense - POINTS,
                "%",
                at_least=1.0,
            )
        )
    return (
        *accuracies,
        Ratio(
            "CPU time of the slimmable network",
            mean(run.slimmable_cpu_s for run in runs),
            "four dense networks",
            mean(run.dense_cpu_s for run in runs),
            "s",
            at_most=1.05,
        ),
    )
