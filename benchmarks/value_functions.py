"""What a sample's outputs should be worth in the game of a round: six answers, on the same rounds.

Exact Shapley values of five honest devices and one rider that spoils its data, Fashion-MNIST. A
value function is good where every honest device is above the cut-off, the rider below all of them,
and, where devices differ in nothing but how much they hold, more is worth more.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from statistics import mean

import numpy as np

from benchmarks.arguments import names, positive, schemes, whole_numbers
from benchmarks.fairness.data import TASKS, load
from benchmarks.fashion_mnist import CLASSES
from benchmarks.recorded_rounds import Member, Plan, RecordedRound, record
from benchmarks.results import Cell, Result, Table
from coordinator.aggregation.rules import steps_of
from coordinator.aggregation.steps import combine
from coordinator.claims import shares
from coordinator.contribution.novelty import novel_steps
from coordinator.contribution.shapley import exact_shapley
from coordinator.fairness import spearman
from coordinator.measuring import block_weights
from coordinator.settings import Rewards
from slimmable.evaluation import outputs
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState
from slimmable.task import classification
from slimmable.training_rule import TrainingRule

HONEST = 5
PARTITIONS = ("homogeneous", "dirichlet(0.1)", "classes(3)", "imbalanced(0.8, 1)")
RIDERS = ("label-noise", "tiny-data", "duplicated-data")
SIZES = (1, 4, 16, 64, 256)  # what is left of equal data: a whole, a fourth, ...
WIDTHS = (0.25, 1.0)
TASK = classification(CLASSES)
BATCH, RATE = 32, 0.05
TEMPERATURES = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0)
# Of outputs (N, K), labels (N,) and the weight of each sample (N,): what each sample is worth.
Worth = Callable[[Array, Array, Array], Array]


def log_probability(said: Array, labels: Array) -> Array:
    """Return the log-probability of each sample's own class, (N,)."""
    return -TASK.losses(said.astype(np.float64), labels)


def _brier(said: Array, labels: Array, _: Array) -> Array:
    p = TASK.decode(said.astype(np.float64)).value
    found: Array = 2 * p[np.arange(len(labels)), labels] - (p**2).sum(axis=1)
    return found


def _tempered(said: Array, labels: Array, weights: Array) -> Array:
    tried = [log_probability(said / temperature, labels) for temperature in TEMPERATURES]
    return max(tried, key=lambda worth: float(weights @ worth))


WORTHS: dict[str, Worth] = {
    "loss": lambda said, y, _: log_probability(said, y),
    "loss, at most a guess's": lambda said, y, _: np.maximum(
        log_probability(said, y), -np.log(said.shape[1])
    ),
    "probability": lambda said, y, _: np.exp(log_probability(said, y)),
    "accuracy": lambda said, y, _: (said.argmax(axis=1) == y).astype(np.float64),
    "Brier score": _brier,
    "loss, best temperature": _tempered,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--partitions", type=schemes, default=PARTITIONS, help="separated by semicolons"
    )
    parser.add_argument("--riders", type=names, default=RIDERS, help="kinds, separated by commas")
    parser.add_argument("--seeds", type=whole_numbers, default=(0,), help="of data and training")
    parser.add_argument("--rounds", type=positive, default=5, help="of each campaign")
    parser.add_argument("--steps", type=positive, default=20, help="of a device in a round")
    parser.add_argument("--validation", type=positive, default=400, help="images")
    parser.add_argument("--gradient-norm", type=float, default=1.0, help="limit of gradients")


def measure(arguments: argparse.Namespace) -> Result:
    """Play each campaign once and value its rounds in every way."""
    import torch

    torch.set_num_threads(1)
    rows: list[tuple[Cell, ...]] = []
    for scheme in arguments.partitions:
        for kind in arguments.riders:
            found = [_ridden(arguments, scheme, kind, seed) for seed in arguments.seeds]
            rows += [
                (scheme, kind, name, *_summary([one[name] for one in found])) for name in WORTHS
            ]
    sized = [_sized(arguments, seed) for seed in arguments.seeds]
    columns = ("value", "Spearman with how much they hold", "smallest holder's share")
    order = tuple(
        (
            name,
            mean(spearman(one[name][:HONEST], [1 / size for size in SIZES]) for one in sized),
            mean(one[name][HONEST - 1] for one in sized),
        )
        for name in WORTHS
    )
    return Result(
        name="value_functions",
        summary=f"shares of {HONEST} honest devices and a rider, by what a sample is worth",
        tables=(
            Table(
                "riders: shares in average contributions, means over seeds",
                (
                    *("partition", "rider", "value", "rider's share", "least honest share"),
                    "honest below the cut-off",
                ),
                tuple(rows),
            ),
            Table(
                "order: honest devices of 1, 1/4, 1/16, 1/64, 1/256 of equal data", columns, order
            ),
        ),
        notes=(
            (
                f"{arguments.rounds} rounds of {arguments.steps} steps of {BATCH}, rate {RATE};"
                f" gradients limited to {arguments.gradient_norm:g}; {arguments.validation} images"
            ),
        ),
    )


