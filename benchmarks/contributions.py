"""Every method of measuring contributions on the same rounds, held against exact Shapley values.

Campaigns of five honest devices and two riders on Fashion-MNIST are recorded once per partition and
training seed; then each method scores every round of them. A model that several methods evaluate is
evaluated once, and what that took is charged to each of them.
"""

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from statistics import mean
from typing import Any, TypeVar

import numpy as np

from benchmarks.arguments import positive, schemes, whole_numbers
from benchmarks.detection import auroc
from benchmarks.fairness.data import TASKS, load
from benchmarks.recorded_rounds import Member, Plan, evidence_of, record
from benchmarks.results import Cell, Result, Table
from coordinator.contribution.evidence import Array, Coalition, Evaluator
from coordinator.contribution.methods import METHODS, estimate
from coordinator.fairness import spearman
from coordinator.measuring import Validation
from slimmable.model import load_model
from slimmable.training_rule import TrainingRule

T = TypeVar("T")
Correlation = Callable[[Sequence[float], Sequence[float]], float]

HONEST = 5
RIDERS = ("label-noise", "replayed-delta")
PARTITIONS = ("homogeneous", "dirichlet(0.1)", "classes(3)", "imbalanced(0.8, 1)")
REFERENCE = "exact-shapley"
BATCH = 64
WIDTHS = (0.25, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--partitions", type=schemes, default=PARTITIONS, help="separated by semicolons"
    )
    parser.add_argument("--seeds", type=whole_numbers, default=(0, 1), help="of training")
    parser.add_argument("--rounds", type=positive, default=6, help="of each campaign")
    parser.add_argument("--steps", type=positive, default=20, help="of a device in a round")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="of local training")
    parser.add_argument("--validation", type=positive, default=250, help="images")
    parser.add_argument("--coalitions", type=positive, default=32, help="a round at most")
    parser.add_argument("--novelty", type=int, default=1, help="known changes of the model")
    parser.add_argument(
        "--by-samples",
        action="store_true",
        help="devices train one pass over their samples and count by how many they claim",
    )
    parser.add_argument("--processes", type=positive, default=2, help="that share the campaigns")


class ChargingEvaluator:
    """Evaluates each model once, and charges what it took whenever it is asked for.

    Attributes:
        charged: CPU seconds so far; spent: those that really passed.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._known: dict[Coalition | str, tuple[Any, float]] = {}
        self.charged = 0.0
        self.spent = 0.0

    def value(self, coalition: Coalition) -> Array:
        """Return v(coalition) per block, (B,)."""
        return self._once(coalition, partial(self._evaluator.value, coalition))

    def alone(self, device: str) -> Array:
        """Return the value of one device's own model, (B,)."""
        return self._once(device, partial(self._evaluator.alone, device))

    def slopes(self) -> Mapping[str, Array]:
        """Return device -> gradient times its step, (B,)."""
        return self._once("gradient of the loss", self._evaluator.slopes)

    def bends(self) -> Mapping[str, Array]:
        """Return device -> its step times the Hessian times all steps, (B,)."""
        return self._once("Hessian of the loss", self._evaluator.bends)

    def _once(self, key: Coalition | str, evaluate: Callable[[], T]) -> T:
        if key not in self._known:
            started = time.process_time()
            found = evaluate()
            took = time.process_time() - started
            self._known[key] = (found, took)
            self.spent += took
        self.charged += self._known[key][1]
        return self._known[key][0]  # type: ignore[no-any-return]


@dataclass
class Account:
    """What one method said about one campaign.

    Attributes:
        totals: device -> sum of its scores.
        evaluations, seconds: of all rounds.
    """

    totals: dict[str, float] = field(default_factory=dict)
    evaluations: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Campaign:
    """One partition and training seed: method -> account."""

    partition: str
    seed: int
    accounts: dict[str, Account]


def measure(arguments: argparse.Namespace) -> Result:
    """Record all campaigns and score them by every method."""
    jobs = [(arguments, one, seed) for one in arguments.partitions for seed in arguments.seeds]
    if arguments.processes == 1:
        campaigns = [run_campaign(*job) for job in jobs]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool:
            campaigns = list(pool.map(run_campaign, *zip(*jobs, strict=True)))
    return Result(
        name="contributions",
        summary=f"every method of contributions against {REFERENCE}, on the same rounds",
        tables=(methods_table(campaigns, arguments.rounds), partitions_table(campaigns)),
        notes=(
            (
                f"CNN of 105,866 parameters, 10,000 images; {HONEST} honest devices and as riders"
                f" {' and '.join(RIDERS)}; {arguments.rounds} rounds, novelty {arguments.novelty}"
            ),
            (
                f"{arguments.validation} validation images at widths {WIDTHS};"
                f" {arguments.coalitions} coalitions a round where a method can be held to it"
            ),
            "rank correlations of totals over a campaign, means over campaigns",
            "stability: Spearman of honest totals between training seeds on the same partition",
            "evaluations and seconds are what a method would need by itself",
        ),
    )


