"""The jobs that make the ONNX files of a release, and the templates for them."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.bench import Bench, ExportJob, ExportResult
from coordinator.bench_loading import load_bench_model, load_validation
from coordinator.comparison import difference
from coordinator.measuring import Validation, outputs_per_width
from exporter.manifest import manifest_for
from exporter.report import NOT_MEASURED
from journal.blobs import BlobFolder
from slimmable.evaluation import calibrated_slices
from slimmable.model import SlimmableModel
from slimmable.slicing import slice_state
from slimmable.state import ModelState, decode_state
from slimmable.task import Reference

log = logging.getLogger(__name__)


def warm_templates(bench: Bench) -> float:
    """Make the ONNX templates of the whole ladder ahead of time; returns CPU seconds used."""
    from exporter.templates import TemplateCache
    from exporter.templates import warm_templates as make_templates

    started = time.process_time()
    make_templates(load_bench_model(bench), bench.ladder, TemplateCache(bench.templates))
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

    model, blobs = load_bench_model(bench), BlobFolder(bench.blobs, owner=False)
    validation = load_validation(bench)
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
