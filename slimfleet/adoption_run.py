"""What ``slimfleet adopt`` does: read weights and data, order, distil, and write the results."""

import argparse
import csv
import hashlib
import io
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monitor.width_picture import write_width_picture
from slimfleet.config import ConfigError
from slimfleet.result_folder import fill_folder
from slimfleet.training_progress import TrainingProgress
from slimfleet.training_run import describe_data, read_data, score_name, software_facts
from slimmable.adoption import Adopted, AdoptionRule, Budget, Criterion, Progress, Stage, adopt
from slimmable.central import check_data, use_threads
from slimmable.checkpoint import read_checkpoint
from slimmable.model import SlimmableModel
from slimmable.model_check import check_model
from slimmable.samples import Samples
from slimmable.state import ModelState, encode_state
from slimmable.width import WidthError, WidthGrid

STATE, REPORT = "adopted.safetensors", "adopted.json"
TABLE, PICTURE = "curve.csv", "curve.png"
FORMAT = 1
PARTS = 100  # of a budget, which the progress counts
SAID = 10  # of these, between two lines where there is no terminal


@dataclass(frozen=True)
class AdoptionPlan:
    """Everything that is decided before the work begins.

    Attributes:
        model: what is adopted.
        dense: its full-width state dict, as it was given.
        training, validation: samples of different recordings.
        rule: how.
        seed: of batches and widths.
        threads: that torch computes with.
        data: where samples and weights came from, for the report.
    """

    model: SlimmableModel
    dense: ModelState
    training: Samples
    validation: Samples
    rule: AdoptionRule
    seed: int
    threads: int
    data: dict[str, Any]


def plan_adoption(arguments: argparse.Namespace, model: SlimmableModel) -> AdoptionPlan:
    """Read weights and data and check everything that can be known before the work begins.

    Raises:
        ConfigError: widths or numbers with which no network can be trained.
        CheckpointError: the weights are of another model, or none.
        SamplesError: the data cannot be read or does not fit the model.
        ModelError: the model does not keep its promises, or cannot be trained here.
    """
    use_threads(threads := arguments.threads or os.cpu_count() or 1)
    rule = _rule(arguments)
    dense = read_checkpoint(arguments.checkpoint, model.spec)
    training, validation = read_data(arguments)
    check_data(model, training, "training data")
    check_data(model, validation, "validation data")
    check_model(model, rule.widths)
    return AdoptionPlan(
        model=model,
        dense=dense,
        training=training,
        validation=validation,
        rule=rule,
        seed=arguments.seed,
        threads=threads,
        data=describe_data(arguments, training, validation),
    )


def run(plan: AdoptionPlan) -> Adopted:
    """Adopt the network and show the progress.

    Raises:
        DivergenceError: the loss or a weight became NaN or infinite.
        TaskError: the network's outputs do not fit the targets.
    """
    with TrainingProgress(PARTS, score_name(plan.model)) as progress:
        progress.say(
            f"{plan.model.name}: {len(plan.training)} samples to train on,"
            f" {len(plan.validation)} of other recordings to measure on"
        )
        return adopt(
            plan.model,
            plan.dense,
            plan.training,
            plan.validation,
            plan.rule,
            np.random.default_rng(plan.seed),
            time.process_time,
            _Teller(progress).tell,
        )


class _Teller:
    """Turns what an adoption reports into lines and the length of a bar."""

    def __init__(self, progress: TrainingProgress) -> None:
        self._progress = progress
        self._said = 0

    def tell(self, reached: Progress) -> None:
        if reached.scores:
            scores = "  ".join(f"{row.width:g}: {row.score:.3f}" for row in reached.scores)
            self._progress.say(f"{reached.stage + ':':<10} {scores}")
            return
        done = min(PARTS, int(PARTS * reached.share))
        self._progress.after_step(done, reached.loss)
        if done >= self._said + SAID and not self._progress.has_bar:
            self._said = done - done % SAID
            self._progress.say(
                f"distilling: {done} % of the budget, step {reached.step}, loss {reached.loss:.3f}"
            )


def write_results(
    folder: Path, plan: AdoptionPlan, adopted: Adopted, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write all files and return what stands in the report, see `fill_folder`.

    Raises:
        ConfigError: the folder cannot be written to any more.
    """
    payload = encode_state(adopted.state)
    report = _report(plan, adopted, settings, payload)
    files = {STATE: payload, TABLE: _as_csv(report["widths"])}
    fill_folder(folder, files, (PICTURE, partial(_draw, plan, adopted)), (REPORT, report))
    return report


def _rule(arguments: argparse.Namespace) -> AdoptionRule:
    try:
        rule = AdoptionRule(
            widths=WidthGrid(arguments.widths).widths,
            budget=(
                Budget(steps=arguments.steps)
                if arguments.steps
                else Budget(seconds=arguments.budget)
            ),
            criterion=Criterion(arguments.importance),
            distillation=arguments.distillation,
            width_rule=arguments.rule,
            batch_size=arguments.batch,
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
        )
        rule.training()
    except (WidthError, ValueError) as error:
        raise ConfigError(str(error)) from error
    return rule


def _draw(plan: AdoptionPlan, adopted: Adopted, path: Path) -> None:
    curves = {str(stage): scores for stage, scores in adopted.curves.items()}
    write_width_picture(path, curves, score_name(plan.model))


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("width", "parameters", *(stage.replace(" ", "_") for stage in Stage)))
    for row in rows:
        scores = (f"{row['scores'][stage]:.6g}" for stage in Stage)
        writer.writerow((f"{row['width']:g}", row["parameters"], *scores))
    return text.getvalue().encode()


def _report(
    plan: AdoptionPlan, adopted: Adopted, settings: dict[str, Any], payload: bytes
) -> dict[str, Any]:
    spec = plan.model.spec
    stages = {stage: {row.width: row for row in adopted.curves[stage]} for stage in Stage}
    return {
        "format": FORMAT,
        **settings,
        "task": str(plan.model.task.kind),
        "classes": list(plan.model.task.classes),
        "spec_hash": spec.spec_hash,
        "state": {"file": STATE, "digest": hashlib.sha256(payload).hexdigest()},
        "data": plan.data,
        "rule": {**asdict(plan.rule), "budget": _budget(plan.rule.budget)},
        "seed": plan.seed,
        "threads": plan.threads,
        "steps": adopted.steps,
        "cpu_seconds": round(adopted.seconds, 2),
        "score": score_name(plan.model),
        "dense_score": adopted.dense_score,
        "not_ordered": list(adopted.unmovable),
        "ordering_difference": adopted.difference,
        "widths": [
            {
                "width": width,
                "parameters": spec.parameter_count(width),
                "scores": {str(stage): stages[stage][width].score for stage in Stage},
                "losses": {str(stage): stages[stage][width].loss for stage in Stage},
            }
            for width in plan.rule.widths
        ],
        "software": software_facts(),
    }


def _budget(budget: Budget) -> dict[str, float]:
    return {name: value for name, value in asdict(budget).items() if value is not None}
