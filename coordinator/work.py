"""The slow jobs of the coordinator, run in a worker process: describe, initialise, score, export.

Each job is a value that names its inputs by digest and returns plain facts; weights go through the
blob folder. Imports torch, so the server's own process never imports this module.
"""

import itertools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from coordinator.aggregation import DeviceUpdate, Step, combine, steps_of
from coordinator.bench import (
    AssessJob,
    AssessResult,
    Bench,
    ExportJob,
    ExportResult,
    RoundResult,
    ScoreJob,
    UpdateFile,
)
from coordinator.comparison import bootstrap, difference
from coordinator.contribution.evidence import Evidence
from coordinator.contribution.flat_steps import FlatSteps, class_rows, idle
from coordinator.contribution.methods import estimate
from coordinator.contribution.novelty import Novelty, novel_steps
from coordinator.curve import TrainedWidths, score_curve
from coordinator.evaluator import RoundEvaluator
from coordinator.measuring import (
    Validation,
    outputs_of_slice,
    outputs_per_width,
    sample_values,
)
from exporter.manifest import manifest_for
from exporter.report import NOT_MEASURED
from journal.blobs import BlobFolder
from journal.events import AloneScore, Contribution, CurvePoint
from slimmable.evaluation import calibrate, calibrated_slices, initial_state
from slimmable.model import ModelError, SlimmableModel, load_model
from slimmable.model_check import check_model
from slimmable.readers import read_samples
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState, decode_state, encode_state
from slimmable.task import Reference

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _model(model: str, options: str) -> SlimmableModel:
    import torch

    torch.set_num_threads(1)
    return load_model(model, json.loads(options))


def _load(bench: Bench) -> SlimmableModel:
    return _model(bench.model, json.dumps(bench.options, sort_keys=True))


def _validation(bench: Bench) -> Validation | None:
    if bench.validation is None:
        return None
    return _read_validation(
        bench.validation, bench.reader, json.dumps(bench.reader_options, sort_keys=True)
    )


@lru_cache(maxsize=1)
def _read_validation(path: Path, reader: str, options: str) -> Validation:
    return Validation.of(read_samples(path, reader, json.loads(options)))


def describe(bench: Bench) -> bytes:
    """Return the width spec of the model in its JSON form; proves that model and data load."""
    model, validation = _load(bench), _validation(bench)
    if validation:
        model.task.check_targets(validation.samples.y)
    else:
        _check_without_data(model)
    check_model(model, sorted({*bench.grid, *bench.ladder}))
    return model.spec.to_json()


def _check_without_data(model: SlimmableModel) -> None:
    """Refuse a model whose files cannot be made without data on the server.

    Raises:
        ModelError: it has running statistics.
    """
    if model.spec.statistics:
        name = min(model.spec.statistics)
        raise ModelError(
            f"model {model.name!r} keeps running statistics ({name!r} first), which are estimated"
            " for each width on the server's data: use a network with group norm, or supply"
            ' validation data and set contributions.evaluator = "server"'
        )


def initialise(bench: Bench) -> tuple[str, float]:
    """Make the initial weights; returns their digest and their score at full width.

    Without validation data the score is 0: devices tell it in the first round.
    """
    model, validation = _load(bench), _validation(bench)
    state = initial_state(model, bench.seed)
    score = 0.0
    if validation:
        said = outputs_per_width(model, state, (1.0,), validation)[1.0]
        score = model.task.score(said, validation.samples.y)
    if not np.isfinite(score):
        raise ValueError(f"the untrained model scores {score}: check the scale of its inputs")
    digest = BlobFolder(bench.blobs, owner=False).put(encode_state(state))
    return digest, score


