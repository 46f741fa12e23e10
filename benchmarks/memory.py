"""Are the file sizes and the memory that `slimfleet inspect` predicts those that come?

Every width is exported, then trained and run in fresh processes, whose peak resident memory the
kernel counts. Imports torch only in those processes and in the functions that need it: what a
child process imports counts.
"""

import argparse
import importlib
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import numbers
from benchmarks.errors import BenchmarkError
from benchmarks.results import Ratio, Result, Table
from profiler.prediction import MIB

CLASSES = [str(number) for number in range(10)]
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn1d": ("cnn1d", {"classes": CLASSES, "sensors": 6, "length": 100}),
    "cnn2d": ("cnn2d", {"classes": CLASSES}),
    "resnet18": ("resnet18", {"classes": CLASSES}),
    "resnet18-96": ("resnet18", {"classes": CLASSES, "image_size": 96}),
}
QUICK = "cnn1d,cnn2d,resnet18"
RUNS = 3
KIB = 1024
LOWEST, HIGHEST = 0.8, 1.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--models", default=QUICK, metavar="A,B", help=f"some of {', '.join(OPTIONS)}"
    )
    parser.add_argument("--widths", type=numbers, default=(0.25, 0.5, 1.0), help="which widths")


@dataclass(frozen=True)
class Pair:
    """A predicted and a measured number of bytes."""

    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured


@dataclass(frozen=True)
class Row:
    """One width of one network."""

    model: str
    width: float
    file: Pair
    training: Pair
    inference: Pair


def measure(arguments: argparse.Namespace) -> Result:
    """Compare predictions with what comes.

    Raises:
        BenchmarkError: there is no such network.
    """
    labels = arguments.models.split(",")
    unknown = sorted(set(labels) - set(OPTIONS))
    if unknown:
        raise BenchmarkError(f"no network {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for label in labels
            for row in _measure_model(label, tuple(sorted(set(arguments.widths))), Path(folder))
        ]
    return Result(
        name="memory",
        summary="predicted against measured file size and peak memory of every width",
        tables=(_table(rows),),
        ratios=tuple(
            ratio
            for kind in ("file", "training", "inference")
            for ratio in _extremes(kind, [getattr(row, kind) for row in rows])
        ),
        notes=("Peaks are of whole processes: Python, PyTorch or ONNX Runtime included.",),
    )


def _measure_model(label: str, widths: tuple[float, ...], folder: Path) -> list[Row]:
    name, options = OPTIONS[label]
    predicted = _in_fresh_process(_predict, name, options, widths)
    rows = []
    for width, (file, training, inference) in zip(widths, predicted, strict=True):
        path = folder / f"{label}-{width}.onnx"
        size = _in_fresh_process(_export, name, options, width, path)
        rows.append(
            Row(
                model=label,
                width=width,
                file=Pair(file, size),
                training=Pair(training, _in_fresh_process(_train, name, options, width)),
                inference=Pair(inference, _in_fresh_process(_infer, path)),
            )
        )
    return rows


def _in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def _predict(
    name: str, options: dict[str, Any], widths: tuple[float, ...]
) -> list[tuple[int, int, int]]:
    from slimfleet.width_figures import width_figures
    from slimmable.model import load_model

    offered = tuple(sorted({*widths, 1.0}))
    figures, _ = width_figures(load_model(name, options), offered)
    return [
        (one.file_bytes, one.training_bytes, one.inference_bytes)
        for one in figures
        if one.width in widths
    ]


def _export(name: str, options: dict[str, Any], width: float, path: Path) -> int:
    from exporter.export import export_width
    from exporter.templates import TemplateCache
    from slimmable.evaluation import initial_state
    from slimmable.model import load_model
    from slimmable.slicing import slice_state

    model = load_model(name, options)
    state = slice_state(initial_state(model, 0), model.spec, width)
    path.write_bytes(export_width(model, width, state, TemplateCache(path.parent)).onnx)
    return path.stat().st_size


def _train(name: str, options: dict[str, Any], width: float) -> int:
    from profiler.benchmark import BenchmarkSettings, run_benchmark
    from slimfleet.width_figures import TRAINING_BATCH
    from slimmable.model import load_model
    from slimmable.samples import Samples

    model = load_model(name, options)
    count = np.arange(TRAINING_BATCH)
    x = np.zeros((TRAINING_BATCH, *model.input_shape), np.float32)
    samples = Samples(x, count % len(model.task.classes), count)
    settings = BenchmarkSettings((width,), TRAINING_BATCH)
    return run_benchmark(model, samples, settings).costs[0].peak_bytes


def _infer(path: Path) -> int:
    import onnxruntime

    from profiler.resident_memory import PeakMeter

    importlib.import_module("edge_agent.inference")  # its memory counts
    meter = PeakMeter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    given = session.get_inputs()[0]
    x = np.zeros((1, *given.shape[1:]), np.float32)
    for _ in range(RUNS):
        session.run(None, {given.name: x})
    return meter.peak()


def _table(rows: list[Row]) -> Table:
    return Table(
        title="predicted and measured",
        columns=(
            "model",
            "width",
            "file KiB",
            "file came",
            "training MiB",
            "training came",
            "inference MiB",
            "inference came",
        ),
        rows=tuple(
            (
                row.model,
                row.width,
                row.file.predicted / KIB,
                row.file.measured / KIB,
                row.training.predicted / MIB,
                row.training.measured / MIB,
                row.inference.predicted / MIB,
                row.inference.measured / MIB,
            )
            for row in rows
        ),
    )


def _extremes(kind: str, pairs: list[Pair]) -> list[Ratio]:
    lowest = min(pairs, key=lambda pair: pair.ratio)
    highest = max(pairs, key=lambda pair: pair.ratio)
    return [
        Ratio(
            f"{kind}, {which} prediction",
            one.predicted / KIB,
            "measured",
            one.measured / KIB,
            "KiB",
            LOWEST,
            HIGHEST,
        )
        for which, one in (("lowest", lowest), ("highest", highest))
    ]
