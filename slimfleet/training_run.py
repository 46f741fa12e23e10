"""What ``slimfleet train`` does: read the data, train, and write the results."""

import argparse
import hashlib
import os
import platform
import time
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from monitor.width_picture import write_width_picture
from slimfleet import __version__
from slimfleet.config import ConfigError
from slimfleet.result_folder import fill_folder
from slimfleet.training_progress import TrainingProgress
from slimmable.central import check_data, train_centrally, use_threads
from slimmable.checkpoint import read_checkpoint
from slimmable.evaluation import initial_state
from slimmable.model import SlimmableModel
from slimmable.model_check import check_model
from slimmable.readers import read_samples
from slimmable.samples import Samples, SamplesError, hold_out
from slimmable.state import ModelState, encode_state
from slimmable.task import TaskKind
from slimmable.training_rule import TrainingRule
from slimmable.width import WidthError, WidthGrid
from slimmable.width_scores import Measurement, as_csv

STATE, REPORT, TABLE, PICTURE = "state.safetensors", "training.json", "curve.csv", "curve.png"
FORMAT = 1
MEASUREMENTS = 10  # in the course of a training, where nothing else is asked for


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that is decided before the first step.

    Attributes:
        model: what is trained.
        start: full-width state dict of the first step.
        training, validation: samples of different recordings.
        rule: how.
        seed: of first weights, batches and widths.
        threads: that torch computes with.
        measure_every: steps between two measurements.
        data: where the samples came from, for the report.
    """

    model: SlimmableModel
    start: ModelState
    training: Samples
    validation: Samples
    rule: TrainingRule
    seed: int
    threads: int
    measure_every: int
    data: dict[str, Any]

    @property
    def score_name(self) -> str:
        """What the score is."""
        return score_name(self.model)


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        state: full width, with its own statistics.
        measurements: the last one is of the last step.
        parameter_counts: per measured width.
        seconds, cpu_seconds: of steps and measurements.
    """

    state: ModelState
    measurements: tuple[Measurement, ...]
    parameter_counts: tuple[int, ...]
    seconds: float
    cpu_seconds: float


