"""The job that measures what each device trained alone."""

import logging
import time

import numpy as np

from coordinator.bench import AssessJob, AssessResult, Bench
from coordinator.bench_loading import load_bench_model, load_validation
from coordinator.comparison import bootstrap
from coordinator.measuring import block_shares, outputs_of_slice
from coordinator.update_file import read_update
from journal.blobs import BlobFolder
from journal.events import AloneScore
from slimmable.state import decode_state

log = logging.getLogger(__name__)


def assess(bench: Bench, job: AssessJob) -> AssessResult:
    """Measure each update of an assessment round by itself, at its own width.

    A model that gives no finite score says nothing about what its device has alone: it is left out.
    """
    started = time.process_time()
    model, blobs, validation = (
        load_bench_model(bench),
        BlobFolder(bench.blobs, owner=False),
        load_validation(bench),
    )
    if validation is None:
        raise ValueError("an assessment needs validation data: set contributions.alone_rounds = 0")
    data, rng = validation.samples, np.random.default_rng((bench.seed, job.round))
    shares = block_shares(data, model.task)
    scores = []
    base = decode_state(blobs.get(job.base))
    for update in job.updates:
        cut = read_update(blobs, model.spec, base, update).state
        said = outputs_of_slice(model, update.width, cut, validation)
        found = model.task.sample_scores(said, data.y)
        interval = bootstrap(found, data.recording, rng)
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
                blocks=tuple((shares @ found).tolist()),
            )
        )
    return AssessResult(tuple(scores), time.process_time() - started)
