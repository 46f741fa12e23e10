"""A dense network made slimmable: accuracy over width as is, ordered, and distilled.

For each seed a network is trained at full width alone. It is sliced as it is and after its channels
were ordered, and then distilled for some shares of the CPU time that its own training took, once
from each order. Batch-norm statistics are estimated anew for every width and every row.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from benchmarks.arguments import numbers, positive, whole_numbers
from benchmarks.fashion_mnist import CLASSES, FOLDER, read_fashion_mnist
from benchmarks.results import Ratio, Result, Table
from slimmable.adoption import (
    PROBED,
    AdoptionRule,
    Budget,
    Criterion,
    distil,
    importance_of,
)
from slimmable.central import measure_widths
from slimmable.evaluation import calibrate, initial_state
from slimmable.importance import Importance, magnitude_importance
from slimmable.model import SlimmableModel, load_model
from slimmable.ordering import order_network
from slimmable.samples import Samples
from slimmable.state import ModelState
from slimmable.training import train
from slimmable.training_rule import Schedule, TrainingRule

WIDTHS = (0.25, 0.5, 0.75, 1.0)
SUBSET = 10_000
SHARES = (0.1, 1.0, 2.5)  # the last is about what four dense networks cost together
AS_IS, RANDOM = "as is", "random"
POINTS = 0.5  # what the full width may lose

Curve = Mapping[float, float]  # width -> accuracy in percent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the .gz files")
    parser.add_argument("--seeds", type=whole_numbers, default=(0, 1), help="of everything")
    parser.add_argument("--epochs", type=positive, default=6, help="of the dense network")
    parser.add_argument(
        "--shares",
        type=numbers,
        default=SHARES,
        help="budgets of the distillation, in CPU times of the dense training; the longest only"
        " starts from the order by magnitude",
    )
    parser.add_argument("--distillation", type=float, default=0.5, help="share of the loss")
    parser.add_argument(
        "--learning-rate", type=float, default=0.02, help="of the distillation, at its start"
    )


@dataclass(frozen=True)
class SeedRun:
    """One seed.

    Attributes:
        dense: accuracy of the dense network, in percent.
        dense_cpu_s: of its training.
        ordered: order -> curve of the slices.
        distilled: (share of the budget, order) -> curve.
        labels_alone: the curve of the longest budget without a teacher.
    """

    dense: float
    dense_cpu_s: float
    ordered: Mapping[str, Curve]
    distilled: Mapping[tuple[float, str], Curve]
    labels_alone: Curve


@dataclass(frozen=True)
class Images:
    """What trains, and what measures."""

    training: Samples
    measuring: Samples


def measure(arguments: argparse.Namespace) -> Result:
    """Adopt the networks of all seeds.

    Raises:
        BenchmarkError: the data is missing or damaged.
    """
    torch.set_num_threads(1)
    images = Images(
        read_fashion_mnist(arguments.data, "train").take(np.arange(SUBSET)),
        read_fashion_mnist(arguments.data, "t10k"),
    )
    model = load_model("cnn2d", {"classes": list(CLASSES)})
    runs = [_run_seed(model, images, arguments, seed) for seed in arguments.seeds]
    return Result(
        name="adoption",
        summary="a network trained at full width alone, made to work at every width",
        tables=(_means(runs), _seeds(runs, arguments)),
        ratios=_ratios(runs),
        notes=(
            (
                f"{len(images.training)} images train, {len(images.measuring)} test images measure:"
                " the standard error of an accuracy is about 0.3 points"
            ),
            (
                f"cnn2d, 16-32-64-64 channels; {arguments.epochs} epochs dense, learning rate 0.05"
                " falling as a cosine, batch 64; distillation by ordered dropout with"
                f" {arguments.learning_rate:g} and {arguments.distillation:g} of the loss from the"
                " teacher"
            ),
            (
                "a budget is in CPU times of the dense network's own training, one thread:"
                f" {mean(run.dense_cpu_s for run in runs):.0f} s"
            ),
            "random: a random order, to see what an order by importance is worth",
        ),
    )


def _run_seed(
    model: SlimmableModel, images: Images, arguments: argparse.Namespace, seed: int
) -> SeedRun:
    dense, cpu_s = _dense(model, images.training, arguments.epochs, seed)
    states = {order: _ordered(model, dense, images, order, seed) for order in _orders()}
    longest = max(arguments.shares)
    distilled = {
        (share, order): _distilled(
            model,
            state,
            images,
            _rule(arguments, share * cpu_s, arguments.distillation),
            seed,
        )
        for share in arguments.shares
        for order, state in states.items()
        if share < longest or order == Criterion.MAGNITUDE
    }
    alone = _rule(arguments, longest * cpu_s, 0.0)
    ordered = {order: _curve(model, state, images) for order, state in states.items()}
    return SeedRun(
        dense=ordered[AS_IS][1.0],
        dense_cpu_s=cpu_s,
        ordered=ordered,
        distilled=distilled,
        labels_alone=_distilled(model, states[Criterion.MAGNITUDE], images, alone, seed),
    )


def _rule(arguments: argparse.Namespace, cpu_s: float, distillation: float) -> AdoptionRule:
    return AdoptionRule(
        WIDTHS,
        Budget(seconds=cpu_s),
        distillation=distillation,
        learning_rate=arguments.learning_rate,
    )


def _orders() -> tuple[str, ...]:
    return (AS_IS, RANDOM, *Criterion)


def _dense(
    model: SlimmableModel, samples: Samples, epochs: int, seed: int
) -> tuple[ModelState, float]:
    rule = TrainingRule(
        steps=epochs * (len(samples) // 64),
        batch_size=64,
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        widths=(1.0,),
        schedule=Schedule.COSINE,
    )
    start = initial_state(model, seed)
    begun = time.process_time()
    state, _ = train(model, start, 1.0, samples, rule, np.random.default_rng(seed))
    cpu_s = time.process_time() - begun
    return {**state, **calibrate(model, 1.0, state, samples.x)}, cpu_s


def _ordered(
    model: SlimmableModel, state: ModelState, images: Images, order: str, seed: int
) -> ModelState:
    if order == AS_IS:
        return state
    rng = np.random.default_rng(seed)
    importance: Importance
    if order == RANDOM:
        axes = magnitude_importance(state, model.spec)
        importance = {axis: rng.random(len(values)) for axis, values in axes.items()}
    else:
        importance = importance_of(model, state, images.training, Criterion(order), rng)
    return order_network(model, state, importance, [images.training.x[:PROBED]]).state


def _distilled(
    model: SlimmableModel, state: ModelState, images: Images, rule: AdoptionRule, seed: int
) -> Curve:
    trained, _ = distil(
        model, state, images.training, rule, np.random.default_rng(seed), time.process_time
    )
    return _curve(model, trained, images)


def _curve(model: SlimmableModel, state: ModelState, images: Images) -> Curve:
    rows = measure_widths(model, state, WIDTHS, images.training.x, images.measuring)
    return {row.width: 100 * row.score for row in rows}


def _rows(run: SeedRun) -> dict[tuple[str, str], Curve]:
    """Return the curves of a seed by (budget, order)."""
    rows = {("none", order): curve for order, curve in run.ordered.items()}
    rows.update({(f"{share:g}x", order): curve for (share, order), curve in run.distilled.items()})
    last = max(share for share, _ in run.distilled)
    rows[f"{last:g}x", f"{Criterion.MAGNITUDE}, labels alone"] = run.labels_alone
    return rows


def _means(runs: list[SeedRun]) -> Table:
    found = [_rows(run) for run in runs]
    return Table(
        f"Accuracy, mean of {len(runs)} seeds, %",
        ("distilled for", "order", *(f"width {width:g}" for width in WIDTHS)),
        tuple(
            (*key, *(f"{mean(rows[key][width] for rows in found):.1f}" for width in WIDTHS))
            for key in found[0]
        ),
    )


def _seeds(runs: list[SeedRun], arguments: argparse.Namespace) -> Table:
    rows = []
    for seed, run in zip(arguments.seeds, runs, strict=True):
        for key, curve in _rows(run).items():
            if key[1] in {AS_IS, Criterion.MAGNITUDE}:
                rows.append((seed, *key, *(f"{curve[width]:.1f}" for width in WIDTHS)))
    return Table(
        "Accuracy per seed, %",
        ("seed", "distilled for", "order", *(f"width {width:g}" for width in WIDTHS)),
        tuple(rows),
    )


def _ratios(runs: list[SeedRun]) -> tuple[Ratio, ...]:
    last = max(share for share, _ in runs[0].distilled)
    key = (last, str(Criterion.MAGNITUDE))
    full = Ratio(
        f"accuracy at full width, distilled for {last:g}x",
        mean(run.distilled[key][1.0] for run in runs),
        f"the dense network, less {POINTS:g} points",
        mean(run.dense for run in runs) - POINTS,
        "%",
        at_least=1.0,
    )
    narrow = Ratio(
        f"accuracy at width {WIDTHS[0]:g}, distilled for {last:g}x",
        mean(run.distilled[key][WIDTHS[0]] for run in runs),
        "the same slice as is",
        mean(run.ordered[AS_IS][WIDTHS[0]] for run in runs),
        "%",
    )
    return full, narrow