def _summary(found: Sequence[Sequence[float]]) -> tuple[Cell, ...]:
    """Return the last cells of a row, of the shares of all devices, the rider last, per seed."""
    cutoff = Rewards().cutoff
    below = sum(share < cutoff for one in found for share in one[:-1])
    return (
        mean(one[-1] for one in found),
        mean(min(one[:-1]) for one in found),
        f"{below}/{len(found) * HONEST}",
    )


def _ridden(
    arguments: argparse.Namespace, scheme: str, kind: str, seed: int
) -> dict[str, list[float]]:
    own = load("fashion-mnist", scheme, HONEST + 1, seed, full=False).own
    members = [Member(f"honest-{at}", samples) for at, samples in enumerate(own[:-1])]
    return _played(arguments, seed, [*members, Member("rider", own[-1], kind)])


def _sized(arguments: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    own = load("fashion-mnist", "homogeneous", HONEST, seed, full=False).own
    members = [
        Member(f"honest-{at}", samples.take(np.arange(len(samples) // size)))
        for at, (samples, size) in enumerate(zip(own, SIZES, strict=True))
    ]
    return _played(arguments, seed, members)


def _played(
    arguments: argparse.Namespace, seed: int, members: Sequence[Member]
) -> dict[str, list[float]]:
    """Return value function -> share of each member, over all rounds of one campaign."""
    task = TASKS["fashion-mnist"]
    rule = TrainingRule(
        steps=arguments.steps,
        batch_size=BATCH,
        learning_rate=RATE,
        momentum=0.9,
        weight_decay=1e-4,
        widths=WIDTHS,
        gradient_norm=arguments.gradient_norm,
    )
    model = load_model(task.model, dict(task.options))
    plan = Plan(model, rule, arguments.rounds, by_samples=False, seed=seed)
    data = load("fashion-mnist", "homogeneous", HONEST, seed, full=False).validation
    step = max(1, len(data) // arguments.validation)
    data = data.take(np.arange(0, len(data), step))
    totals = {name: dict.fromkeys((one.device for one in members), 0.0) for name in WORTHS}
    for closed in record(plan, members).rounds:
        for name, scores in _scored(plan, closed, data).items():
            for device, score in scores.items():
                totals[name][device] += score
    return {name: list(shares(total).values()) for name, total in totals.items()}


def _scored(plan: Plan, closed: RecordedRound, data: Samples) -> dict[str, dict[str, float]]:
    """Return value function -> exact Shapley values of a round."""
    model, spec = plan.model, plan.model.spec
    split = novel_steps(spec, steps_of(closed.base, spec, closed.updates), closed.known[:1])
    base = combine(closed.base, spec, split.foreseen)
    weights = block_weights(data, model.task)
    overall = weights.mean(axis=0)

    @cache
    def said(coalition: frozenset[str]) -> tuple[Array, ...]:
        state = combine(base, spec, [step for step in split.steps if step.device in coalition])
        return tuple(_outputs(plan, state, width, data) for width in WIDTHS)

    def values(worth: Worth) -> Callable[[frozenset[str]], Array]:
        return lambda coalition: np.mean(
            [weights @ worth(one, data.y, overall) for one in said(coalition)], axis=0
        )

    devices = [step.device for step in split.steps]
    return {name: exact_shapley(devices, values(worth)).scores for name, worth in WORTHS.items()}


def _outputs(plan: Plan, state: ModelState, width: float, data: Samples) -> Array:
    return outputs(plan.model, width, slice_state(state, plan.model.spec, width), data.x)
