"""What free-riding earns: each kind of rider among five honest devices, on Fashion-MNIST.

A campaign per partition, seed and kind, and one with all kinds at once. The rounds are recorded
once and scored with and without novelty, so that both see the same uploads. Training, aggregation,
scoring, the ledger and the reward rule are those of a fleet.
"""

import argparse
import csv
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.arguments import names, positive, schemes, whole_numbers
from benchmarks.errors import BenchmarkError
from benchmarks.fairness.data import TASKS, load
from benchmarks.free_rider_cells import Cell, Judge, Outcome, run_cell
from benchmarks.free_rider_tables import (
    detection_table,
    goals,
    honest_table,
    outcome_table,
)
from benchmarks.recorded_rounds import Plan
from benchmarks.results import Result, Table
from coordinator.contribution.methods import METHODS
from coordinator.measuring import Validation
from coordinator.settings import Contributions, Rewards
from slimfleet.simulation.riders import RIDERS
from slimmable.model import load_model
from slimmable.training_rule import TrainingRule

HONEST = 5
PARTITIONS = ("homogeneous", "dirichlet(0.1)", "classes(3)", "imbalanced(0.8, 1)")
TEST_IMAGES = 2000


@dataclass(frozen=True)
class Size:
    """How much is done: quick, or not."""

    rounds: int
    steps: int
    batch: int
    widths: tuple[float, ...]
    validation: int


QUICK = Size(rounds=5, steps=20, batch=32, widths=(0.25, 1.0), validation=200)
USUAL = Size(rounds=8, steps=20, batch=64, widths=(0.25, 0.5, 1.0), validation=500)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    defaults = Rewards()
    parser.add_argument("--quick", action="store_true", help="fewer rounds, images and widths")
    parser.add_argument(
        "--partitions", type=schemes, default=PARTITIONS, help="separated by semicolons"
    )
    parser.add_argument(
        "--riders", type=names, default=tuple(RIDERS), help="kinds, separated by commas"
    )
    parser.add_argument("--seeds", type=whole_numbers, default=(0,), help="of data and training")
    parser.add_argument("--rounds", type=positive, help="of each campaign, not the usual ones")
    parser.add_argument(
        "--by-samples",
        action="store_true",
        help="devices train one pass over their samples and count by how many they claim",
    )
    parser.add_argument("--novelty", type=whole_numbers, default=(0, 1), help="compared")
    parser.add_argument("--method", choices=tuple(METHODS), default="permutation-shapley")
    parser.add_argument("--coalitions", type=positive, default=32, help="a round at most")
    parser.add_argument("--cutoff", type=float, default=defaults.cutoff, help="of rewards")
    parser.add_argument(
        "--basis",
        choices=("ledger", "assessment"),
        default="ledger",
        help="what earns: the updates, or what each device's own model scores",
    )
    parser.add_argument("--decay", type=float, default=Contributions().decay, help="of the ledger")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="of local training")
    parser.add_argument(
        "--gradient-norm", type=float, default=1.0, help="longer gradients are shortened; 0 = none"
    )
    parser.add_argument(
        "--round-decay", type=float, default=1.0, help="of the learning rate from round to round"
    )
    parser.add_argument("--processes", type=positive, default=2, help="that share the partitions")
    parser.add_argument("--csv", type=Path, help="folder to write each table to")


def measure(arguments: argparse.Namespace) -> Result:
    """Run all campaigns.

    Raises:
        BenchmarkError: the data is missing, or a kind of rider is unknown.
    """
    unknown = sorted({*arguments.riders} - {*RIDERS})
    if unknown:
        raise BenchmarkError(f"no rider {unknown[0]!r}: there are {', '.join(RIDERS)}")
    jobs = [
        (arguments, scheme, seed) for seed in arguments.seeds for scheme in arguments.partitions
    ]
    if arguments.processes == 1:
        found = [run_partition(*job) for job in jobs]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool:
            found = list(pool.map(run_partition, *zip(*jobs, strict=True)))
    outcomes = [outcome for some in found for outcome in some]
    tables = (outcome_table(outcomes), detection_table(outcomes), honest_table(outcomes))
    if arguments.csv:
        _write(arguments.csv, tables)
    return Result(
        name="free_riders",
        summary=f"what riders earn among {HONEST} honest devices, and how they are told apart",
        tables=tables,
        ratios=goals(outcomes),
        notes=_notes(arguments),
    )


def run_partition(arguments: argparse.Namespace, scheme: str, seed: int) -> list[Outcome]:
    """Run the campaigns of one partition and seed, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    size = _size(arguments)
    parts = load("fashion-mnist", scheme, HONEST + 1, seed, full=False)
    step = len(parts.validation) // size.validation
    judge = Judge(
        Validation.of(parts.validation.take(np.arange(0, len(parts.validation), step))),
        parts.test.take(np.arange(TEST_IMAGES)),
        arguments.method,
        arguments.coalitions,
        Rewards(cutoff=arguments.cutoff, basis=arguments.basis),
        arguments.decay,
    )
    task = TASKS["fashion-mnist"]
    rule = TrainingRule(
        steps=size.steps,
        batch_size=size.batch,
        learning_rate=arguments.learning_rate,
        momentum=0.9,
        weight_decay=1e-4,
        widths=size.widths,
        gradient_norm=arguments.gradient_norm,
    )
    model = load_model(task.model, dict(task.options))
    rounds = arguments.rounds or size.rounds
    plan = Plan(model, rule, rounds, arguments.by_samples, seed, arguments.round_decay)
    cells = [Cell(scheme, seed, (kind,)) for kind in arguments.riders]
    if len(arguments.riders) > 1:
        cells.append(Cell(scheme, seed, tuple(arguments.riders)))
    return [
        outcome
        for cell in cells
        for outcome in run_cell(cell, plan, parts.own, judge, arguments.novelty)
    ]


def _size(arguments: argparse.Namespace) -> Size:
    return QUICK if arguments.quick else USUAL


def _write(folder: Path, tables: Sequence[Table]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        name = table.title.split(":")[0].replace(" ", "_")
        with (folder / f"free_riders_{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table.columns)
            writer.writerows(table.rows)


def _notes(arguments: argparse.Namespace) -> tuple[str, ...]:
    size = _size(arguments)
    trains = (
        f"one pass over a device's own images a round, batch {size.batch}; updates count by claims"
        if arguments.by_samples
        else f"{size.steps} steps a round, batch {size.batch}; all updates count alike"
    )
    return (
        "CNN of 105,866 parameters, 10,000 images dealt to the honest devices and one rider",
        f"{arguments.rounds or size.rounds} rounds; {trains}",
        (
            f"scored by {arguments.method} on {size.validation} images at widths {size.widths};"
            f" rewards follow the {arguments.basis}"
        ),
        f"no release below {arguments.cutoff:g} of the average, or not significantly above 0",
        "payoff: accuracy of the release minus what the rider has alone; held: of what it trained",
        (
            "detection, over all rounds: score = worth of the update, account = of all so far, then"
            " the counter-tests; AUROC / share found at 5 % false alarms"
        ),
    )
