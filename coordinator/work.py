"""The slow jobs of the coordinator: describe, initialise, score a round, export; in a worker process.

Each job is a value that names its inputs by digest and returns plain facts; weights go through the
blob folder. Imports torch, so the server's own process never imports this module.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.bench import Bench, ExportJob, ExportResult, RoundResult, ScoreJob, UpdateFile
from coordinator.aggregation import DeviceUpdate, Step, combine, steps_of
from coordinator.comparison import bootstrap, difference
from coordinator.contribution import Scores, exact_shapley, permutation_shapley
from coordinator.rewards import without_dominated
from exporter.export import export_width
from exporter.manifest import manifest_for
from exporter.templates import TemplateCache
from journal.blobs import BlobFolder
from journal.events import Contribution, CurvePoint
from slimmable.evaluation import calibrated_slices, initial_state, load_network, network_outputs
from slimmable.model import SlimmableModel, load_model
from slimmable.readers import read_samples
from slimmable.samples import Samples, split_recordings
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState, decode_state, encode_state

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _model(model: str, options: str) -> SlimmableModel:
    import torch

    torch.set_num_threads(1)
    return load_model(model, json.loads(options))


def _load(bench: Bench) -> SlimmableModel:
    return _model(bench.model, json.dumps(bench.options, sort_keys=True))


@lru_cache(maxsize=1)
def _validation(path: Path, reader: str) -> tuple[Samples, Samples]:
    return split_recordings(read_samples(path, reader))


def describe(bench: Bench) -> bytes:
    """Return the width spec of the model in its JSON form; proves that model and data load."""
    _validation(bench.validation, bench.reader)
    return _load(bench).spec.to_json()


def initialise(bench: Bench) -> tuple[str, float]:
    """Make the initial weights; returns their digest and their score at full width."""
    model = _load(bench)
    calibration, measurement = _validation(bench.validation, bench.reader)
    state = initial_state(model, bench.seed)
    slices = calibrated_slices(model, state, (1.0,), calibration.x)
    said = _outputs(model, 1.0, slices[1.0], measurement.x)
    digest = BlobFolder(bench.blobs, owner=False).put(encode_state({**state, **slices[1.0]}))
    return digest, model.task.score(said, measurement.y)


def score_round(bench: Bench, job: ScoreJob) -> RoundResult:
    """Aggregate the updates, measure every width, and score every device."""
    started = time.process_time()
    model, blobs = _load(bench), BlobFolder(bench.blobs, owner=False)
    calibration, measurement = _validation(bench.validation, bench.reader)
    base = decode_state(blobs.get(job.base))
    steps = steps_of(base, model.spec, [_read_update(blobs, update) for update in job.updates])
    state = combine(base, model.spec, steps)
    widths = tuple(sorted({*bench.grid, *bench.ladder}))
    slices = calibrated_slices(model, state, widths, calibration.x)
    said = {w: _outputs(model, w, slices[w], measurement.x) for w in widths}
    rng = np.random.default_rng((bench.seed, job.round))
    scores = _contributions(bench, job, model, base, steps, slices, measurement, rng)
    now = _sample_values(model, said, bench.grid, measurement)
    before = _values_of(model, blobs, job.best, bench.grid, calibration, measurement)
    gain = difference(now, before, measurement.recording, rng)
    digest = blobs.put(encode_state({**state, **slices[1.0]}))
    return RoundResult(
        digest=digest,
        curve=_curve(model, said, measurement, rng),
        contributions=tuple(
            Contribution(device=u.device, score=scores.scores[u.device], update=u.digest)
            for u in job.updates
        ),
        method=scores.method,
        value_before=scores.before,
        value_after=scores.after,
        coalitions=scores.coalitions,
        seconds=time.process_time() - started,
        better=gain.low > 0,
    )


def _read_update(blobs: BlobFolder, update: UpdateFile) -> DeviceUpdate:
    state = decode_state(blobs.get(update.digest))
    return DeviceUpdate(update.device, update.width, state, update.weight)


def _outputs(model: SlimmableModel, width: float, state: Mapping[str, Array], x: Array) -> Array:
    return network_outputs(load_network(model, width, state), x)


def _contributions(
    bench: Bench,
    job: ScoreJob,
    model: SlimmableModel,
    base: ModelState,
    steps: Sequence[Step],
    slices: Mapping[float, ModelState],
    measurement: Samples,
    rng: np.random.Generator,
) -> Scores:
    """Play the game of the round; statistics per width are those of the grand coalition."""
    statistics = {
        width: {name: slices[width][name] for name in model.spec.statistics}
        for width in bench.grid
    }
    networks = {width: load_network(model, width, slices[width]) for width in bench.grid}

    def value(coalition: frozenset[str]) -> float:
        state = combine(base, model.spec, [s for s in steps if s.device in coalition])
        total = 0.0
        for width in bench.grid:
            cut = {**slice_state(state, model.spec, width), **statistics[width]}
            _refill(networks[width], cut)
            said = network_outputs(networks[width], measurement.x)
            total -= model.task.balanced_loss(said, measurement.y)
        return total / len(bench.grid)

    devices = [step.device for step in steps]
    if job.method == "exact-shapley":
        return exact_shapley(devices, value)
    return permutation_shapley(devices, value, job.coalitions, rng)


def _refill(network: Any, state: Mapping[str, Array]) -> None:
    import torch

    network.load_state_dict(
        {name: torch.from_numpy(array) for name, array in state.items()}, strict=False
    )


def _sample_values(
    model: SlimmableModel, said: Mapping[float, Array], grid: Sequence[float], data: Samples
) -> Array:
    """Return minus the loss of each sample, averaged over the training grid, shape (N,).

    A plateau is judged by losses: with few recordings a score saturates long before they do.
    """
    return -np.mean([model.task.losses(said[width], data.y) for width in grid], axis=0)


def _values_of(
    model: SlimmableModel,
    blobs: BlobFolder,
    digest: str,
    grid: Sequence[float],
    calibration: Samples,
    measurement: Samples,
) -> Array:
    slices = calibrated_slices(model, decode_state(blobs.get(digest)), grid, calibration.x)
    said = {width: _outputs(model, width, slices[width], measurement.x) for width in grid}
    return _sample_values(model, said, grid, measurement)


def _curve(
    model: SlimmableModel,
    said: Mapping[float, Array],
    measurement: Samples,
    rng: np.random.Generator,
) -> tuple[CurvePoint, ...]:
    points = []
    for width in sorted(said):
        scores = model.task.sample_scores(said[width], measurement.y)
        interval = bootstrap(scores, measurement.recording, rng)
        points.append(
            CurvePoint(
                width=width, score=interval.mean, low=interval.low, high=interval.high, offered=True
            )
        )
    offered = {point.width for point in without_dominated(points)}
    return tuple(
        CurvePoint(
            width=p.width, score=p.score, low=p.low, high=p.high, offered=p.width in offered
        )
        for p in points
    )


def warm_templates(bench: Bench) -> float:
    """Make the ONNX templates of the whole ladder ahead of time; returns CPU seconds used."""
    from exporter.templates import warm_templates as warm

    started = time.process_time()
    warm(_load(bench), bench.ladder, TemplateCache(bench.templates))
    return time.process_time() - started


def export_widths(bench: Bench, job: ExportJob) -> ExportResult:
    """Export each width as a parity-checked ONNX file into the blob folder."""
    model, blobs = _load(bench), BlobFolder(bench.blobs, owner=False)
    calibration, measurement = _validation(bench.validation, bench.reader)
    state = decode_state(blobs.get(job.weights))
    worse = _worse_than_in_use(model, blobs, job, calibration, measurement)
    if worse:
        return ExportResult((), worse)
    slices = calibrated_slices(model, state, job.widths, calibration.x)
    cache = TemplateCache(bench.templates)
    manifests = []
    for width in job.widths:
        said = _outputs(model, width, slices[width], measurement.x)
        exported = export_width(model, width, slices[width], cache, round=job.round)
        blobs.put(exported.onnx)
        decoded = model.task.decode(said, measurement.x)
        manifests.append(
            manifest_for(
                exported,
                model,
                round=job.round,
                score=model.task.score(said, measurement.y),
                score_data="validation recordings kept for measurement",
                reference=model.task.reference(decoded),
            )
        )
        log.info("exported width %g: %d bytes", width, len(exported.onnx))
    return ExportResult(tuple(manifests))


def _worse_than_in_use(
    model: SlimmableModel,
    blobs: BlobFolder,
    job: ExportJob,
    calibration: Samples,
    measurement: Samples,
) -> str:
    if not job.in_use or job.in_use == job.weights:
        return ""
    new = _full_scores(model, blobs, job.weights, calibration, measurement)
    old = _full_scores(model, blobs, job.in_use, calibration, measurement)
    gain = difference(new, old, measurement.recording, np.random.default_rng(job.round))
    if gain.high >= 0:
        return ""
    return (
        f"round {job.round} scores {-gain.mean:.3f} lower than the release in use"
        f" (95 % interval {gain.low:.3f} to {gain.high:.3f}): withheld"
    )


def _full_scores(
    model: SlimmableModel,
    blobs: BlobFolder,
    digest: str,
    calibration: Samples,
    measurement: Samples,
) -> Array:
    """Return the score of each sample at full width, shape (N,)."""
    slices = calibrated_slices(model, decode_state(blobs.get(digest)), (1.0,), calibration.x)
    said = _outputs(model, 1.0, slices[1.0], measurement.x)
    return model.task.sample_scores(said, measurement.y)
