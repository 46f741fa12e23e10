"""How long does a user wait for the demo, and how much memory does it take?"""

import argparse
from statistics import mean, median

from benchmarks.arguments import positive
from benchmarks.demo_run import fresh_demo, phases
from benchmarks.results import Cell, Ratio, Result, Table

LIMIT_S = 120.0  # what the demo promises, on two cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--runs", type=positive, default=3, metavar="N", help="runs of the demo")
    parser.add_argument("--devices", type=positive, default=8, metavar="N", help="as in the demo")
    parser.add_argument("--rounds", type=positive, default=12, metavar="N", help="as in the demo")


def measure(arguments: argparse.Namespace) -> Result:
    """Run the demo several times, each with another seed.

    Raises:
        BenchmarkError: a run failed.
    """
    runs = [fresh_demo(arguments.devices, arguments.rounds, seed) for seed in range(arguments.runs)]
    rows: list[tuple[Cell, ...]] = [
        (seed, run.seconds, run.peak_bytes / 2**20, run.processes) for seed, run in enumerate(runs)
    ]
    seconds = [run.seconds for run in runs]
    parts = [phases(run.records) for run in runs]
    names = list(dict.fromkeys(name for part in parts for name in part))
    inside: list[tuple[Cell, ...]] = [
        (name, mean(part[name] for part in parts if name in part)) for name in names
    ]
    started = mean(run.seconds - sum(part.values()) for run, part in zip(runs, parts, strict=True))
    inside.append(("processes, before and after the campaign", started))
    return Result(
        name="demo_time",
        summary=f"slimfleet demo with {arguments.devices} devices and {arguments.rounds} rounds",
        tables=(
            Table("Each run", ("seed", "seconds", "peak MiB", "processes"), tuple(rows), digits=4),
            Table("Where the seconds go, mean", ("part", "seconds"), tuple(inside)),
        ),
        ratios=tuple(
            Ratio(f"demo, {name}", value, "promised limit", LIMIT_S, "s", at_most=1.0)
            for name, value in (
                ("quickest", min(seconds)),
                ("median", median(seconds)),
                ("slowest", max(seconds)),
            )
        ),
        notes=(
            (
                "memory is the sum over all processes of what each holds; shared pages count once"
                " for each, so the machine needs less"
            ),
            "the promised limit holds for two cores with nothing else to do",
        ),
    )
