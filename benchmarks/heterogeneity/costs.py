"""What a training step costs at each width: measured once, kept beside the results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cell_runner import commit, write_json
from benchmarks.machine import describe_machine
from profiler.benchmark import BenchmarkSettings, run_benchmark, saved_activation_bytes
from profiler.prediction import ACTIVATION_COPIES, PARAMETER_COPIES
from slimmable.cost import model_bytes
from slimmable.model import SlimmableModel
from slimmable.samples import Samples

REPEATS = 7
CPU_SECONDS = 1.0  # emulated seconds a CPU second: what else the machine does is not timed
Costs = Mapping[str, Any]


def costs_of(
    results: Path,
    data: str,
    model: SlimmableModel,
    samples: Samples,
    widths: tuple[float, ...],
    batch_size: int,
) -> Costs:
    """Return what steps of a network cost, measured where that is not known yet.

    Args:
        results: folder; all cells there take the same figures.
        data: name of the data set.
        model: network.
        samples: to train on.
        widths: ascending.
        batch_size: of a step.

    Returns:
        ``step_s`` (CPU seconds) and ``training_bytes`` (parameters and saved activations with the
        copies that `profiler.prediction` counts, above an idle process), one for each of
        ``widths``.
    """
    file = results / "costs.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    if data not in known:
        known[data] = _measured(model, samples, widths, batch_size)
        write_json(file, known)
    found: Costs = known[data]
    return found


def _measured(
    model: SlimmableModel, samples: Samples, widths: tuple[float, ...], batch_size: int
) -> dict[str, Any]:
    settings = BenchmarkSettings(widths, batch_size, factor=CPU_SECONDS)
    runs = [run_benchmark(model, samples, settings).costs for _ in range(REPEATS)]
    batch = samples.take(np.arange(batch_size))
    return {
        "widths": widths,
        "step_s": [min(cost.step_s for cost in costs) for costs in zip(*runs, strict=True)],
        "training_bytes": [
            PARAMETER_COPIES * model_bytes(model.spec, width)
            + ACTIVATION_COPIES * saved_activation_bytes(model, width, batch)
            for width in widths
        ],
        "machine": describe_machine(),
        "commit": commit(),
    }
