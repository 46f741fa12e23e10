"""Run one cell: every method on the same data, from the same weights, for as many epochs."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from benchmarks.cell_runner import commit
from benchmarks.fairness.cells import ROUNDS, Cell
from benchmarks.fairness.data import TASKS, Parts, Task, load
from benchmarks.fairness.fleet import Fleet, Rewards
from benchmarks.fairness.methods import aequa, cgsv, fedavg, fedavg_ft, iafl, shapfed, stand_alone
from coordinator.measuring import block_weights
from slimmable.evaluation import initial_state, outputs
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.state import ModelState
from slimmable.training import DivergenceError

T = TypeVar("T")
AGAIN = 2  # independent trainings that contributions are judged by
HALVINGS = 3  # of a learning rate that was too high
METHODS = ("aequa", "fedavg", "fedavg-ft", "cgsv", "iafl", "shapfed", "stand-alone")
"""Those with a step size of their own; the variants of Aequa share one."""


def step_sizes(task: Task) -> dict[str, tuple[float, ...]]:
    """Return what each method may choose from: three learning rates, for CGSV three lengths."""
    sizes: dict[str, tuple[float, ...]] = dict.fromkeys(METHODS, task.rates)
    # A step of several widths averages their losses, so what only the widest holds moves less.
    sizes["aequa"] = tuple(2 * rate for rate in task.rates)
    return {**sizes, "cgsv": cgsv.LENGTHS}


def run_cell(cell: Cell, sizes: Mapping[str, float], rounds: int = ROUNDS) -> dict[str, Any]:
    """Return everything that one cell found, as it goes into its result file.

    Args:
        cell: which one.
        sizes: method -> learning rate, for CGSV the length of an upload.
        rounds: of training.
    """
    honest = cell.participants - bool(cell.rider)
    parts = load(cell.data, cell.scheme, honest, cell.seed, full=cell.full)
    return run_on(parts, cell, sizes, rounds)


def run_on(parts: Parts, cell: Cell, sizes: Mapping[str, float], rounds: int) -> dict[str, Any]:
    """Run a cell on data that was read."""
    started = time.process_time()
    task = TASKS[cell.data]
    model = load_model(task.model, dict(task.options))
    fleet = Fleet(
        task=task,
        model=model,
        parts=parts,
        initial=initial_state(model, cell.seed),
        rounds=rounds,
        rate=0.0,
        seed=cell.seed,
        rider=cell.rider,
    )
    # Learning rates are chosen on the server's data: the test data judges, and nothing else.
    judge = Judge(fleet, parts.validation if cell.tuning is not None else parts.test)
    rate = {method: replace(fleet, rate=sizes[method]) for method in METHODS}

    own, seconds = _stable(rate["stand-alone"], lambda f: stand_alone.stand_alone(f, 0))
    again = [
        judge.measured(stand_alone.rewards(models), 0.0)["reward"]
        for stream in range(1, 1 + (AGAIN if cell.tuning is None else 0))
        for models, _ in [
            _stable(rate["stand-alone"], partial(stand_alone.stand_alone, stream=stream))
        ]
    ]
    alone = [_alone(fleet, state) for state in own]
    curves: dict[str, Any] = {}
    found = {
        "stand-alone": judge.measured(stand_alone.rewards(own), seconds),
        **_baselines(rate, tuple(one.score for one in alone), judge),
        **_aequa(rate["aequa"], alone, judge, curves, training_time=cell.training_time),
    }
    return {
        "cell": cell.as_json(),
        "commit": commit(),
        "rewarded_by": commit(),
        "sizes": dict(sizes),
        "rounds": rounds,
        "steps": [fleet.steps(who) for who in range(len(fleet))],
        "samples": [len(samples) for samples in parts.own],
        "contributions": again,
        "alone": msgspec.to_builtins(alone),
        "untrained": judge.accuracy(fleet.initial, 1.0),
        **curves,
        "methods": found,
        "cpu_s": time.process_time() - started,
    }


class Judge:
    """Measures models on data that no method saw; each model and width once."""

    def __init__(self, fleet: Fleet, data: Samples) -> None:
        """Take the data that judges."""
        self._fleet, self._data = fleet, data
        # The states are kept: an identity would otherwise be given away again.
        self._known: dict[tuple[int, float], tuple[ModelState, float]] = {}

    def accuracy(self, state: ModelState, width: float) -> float:
        """Return what a full state scores at a width."""
        key = (id(state), width)
        if key not in self._known:
            self._known[key] = (state, self._fleet.accuracy(state, self._data, width))
        return self._known[key][1]

    def measured(self, rewards: Rewards, seconds: float) -> dict[str, Any]:
        """Return a method's entry of the result file; ``seconds`` of CPU time it took to train."""
        pairs = zip(rewards.models, rewards.widths, strict=True)
        return {
            "reward": [None if s is None else self.accuracy(s, width) for s, width in pairs],
            "width": list(rewards.widths),
            "sent": rewards.sent,
            "received": rewards.received,
            "published": rewards.published,
            "cpu_s": seconds,
            "notes": rewards.notes,
        }


