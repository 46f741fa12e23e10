"""The jobs of a campaign in which devices tell what they know, no weights. Imports torch."""

import time

from coordinator.aggregation.knowledge import consensus
from coordinator.bench import Bench, RoundResult, ScoreJob
from coordinator.bench_loading import load_bench_model
from journal.blobs import BlobFolder
from slimmable.guidance import row_size
from slimmable.knowledge import nothing_known
from slimmable.state import decode_state, encode_state

NOT_MEASURED = "none"


def nothing_told(bench: Bench) -> bytes:
    """Return the bytes of the knowledge that the first round starts from.

    Raises:
        ModelError: the campaign's network tells nothing of this kind.
    """
    model = load_bench_model(bench)
    size = row_size(model, bench.exchange)
    return encode_state(nothing_known(len(model.task.classes), size))


def pool_knowledge(bench: Bench, job: ScoreJob) -> RoundResult:
    """Put together what the devices told; nothing is measured here, and nobody's share of it."""
    started = time.process_time()
    blobs = BlobFolder(bench.blobs, owner=False)
    told = {update.device: decode_state(blobs.get(update.digest)) for update in job.updates}
    pooled = consensus(decode_state(blobs.get(job.base)), told)
    return RoundResult(
        digest=blobs.put(encode_state(pooled)),
        curve=(),
        contributions=(),
        method=NOT_MEASURED,
        value_before=0.0,
        value_after=0.0,
        coalitions=0,
        seconds=time.process_time() - started,
        better=False,
    )