def score_round(bench: Bench, job: ScoreJob) -> RoundResult:
    """Aggregate the updates, measure every width, and score every device.

    Without validation data nothing is measured: the result has no curve and no values.
    """
    started = time.process_time()
    model, blobs = _load(bench), BlobFolder(bench.blobs, owner=False)
    validation = _validation(bench)
    base = decode_state(blobs.get(job.base))
    steps = steps_of(base, model.spec, [_read_update(blobs, update) for update in job.updates])
    state = combine(base, model.spec, steps)
    broken = [name for name in model.spec.parameters if not np.isfinite(state[name]).all()]
    if broken:
        raise ValueError(f"the aggregate of round {job.round} is not finite in {broken[0]!r}")
    rng = np.random.default_rng((bench.seed, job.round))
    novelty = _novelty(model, blobs, job, base, steps)
    # What the server foresaw belongs to nobody: even the empty coalition has it.
    foreseen = combine(base, model.spec, novelty.foreseen)
    weights = {update.device: update.weight for update in job.updates}
    evidence = Evidence(
        devices=tuple(step.device for step in steps),
        evaluator=(
            RoundEvaluator(model, foreseen, novelty.steps, bench.grid, validation, weights)
            if validation
            else None
        ),
        steps=FlatSteps(model.spec, novelty.steps),
        class_rows=class_rows(model.spec, model.task, novelty.steps),
        idle=idle(novelty.steps),
        samples={update.device: update.samples for update in job.updates},
        rounds={update.device: update.rounds for update in job.updates},
    )
    scores = estimate(job.method, evidence, job.coalitions, rng)
    curve: tuple[CurvePoint, ...] = ()
    better = False
    if validation:
        before = _values_of(bench, job.best, validation)
        curve, better, values = _measured(model, state, before, bench, job, validation, rng)
        state = _calibrated_at_full(model, state, validation)
        digest = blobs.put(encode_state(state))
        _remember({(bench.blobs, job.best): before, (bench.blobs, digest): values})
    else:
        digest = blobs.put(encode_state(state))
    return RoundResult(
        digest=digest,
        curve=curve,
        contributions=tuple(
            Contribution(
                device=u.device,
                score=scores.scores[u.device],
                update=u.digest,
                blocks=scores.blocks.get(u.device, ()),
                known=novelty.shares[u.device],
            )
            for u in job.updates
        ),
        method=scores.method,
        value_before=scores.before,
        value_after=scores.after,
        coalitions=scores.evaluations,
        seconds=time.process_time() - started,
        better=better,
    )


def _measured(
    model: SlimmableModel,
    state: ModelState,
    before: Array,
    bench: Bench,
    job: ScoreJob,
    validation: Validation,
    rng: np.random.Generator,
) -> tuple[tuple[CurvePoint, ...], bool, Array]:
    """Return score over width, whether that is significantly better, and the sample values.

    Args:
        model: the model.
        state: what is measured.
        before: (N,) sample values of the best weights so far.
        bench: widths.
        job: the round.
        validation: the data.
        rng: of the intervals.
    """
    data = validation.samples
    said = outputs_per_width(model, state, sorted({*bench.grid, *bench.ladder}), validation)
    values = sample_values(model, said, bench.grid, data)
    gain = difference(values, before, data.recording, rng)
    scores = {width: model.task.sample_scores(said[width], data.y) for width in said}
    trained = TrainedWidths(
        (*(update.width for update in job.updates), *job.absent_widths),
        min(bench.grid),
        job.min_trainers,
    )
    untrained = _untrained_scores(bench, tuple(scores))
    curve = score_curve(scores, data.recording, rng, trained, untrained)
    return curve, gain.low > 0, values


_values: dict[tuple[Path, str], Array] = {}


def _values_of(bench: Bench, digest: str, validation: Validation) -> Array:
    """Return the sample values (N,) of stored weights, measured where they are not remembered.

    The best weights so far are most often those of the round before, which were just measured.
    """
    known = _values.get((bench.blobs, digest))
    if known is not None:
        return known
    model = _load(bench)
    state = decode_state(BlobFolder(bench.blobs, owner=False).get(digest))
    said = outputs_per_width(model, state, bench.grid, validation)
    return sample_values(model, said, bench.grid, validation.samples)


def _remember(values: dict[tuple[Path, str], Array]) -> None:
    """Remember these sample values, and no others."""
    _values.clear()
    _values.update(values)


def _novelty(
    model: SlimmableModel, blobs: BlobFolder, job: ScoreJob, base: ModelState, steps: Sequence[Step]
) -> Novelty:
    """Split the steps by what the model's own last changes foretold."""
    states = [base, *(decode_state(blobs.get(digest)) for digest in job.known)]
    known = [
        {name: after[name] - before[name] for name in model.spec.parameters}
        for after, before in itertools.pairwise(states)
    ]
    return novel_steps(model.spec, steps, known)