def _baselines(
    rate: Mapping[str, Fleet], alone: tuple[float, ...], judge: Judge
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with _may_diverge():
        state, seconds = _stable(rate["fedavg"], fedavg.fedavg)
        found["fedavg"] = judge.measured(fedavg.rewards(rate["fedavg"], state), seconds)
        tuned, more = _stable(rate["fedavg-ft"], lambda f: fedavg_ft.rewards(f, state))
        found["fedavg-ft"] = judge.measured(tuned, seconds + more)
    # CGSV's uploads have one length whatever the learning rate: it takes that of FedAvg.
    length = rate["cgsv"].rate
    runs: dict[str, tuple[Fleet, Callable[[Fleet], Rewards]]] = {
        "cgsv": (rate["fedavg"], lambda f: cgsv.rewards(f, length)),
        "iafl": (replace(rate["iafl"], alone=alone), iafl.rewards),
        "shapfed": (rate["shapfed"], shapfed.rewards),
    }
    for name, (chosen, run) in runs.items():
        with _may_diverge():
            found[name] = judge.measured(*_stable(chosen, run))
    return found


def _aequa(
    fleet: Fleet,
    alone: Sequence[aequa.Alone],
    judge: Judge,
    curves: dict[str, Any],
    *,
    training_time: bool,
) -> dict[str, dict[str, Any]]:
    """Return the entries of all variants; what was measured over width goes into ``curves``."""
    found: dict[str, dict[str, Any]] = {}
    with _may_diverge(), tempfile.TemporaryDirectory() as folder:
        trained, seconds = _stable(fleet, _train("post-training", Path(folder)))
        standing, spec = trained.standing, fleet.model.spec
        for name, rewards in aequa.post_training(standing, alone, spec, trained.weights).items():
            found[name] = judge.measured(rewards, seconds)
        curves |= {
            "standing": msgspec.to_builtins(standing),
            "scoring_cpu_s": trained.seconds,
            "method": trained.method,
            "curve": [
                {
                    "width": point.width,
                    "test": judge.accuracy(trained.weights, point.width),
                    "validation": point.score,
                    "fitted": point.fitted,
                    "offered": point.offered,
                }
                for point in standing.curve
            ],
        }
    if training_time:
        with _may_diverge(), tempfile.TemporaryDirectory() as folder:
            trained, seconds = _stable(fleet, _train("training-time", Path(folder)))
            late = aequa.in_training(trained, alone, fleet.model.spec)
            found[aequa.TRAINING_TIME] = judge.measured(late, seconds)
    return found


def _train(mode: str, folder: Path) -> Callable[[Fleet], aequa.Trained]:
    return lambda fleet: aequa.train(fleet, mode, folder / f"rate-{fleet.rate:g}")


def _stable(fleet: Fleet, run: Callable[[Fleet], T]) -> tuple[T, float]:
    """Return what a method trained and the CPU seconds; at half the rate where it diverges.

    Learning rates are chosen on one partition; on a more uneven one they may be too high.
    """
    started = time.process_time()
    for halving in range(HALVINGS):
        with suppress(DivergenceError):
            return run(replace(fleet, rate=fleet.rate / 2**halving)), time.process_time() - started
    return run(replace(fleet, rate=fleet.rate / 2**HALVINGS)), time.process_time() - started


def _may_diverge() -> AbstractContextManager[None]:
    """Leave a method out of the result where its training diverged: the report shows the gap."""
    return suppress(DivergenceError)


def _alone(fleet: Fleet, state: ModelState) -> aequa.Alone:
    data = fleet.parts.validation
    said = outputs(fleet.model, 1.0, state, data.x)
    correct = np.asarray(fleet.model.task.sample_scores(said, data.y), dtype=np.float64)
    blocks = block_weights(data, fleet.model.task) @ correct
    return aequa.Alone(float(blocks.mean()), tuple(blocks.tolist()))
