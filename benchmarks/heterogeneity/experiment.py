"""Run one cell: play its campaign, then judge what every round came to on data nobody saw."""

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.cell_runner import commit
from benchmarks.fairness.data import NATURAL, TASKS, Parts, load
from benchmarks.heterogeneity import campaign
from benchmarks.heterogeneity.cases import CASES, TRANSFER_WATTS, Machine
from benchmarks.heterogeneity.cells import Cell
from benchmarks.heterogeneity.costs import costs_of
from benchmarks.heterogeneity.measures import LAST
from journal.blobs import BlobFolder
from journal.chain import Record
from journal.events import RoundScored
from slimfleet.simulation.devices import SimulatedDevice
from slimfleet.simulation.round_facts import TaskResult, round_results, task_results
from slimmable.cost import payload_bytes
from slimmable.evaluation import calibrated_slices, outputs
from slimmable.model import SlimmableModel, load_model
from slimmable.samples import Samples
from slimmable.state import ModelState, decode_state

SCHEME = "dirichlet(0.5)"
DEVICES = {"fashion-mnist": 10, "watch": 8}
GLANCE = 2000  # test samples that the rounds before are judged on


def run_cell(cell: Cell, rate: float, results: Path) -> dict[str, Any]:
    """Return everything that one cell found, as it goes into its result file.

    Args:
        cell: which one.
        rate: learning rate of the first round.
        results: folder that the costs of steps are kept in.
    """
    natural = cell.data == "watch"
    scheme = NATURAL if natural else SCHEME
    parts = load(cell.data, scheme, DEVICES[cell.data], cell.seed, full=False)
    return run_on(parts, cell, rate, results)


def run_on(parts: Parts, cell: Cell, rate: float, results: Path) -> dict[str, Any]:
    """Run a cell on data that was read."""
    started = time.process_time()
    task = TASKS[cell.data]
    model = load_model(task.model, dict(task.options))
    costs = costs_of(results, cell.data, model, parts.validation, campaign.GRID, task.batch_size)
    with tempfile.TemporaryDirectory(prefix="slimfleet-") as scratch:
        folder = Path(scratch) / "fleet"
        settings, devices, outcome = campaign.play(
            model, parts, cell.as_json(), rate, costs, folder
        )
        # Learning rates are chosen on the server's data: the test data judges, and nothing else.
        judge = parts.validation if cell.tuning is not None else parts.test
        tasks = task_results(outcome.records, partial(payload_bytes, model.spec))
        rounds = round_results(outcome.records, tasks)
        scores = _scores(
            model, parts, judge, settings.widths, outcome.records, folder.with_name(campaign.KEPT)
        )
    machines = CASES[cell.case].machines(len(devices))
    opened = max((task.round for task in tasks), default=0)
    return {
        "cell": cell.as_json(),
        "commit": commit(),
        "rate": rate,
        "deadline_s": settings.rounds.deadline_s,
        "widths": list(settings.widths),
        "rounds": [msgspec.to_builtins(one) for one in rounds],
        "scores": scores,
        "devices": [
            _device(device, machine, tasks, rounds_opened=opened)
            for device, machine in zip(devices, machines, strict=True)
        ],
        "cpu_s": time.process_time() - started,
    }


def _scores(
    model: SlimmableModel,
    parts: Parts,
    judge: Samples,
    widths: Sequence[float],
    records: Sequence[Record],
    folder: Path,
) -> list[dict[str, float]]:
    """Return the score of each width after each round; of the last ones on all samples."""
    blobs = BlobFolder(folder, owner=False)
    scored = [one.event for one in records if isinstance(one.event, RoundScored)]
    rng = np.random.default_rng(0)
    glance = judge.take(np.sort(rng.permutation(len(judge))[:GLANCE]))
    return [
        _score(
            model,
            decode_state(blobs.get(event.digest)),
            widths,
            parts.validation,
            judge if len(scored) - at <= LAST else glance,
        )
        for at, event in enumerate(scored)
    ]


def _score(
    model: SlimmableModel,
    state: ModelState,
    widths: Sequence[float],
    calibration: Samples,
    judge: Samples,
) -> dict[str, float]:
    slices = calibrated_slices(model, state, widths, calibration.x)
    return {
        f"{width:g}": float(
            model.task.score(outputs(model, width, slices[width], judge.x), judge.y)
        )
        for width in widths
    }


def _device(
    device: SimulatedDevice, machine: Machine, tasks: Sequence[TaskResult], *, rounds_opened: int
) -> dict[str, Any]:
    own = [task for task in tasks if task.device == device.name]
    compute_s = sum(task.train_s or 0.0 for task in own)
    transfer_s = sum((task.download_s or 0.0) + (task.upload_s or 0.0) for task in own)
    counted = [task for task in own if task.outcome == "counted"]
    return {
        "device": device.name,
        "machine": machine.name,
        "samples": len(device.samples),
        "widths": [task.width for task in counted],
        "participation": len(counted) / rounds_opened if rounds_opened else 0.0,
        "drops": [task.outcome for task in own if task.outcome != "counted"],
        "compute_s": compute_s,
        "transfer_s": transfer_s,
        "joules": compute_s * machine.watts + transfer_s * TRANSFER_WATTS,
        "down_bytes": sum(task.downloaded_bytes for task in own),
        "up_bytes": sum(task.uploaded_bytes for task in own),
        "float32_bytes": sum(task.downloaded_float32 + task.uploaded_float32 for task in own),
    }