_untrained: dict[str, dict[float, Array]] = {}


def _untrained_scores(bench: Bench, widths: tuple[float, ...]) -> dict[float, Array]:
    """Return what the initial weights score per sample, (N,) a width; measured once a process."""
    key = repr((bench, widths))
    if key not in _untrained:
        model, validation = _load(bench), _validation(bench)
        assert validation is not None
        said = outputs_per_width(model, initial_state(model, bench.seed), widths, validation)
        y = validation.samples.y
        _untrained.clear()
        _untrained[key] = {width: model.task.sample_scores(said[width], y) for width in widths}
    return _untrained[key]


def assess(bench: Bench, job: AssessJob) -> AssessResult:
    """Measure each update of an assessment round by itself, at its own width.

    A model that gives no finite score says nothing about what its device has alone: it is left out.
    """
    started = time.process_time()
    model, blobs, validation = (
        _load(bench),
        BlobFolder(bench.blobs, owner=False),
        _validation(bench),
    )
    if validation is None:
        raise ValueError("an assessment needs validation data: set contributions.alone_steps = 0")
    data, rng = validation.samples, np.random.default_rng((bench.seed, job.round))
    scores = []
    for update in job.updates:
        cut = decode_state(blobs.get(update.digest))
        said = outputs_of_slice(model, update.width, cut, validation)
        interval = bootstrap(model.task.sample_scores(said, data.y), data.recording, rng)
        if not np.isfinite((interval.mean, interval.low, interval.high)).all():
            log.warning("assessment: the model of %s gives no finite score", update.device)
            continue
        scores.append(
            AloneScore(
                device=update.device,
                width=update.width,
                score=interval.mean,
                low=interval.low,
                high=interval.high,
                update=update.digest,
            )
        )
    return AssessResult(tuple(scores), time.process_time() - started)


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
    from exporter.templates import TemplateCache
    from exporter.templates import warm_templates as make_templates

    started = time.process_time()
    make_templates(_load(bench), bench.ladder, TemplateCache(bench.templates))
    return time.process_time() - started


def export_widths(bench: Bench, job: ExportJob) -> ExportResult:
    """Export each width as a parity-checked ONNX file into the blob folder.

    Scores are cross-fitted; the statistics that travel are calibrated on all validation inputs.
    Without validation data the scores are those that devices reported, nothing is calibrated, and
    no histogram says what the model's outputs look like.
    """
    # The writers of ONNX take a second to import: who only scores rounds does without.
    from exporter.export import export_width
    from exporter.templates import TemplateCache

    model, blobs = _load(bench), BlobFolder(bench.blobs, owner=False)
    validation = _validation(bench)
    state = decode_state(blobs.get(job.weights))
    if validation:
        worse = _worse_than_in_use(model, blobs, job, validation)
        if worse:
            return ExportResult((), worse)
        slices = calibrated_slices(model, state, job.widths, validation.samples.x)
        merits = _merits(model, state, job.widths, validation)
    else:
        slices = {width: slice_state(state, model.spec, width) for width in job.widths}
        merits = {width: _reported(job, width) for width in job.widths}
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
        merit = merits[width]
        manifests.append(
            manifest_for(
                exported,
                model,
                round=job.round,
                score=merit.score,
                score_data=merit.score_data,
                reference=merit.reference,
            )
        )
        log.info("exported width %g: %d bytes", width, len(exported.onnx))
    return ExportResult(tuple(manifests))


@dataclass(frozen=True)
class _Merit:
    """What a manifest says of a width; fields as there."""

    score: float
    score_data: str
    reference: Reference


def _reported(job: ExportJob, width: float) -> _Merit:
    # A width that the operator grants may be one that no device has measured.
    score_data = job.score_data if width in job.reported else NOT_MEASURED
    return _Merit(job.reported.get(width, 0.0), score_data, Reference((), ()))


def _merits(
    model: SlimmableModel, state: ModelState, widths: Sequence[float], validation: Validation
) -> dict[float, _Merit]:
    data, task = validation.samples, model.task
    said = outputs_per_width(model, state, widths, validation)
    return {
        width: _Merit(
            task.score(said[width], data.y),
            "the server's validation recordings, cross-fitted",
            task.reference(task.decode(said[width], data.x)),
        )
        for width in widths
    }


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
