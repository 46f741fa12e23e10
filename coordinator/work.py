"""The slow jobs of the coordinator, run in a worker process: describe, initialise, score, export.

Each job is a value that names its inputs by digest and returns plain facts; weights go through the
blob folder. Imports torch, so the server's own process never imports this module.
"""

import json
import logging
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

from coordinator.aggregation import DeviceUpdate, combine, steps_of
from coordinator.bench import Bench, ExportJob, ExportResult, RoundResult, ScoreJob, UpdateFile
from coordinator.comparison import difference
from coordinator.contribution.evidence import Evidence
from coordinator.contribution.methods import estimate
from coordinator.curve import score_curve
from coordinator.measuring import (
    RoundEvaluator,
    Validation,
    outputs_per_width,
    sample_values,
)
from exporter.export import export_width
from exporter.manifest import manifest_for
from exporter.templates import TemplateCache
from exporter.templates import warm_templates as make_templates
from journal.blobs import BlobFolder
from journal.events import Contribution
from slimmable.evaluation import calibrate, calibrated_slices, initial_state
from slimmable.model import SlimmableModel, load_model
from slimmable.model_check import check_model
from slimmable.readers import read_samples
from slimmable.state import ModelState, decode_state, encode_state

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _model(model: str, options: str) -> SlimmableModel:
    import torch

    torch.set_num_threads(1)
    return load_model(model, json.loads(options))


def _load(bench: Bench) -> SlimmableModel:
    return _model(bench.model, json.dumps(bench.options, sort_keys=True))


def _validation(bench: Bench) -> Validation:
    return _read_validation(
        bench.validation, bench.reader, json.dumps(bench.reader_options, sort_keys=True)
    )


@lru_cache(maxsize=1)
def _read_validation(path: Path, reader: str, options: str) -> Validation:
    return Validation.of(read_samples(path, reader, json.loads(options)))


def describe(bench: Bench) -> bytes:
    """Return the width spec of the model in its JSON form; proves that model and data load."""
    model, validation = _load(bench), _validation(bench)
    model.task.check_targets(validation.samples.y)
    check_model(model, sorted({*bench.grid, *bench.ladder}))
    return model.spec.to_json()


def initialise(bench: Bench) -> tuple[str, float]:
    """Make the initial weights; returns their digest and their score at full width."""
    model, validation = _load(bench), _validation(bench)
    state = initial_state(model, bench.seed)
    said = outputs_per_width(model, state, (1.0,), validation)[1.0]
    score = model.task.score(said, validation.samples.y)
    if not np.isfinite(score):
        raise ValueError(f"the untrained model scores {score}: check the scale of its inputs")
    digest = BlobFolder(bench.blobs, owner=False).put(encode_state(state))
    return digest, score


def score_round(bench: Bench, job: ScoreJob) -> RoundResult:
    """Aggregate the updates, measure every width, and score every device."""
    started = time.process_time()
    model, blobs = _load(bench), BlobFolder(bench.blobs, owner=False)
    validation = _validation(bench)
    data = validation.samples
    base = decode_state(blobs.get(job.base))
    steps = steps_of(base, model.spec, [_read_update(blobs, update) for update in job.updates])
    state = combine(base, model.spec, steps)
    broken = [name for name in model.spec.parameters if not np.isfinite(state[name]).all()]
    if broken:
        raise ValueError(f"the aggregate of round {job.round} is not finite in {broken[0]!r}")
    said = outputs_per_width(model, state, sorted({*bench.grid, *bench.ladder}), validation)
    rng = np.random.default_rng((bench.seed, job.round))
    evidence = Evidence(
        devices=tuple(step.device for step in steps),
        evaluator=RoundEvaluator(model, base, steps, bench.grid, validation),
        samples={update.device: update.samples for update in job.updates},
        rounds={update.device: update.rounds for update in job.updates},
    )
    scores = estimate(job.method, evidence, job.coalitions, rng)
    best = decode_state(blobs.get(job.best))
    before = outputs_per_width(model, best, bench.grid, validation)
    gain = difference(
        sample_values(model, said, bench.grid, data),
        sample_values(model, before, bench.grid, data),
        data.recording,
        rng,
    )
    return RoundResult(
        digest=blobs.put(encode_state(_calibrated_at_full(model, state, validation))),
        curve=score_curve(
            {width: model.task.sample_scores(said[width], data.y) for width in said},
            data.recording,
            rng,
        ),
        contributions=tuple(
            Contribution(
                device=u.device,
                score=scores.scores[u.device],
                update=u.digest,
                blocks=scores.blocks.get(u.device, ()),
            )
            for u in job.updates
        ),
        method=scores.method,
        value_before=scores.before,
        value_after=scores.after,
        coalitions=scores.evaluations,
        seconds=time.process_time() - started,
        better=gain.low > 0,
    )


def _read_update(blobs: BlobFolder, update: UpdateFile) -> DeviceUpdate:
    state = decode_state(blobs.get(update.digest))
    return DeviceUpdate(update.device, update.width, state, update.weight)


def _calibrated_at_full(
    model: SlimmableModel, state: ModelState, validation: Validation
) -> ModelState:
    """Return the state with the statistics of its full width, for whoever loads it as it is."""
    return {**state, **calibrate(model, 1.0, state, validation.samples.x)}


def warm_templates(bench: Bench) -> float:
    """Make the ONNX templates of the whole ladder ahead of time; returns CPU seconds used."""
    started = time.process_time()
    make_templates(_load(bench), bench.ladder, TemplateCache(bench.templates))
    return time.process_time() - started


def export_widths(bench: Bench, job: ExportJob) -> ExportResult:
    """Export each width as a parity-checked ONNX file into the blob folder.

    Scores are cross-fitted; the statistics that travel are calibrated on all validation inputs.
    """
    model, blobs = _load(bench), BlobFolder(bench.blobs, owner=False)
    validation = _validation(bench)
    data = validation.samples
    state = decode_state(blobs.get(job.weights))
    worse = _worse_than_in_use(model, blobs, job, validation)
    if worse:
        return ExportResult((), worse)
    slices = calibrated_slices(model, state, job.widths, data.x)
    said = outputs_per_width(model, state, job.widths, validation)
    cache = TemplateCache(bench.templates)
    manifests = []
    for width in job.widths:
        exported = export_width(
            model,
            width,
            slices[width],
            cache,
            round=job.round,
            run=bench.fleet,
            weights=job.weights,
        )
        blobs.put(exported.onnx)
        decoded = model.task.decode(said[width], data.x)
        manifests.append(
            manifest_for(
                exported,
                model,
                round=job.round,
                score=model.task.score(said[width], data.y),
                score_data="the server's validation recordings, cross-fitted",
                reference=model.task.reference(decoded),
            )
        )
        log.info("exported width %g: %d bytes", width, len(exported.onnx))
    return ExportResult(tuple(manifests))


def _worse_than_in_use(
    model: SlimmableModel, blobs: BlobFolder, job: ExportJob, validation: Validation
) -> str:
    if not job.in_use or job.in_use == job.weights:
        return ""
    data = validation.samples
    new, old = (
        model.task.sample_scores(
            outputs_per_width(model, decode_state(blobs.get(digest)), (1.0,), validation)[1.0],
            data.y,
        )
        for digest in (job.weights, job.in_use)
    )
    gain = difference(new, old, data.recording, np.random.default_rng(job.round))
    if gain.high >= 0:
        return ""
    return (
        f"round {job.round} scores {-gain.mean:.3f} lower than the release in use"
        f" (95 % interval {gain.low:.3f} to {gain.high:.3f}): withheld"
    )