def plan_run(arguments: argparse.Namespace, model: SlimmableModel) -> TrainingPlan:
    """Read the data and check everything that can be known before training.

    Raises:
        ConfigError: widths or numbers with which no network can be trained.
        SamplesError: the data cannot be read or does not fit the model.
        ModelError: the model does not keep its promises, or cannot be trained here.
        CheckpointError: the weights to start from are of another model, or none.
    """
    use_threads(threads := arguments.threads or os.cpu_count() or 1)
    training, validation = read_data(arguments)
    check_data(model, training, "training data")
    check_data(model, validation, "validation data")
    rule = _rule(arguments, len(training))
    check_model(model, rule.widths)
    start = (
        initial_state(model, arguments.seed)
        if arguments.checkpoint is None
        else read_checkpoint(arguments.checkpoint, model.spec)
    )
    return TrainingPlan(
        model=model,
        start=start,
        training=training,
        validation=validation,
        rule=rule,
        seed=arguments.seed,
        threads=threads,
        measure_every=arguments.measure_every or max(1, rule.steps // MEASUREMENTS),
        data=describe_data(arguments, training, validation),
    )


def score_name(model: SlimmableModel) -> str:
    """Return what the score of a model's task is."""
    classifies = model.task.kind is TaskKind.CLASSIFICATION
    return "accuracy" if classifies else "explained variance"


def run(plan: TrainingPlan) -> Trained:
    """Train and show the progress.

    Raises:
        DivergenceError: the loss or a weight became NaN or infinite.
        TaskError: the network's outputs do not fit the targets.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    with TrainingProgress(plan.rule.steps, plan.score_name) as progress:
        progress.say(
            f"{plan.model.name}: {len(plan.training)} samples to train on,"
            f" {len(plan.validation)} of other recordings to measure on;"
            f" {plan.rule.steps} steps, {plan.rule.rule}"
        )
        state, measurements = train_centrally(
            plan.model,
            plan.start,
            plan.training,
            plan.validation,
            plan.rule,
            np.random.default_rng(plan.seed),
            measure_every=plan.measure_every,
            after_step=progress.after_step,
            after_measurement=progress.after_measurement,
        )
    counts = tuple(plan.model.spec.parameter_count(row.width) for row in measurements[-1].scores)
    return Trained(
        state,
        measurements,
        counts,
        time.perf_counter() - started,
        time.process_time() - cpu_started,
    )


def write_results(
    folder: Path, plan: TrainingPlan, trained: Trained, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write all files and return what stands in the report, see `fill_folder`.

    Raises:
        ConfigError: the folder cannot be written to any more.
    """
    payload = encode_state(trained.state)
    report = _report(plan, trained, settings, payload)
    files = {STATE: payload, TABLE: as_csv(trained.measurements)}
    fill_folder(folder, files, (PICTURE, partial(_draw, plan, trained)), (REPORT, report))
    return report


def _draw(plan: TrainingPlan, trained: Trained, path: Path) -> None:
    curves = {"trained": trained.measurements[-1].scores}
    write_width_picture(path, curves, plan.score_name, trained.measurements)


def read_data(arguments: argparse.Namespace) -> tuple[Samples, Samples]:
    """Return what trains and what measures, as the arguments say.

    Raises:
        SamplesError: a file cannot be read, or there is too little in it to keep some back.
    """
    samples = read_samples(arguments.data, arguments.reader, arguments.reader_options)
    if arguments.validation is None:
        try:
            return hold_out(samples, arguments.validation_share)
        except SamplesError as error:
            raise SamplesError(f"{arguments.data}: {error}") from error
    return samples, read_samples(arguments.validation, arguments.reader, arguments.reader_options)


def _rule(arguments: argparse.Namespace, samples: int) -> TrainingRule:
    passes = max(1, samples // arguments.batch)  # what does not fill a batch waits for another pass
    try:
        return TrainingRule(
            steps=arguments.steps or arguments.epochs * passes,
            batch_size=arguments.batch,
            learning_rate=arguments.learning_rate,
            momentum=arguments.momentum,
            weight_decay=arguments.weight_decay,
            widths=WidthGrid(arguments.widths).widths,
            rule=arguments.rule,
            random_widths=arguments.random_widths,
            draw_weights=arguments.draw_weights,
            widest_share=arguments.widest_share,
            distillation=arguments.distillation,
            schedule=arguments.schedule,
            warm_up=arguments.warm_up,
            gradient_norm=arguments.gradient_norm,
        )
    except (WidthError, ValueError) as error:
        raise ConfigError(str(error)) from error


def describe_data(
    arguments: argparse.Namespace, training: Samples, validation: Samples
) -> dict[str, Any]:
    """Return where data and first weights came from, for a report."""
    return {
        "training": {"path": str(arguments.data), **_facts(training)},
        "validation": {
            "path": str(arguments.validation or arguments.data),
            "share": None if arguments.validation else arguments.validation_share,
            **_facts(validation),
        },
        "reader": arguments.reader,
        "reader_options": arguments.reader_options,
        "checkpoint": str(arguments.checkpoint) if arguments.checkpoint else None,
    }


def _facts(samples: Samples) -> dict[str, Any]:
    found = hashlib.sha256()
    for array in (samples.x, samples.y, samples.recording):
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return {
        "samples": len(samples),
        "recordings": len(np.unique(samples.recording)),
        "digest": found.hexdigest(),
    }


def _report(
    plan: TrainingPlan, trained: Trained, settings: dict[str, Any], payload: bytes
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **settings,
        "task": str(plan.model.task.kind),
        "classes": list(plan.model.task.classes),
        "spec_hash": plan.model.spec.spec_hash,
        "state": {
            "file": STATE,
            "digest": hashlib.sha256(payload).hexdigest(),
            "step": trained.measurements[-1].step,
        },
        "data": plan.data,
        "rule": asdict(plan.rule),
        "seed": plan.seed,
        "threads": plan.threads,
        "seconds": round(trained.seconds, 2),
        "cpu_seconds": round(trained.cpu_seconds, 2),
        "score": plan.score_name,
        "widths": [
            {**asdict(row), "parameters": count}
            for row, count in zip(
                trained.measurements[-1].scores, trained.parameter_counts, strict=True
            )
        ],
        "software": software_facts(),
    }


def software_facts() -> dict[str, str]:
    """Return the versions that a result may depend on, for a report."""
    return {
        "python": platform.python_version(),
        "slimfleet": __version__,
        **{name: version(name) for name in ("torch", "numpy")},
    }