def run_campaign(arguments: argparse.Namespace, scheme: str, seed: int) -> Campaign:
    """Record one campaign and score it by every method, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    parts = load("fashion-mnist", scheme, HONEST + 1, 0, full=False)
    step = max(1, len(parts.validation) // arguments.validation)
    validation = Validation.of(parts.validation.take(np.arange(0, len(parts.validation), step)))
    task = TASKS["fashion-mnist"]
    rule = TrainingRule(
        steps=arguments.steps,
        batch_size=BATCH,
        learning_rate=arguments.learning_rate,
        momentum=0.9,
        weight_decay=1e-4,
        widths=WIDTHS,
    )
    model = load_model(task.model, dict(task.options))
    plan = Plan(model, rule, arguments.rounds, arguments.by_samples, seed)
    members = [
        *(Member(f"honest-{at}", samples) for at, samples in enumerate(parts.own[:-1])),
        *(Member(f"rider-{kind}", parts.own[-1], kind) for kind in RIDERS),
    ]
    accounts = {name: Account() for name in METHODS}
    for closed in record(plan, members).rounds:
        evidence, _ = evidence_of(plan, closed, validation, novelty=arguments.novelty)
        assert evidence.evaluator is not None
        charging = ChargingEvaluator(evidence.evaluator)
        evidence = replace(evidence, evaluator=charging)
        for name, account in accounts.items():
            charging.charged = charging.spent = 0.0
            started = time.process_time()
            rng = np.random.default_rng((seed, closed.number))
            scores = estimate(name, evidence, arguments.coalitions, rng)
            own = time.process_time() - started - charging.spent
            account.seconds += own + charging.charged
            account.evaluations += scores.evaluations
            for device, value in scores.scores.items():
                account.totals[device] = account.totals.get(device, 0.0) + value
    return Campaign(scheme, seed, accounts)


def methods_table(campaigns: Sequence[Campaign], rounds: int) -> Table:
    """Return one row per method, means over all campaigns."""
    rows: list[tuple[Cell, ...]] = []
    for name in METHODS:
        of = [campaign.accounts[name] for campaign in campaigns]
        rows.append(
            (
                name,
                mean(_agreement(c, name, spearman) for c in campaigns),
                mean(_agreement(c, name, kendall) for c in campaigns),
                mean(_agreement(c, name, spearman, honest=True) for c in campaigns),
                *(mean(_rider_auroc(account, kind) for account in of) for kind in RIDERS),
                _stability(campaigns, name),
                mean(account.evaluations for account in of) / rounds,
                mean(account.seconds for account in of) / rounds,
            )
        )
    columns = (
        *("method", "Spearman", "Kendall", "Spearman, honest only"),
        *(f"AUROC {kind}" for kind in RIDERS),
        *("stability", "evaluations a round", "CPU s a round"),
    )
    return Table(f"methods: agreement with {REFERENCE}, detection, cost", columns, tuple(rows))


def partitions_table(campaigns: Sequence[Campaign]) -> Table:
    """Return the agreement with exact Shapley values per method and partition."""
    partitions = list(dict.fromkeys(campaign.partition for campaign in campaigns))
    rows: list[tuple[Cell, ...]] = []
    for name in METHODS:
        cells: list[Cell] = []
        for partition in partitions:
            here = [campaign for campaign in campaigns if campaign.partition == partition]
            agreement = mean(_agreement(campaign, name, spearman) for campaign in here)
            stable = _stability(here, name)
            cells.append(f"{agreement:.2f} / {'-' if stable is None else f'{stable:.2f}'}")
        rows.append((name, *cells))
    return Table(
        "partitions: Spearman with exact / stability", ("method", *partitions), tuple(rows)
    )


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Kendall's tau-b (1945), 0 where one side is constant."""
    pairs = list(combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    both = sum(a * b for a, b in signs)
    untied = sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
    return float(both / math.sqrt(untied)) if untied else 0.0


def _agreement(
    campaign: Campaign, method: str, correlation: Correlation, *, honest: bool = False
) -> float:
    ours, exact = (campaign.accounts[name].totals for name in (method, REFERENCE))
    devices = [device for device in exact if not honest or device.startswith("honest")]
    return _defined(correlation([ours[d] for d in devices], [exact[d] for d in devices]))


def _rider_auroc(account: Account, kind: str) -> float:
    honest = [-total for device, total in account.totals.items() if device.startswith("honest")]
    area = auroc([-account.totals[f"rider-{kind}"]], honest)
    assert area is not None
    return area


def _stability(campaigns: Sequence[Campaign], method: str) -> float | None:
    """Return the mean Spearman between honest totals of two seeds on one partition."""
    found = []
    for one, other in combinations(campaigns, 2):
        if one.partition == other.partition:
            a, b = (campaign.accounts[method].totals for campaign in (one, other))
            devices = [device for device in a if device.startswith("honest")]
            found.append(_defined(spearman([a[d] for d in devices], [b[d] for d in devices])))
    return mean(found) if found else None


def _defined(correlation: float) -> float:
    """Return 0 for a correlation that is undefined: a constant tells nobody apart."""
    return correlation if math.isfinite(correlation) else 0.0
