"""One cell of an experiment, as a process of its own: ``python -m slimfleet.simulation.cell``.

It is told on standard input which cell to play and where to write the result. On standard output it
says how far it is, one line of JSON each; its log goes to standard error.
"""

import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from coordinator.settings import Settings, SettingsError
from journal.disk import make_folder, write_atomically
from slimfleet.simulation.campaign import Outcome, simulate
from slimfleet.simulation.errors import SimulationError
from slimfleet.simulation.experiment import (
    Cell,
    CellData,
    Experiment,
    deal,
    fingerprint,
    read_data,
    settings_of,
)
from slimfleet.simulation.partitions import PartitionError
from slimfleet.simulation.round_facts import (
    RoundResult,
    TaskResult,
    round_results,
    task_results,
)
from slimmable.cost import payload_bytes
from slimmable.model import ModelError, load_model
from slimmable.samples import SamplesError
from slimmable.spec import SpecError
from slimmable.state import ModelState

BAD_INPUT = (SimulationError, PartitionError, SettingsError, SamplesError, ModelError, SpecError)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to play.

    Attributes:
        base: folder that the experiment's paths are relative to.
        result: file to write; keep: folder for the journal and the weights.
        workers: training processes; 0 = train in this one.
    """

    experiment: Experiment
    partition: str
    devices: int
    seed: int
    base: str
    result: str
    keep: str
    workers: int = 0


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the process.

    Attributes:
        kind: "round": so many are scored; "done"; "refused": the input is at fault; "failed".
        detail: one line for people.
    """

    kind: Literal["round", "done", "refused", "failed"]
    rounds: int = 0
    budget: int = 0
    detail: str = ""


class DeviceResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one device gave and got.

    Attributes:
        samples: that it has; widest: width that it can train; rider: kind, or ""; tier: of its
            machine, or "".
        contribution: with its 95 % interval (low, high); share: 1 is the average.
        width: that it earned, 0 = no release.
        score: of that width, as the server measured it; test_score: on the test data.
        alone: score of its own model, where the campaign measured it.
        rounds: in which its update counted.
        reason: one sentence.
    """

    device: str
    samples: int
    widest: float
    rider: str
    contribution: float
    low: float
    high: float
    share: float
    width: float
    score: float
    test_score: float | None
    alone: float | None
    rounds: int
    reason: str
    tier: str = ""


class WidthResult(msgspec.Struct, frozen=True, kw_only=True):
    """One width at the end: on the server's data with its 95 % interval, and on the test data."""

    width: float
    score: float
    low: float
    high: float
    offered: bool
    test_score: float


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell came to.

    Attributes:
        fingerprint: of the experiment that it belongs to.
        score_name: what the scores are, for example "accuracy".
        stopped, rule, note: why training ended, and how rewards were allocated.
        wall_s: seconds that the campaign took.
        tasks: of all rounds; results from before they were noted have none.
    """

    fingerprint: str
    partition: str
    seed: int
    score_name: str
    untrained: float
    stopped: str
    rule: str
    note: str
    devices: tuple[DeviceResult, ...]
    rounds: tuple[RoundResult, ...]
    widths: tuple[WidthResult, ...]
    wall_s: float
    tasks: tuple[TaskResult, ...] = ()


def play(order: Order) -> CellResult:
    """Play a cell and write its result, whole or not at all."""
    started = time.perf_counter()
    cell = Cell(order.partition, order.devices, order.seed)
    settings = settings_of(order.experiment, cell)
    dealt = deal(order.experiment, cell, *read_data(order.experiment, Path(order.base)))
    keep = Path(order.keep)
    shutil.rmtree(keep, ignore_errors=True)  # of a run that was interrupted
    with tempfile.TemporaryDirectory(prefix="slimfleet-") as scratch:
        outcome = simulate(
            settings,
            dealt.devices,
            None if settings.contributions.evaluator == "devices" else dealt.validation,
            Path(scratch) / "fleet",
            pool=dealt.pool,
            workers=order.workers,
            progress=lambda done, budget: say(Said(kind="round", rounds=done, budget=budget)),
        )
        result = _result(order, settings, dealt, outcome, time.perf_counter() - started)
        for part in ("journal", "blobs"):
            shutil.copytree(Path(scratch) / "fleet" / "server" / part, make_folder(keep) / part)
    write_atomically(Path(order.result), msgspec.json.encode(result), mode=0o644)
    return result


def _result(
    order: Order, settings: Settings, dealt: CellData, outcome: Outcome, wall_s: float
) -> CellResult:
    state = outcome.state
    scored, allocation = state.scored, state.allocation
    assert scored is not None
    assert allocation is not None
    spec = load_model(settings.model, settings.options).spec
    tasks = task_results(outcome.records, partial(payload_bytes, spec))
    name, on_test = scores_on_test(settings, outcome.final, [p.width for p in scored.curve], dealt)
    rewards = {reward.device: reward for reward in allocation.rewards}
    devices = []
    for device in dealt.devices:
        reward = rewards[device.name]
        devices.append(
            DeviceResult(
                device=device.name,
                samples=len(device.samples),
                widest=device.widest,
                rider=device.rider,
                contribution=reward.contribution,
                low=reward.low,
                high=reward.high,
                share=reward.share,
                width=reward.width,
                score=reward.score,
                test_score=on_test.get(reward.width),
                alone=reward.alone,
                rounds=state.devices[device.name].rounds_taken,
                reason=reward.reason,
                tier=device.tier.name if device.tier else "",
            )
        )
    return CellResult(
        fingerprint=fingerprint(order.experiment, Cell(order.partition, order.devices, order.seed)),
        partition=order.partition,
        seed=order.seed,
        score_name=name,
        untrained=state.untrained,
        stopped=state.stopped,
        rule=allocation.rule,
        note=allocation.note,
        devices=tuple(devices),
        rounds=round_results(outcome.records, tasks),
        widths=tuple(
            WidthResult(
                width=point.width,
                score=point.score,
                low=point.low,
                high=point.high,
                offered=point.offered,
                test_score=on_test[point.width],
            )
            for point in scored.curve
        ),
        wall_s=wall_s,
        tasks=tasks,
    )


def scores_on_test(
    settings: Settings, state: ModelState, widths: Sequence[float], dealt: CellData
) -> tuple[str, Mapping[float, float]]:
    """Return what the scores are called, and each width's on the test data.

    Statistics are calibrated on the server's data, as those of a release are.
    """
    from slimfleet.training_run import score_name
    from slimmable.evaluation import calibrated_slices, outputs

    model = load_model(settings.model, settings.options)
    slices = calibrated_slices(model, state, widths, dealt.validation.x)
    return score_name(model), {
        width: float(
            model.task.score(outputs(model, width, slices[width], dealt.test.x), dealt.test.y)
        )
        for width in widths
    }


def say(said: Said) -> None:
    """Write one line for whoever started this process."""
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Play the cell that standard input names, on the experiment's torch device."""
    from slimmable.torch_device import computing_on

    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    order = msgspec.convert(json.load(sys.stdin), Order)
    try:
        with computing_on(order.experiment.torch_device):
            play(order)
    except BAD_INPUT as error:
        say(Said(kind="refused", detail=str(error)))
    except Exception as error:  # whoever started this process reports it
        logging.getLogger(__name__).exception("the simulation failed")
        say(Said(kind="failed", detail=f"{type(error).__name__}: {error}"))
    else:
        say(Said(kind="done"))


if __name__ == "__main__":
    main()
