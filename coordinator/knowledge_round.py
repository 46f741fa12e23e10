"""The jobs of a campaign in which devices tell what they know, no weights. Imports torch."""

import time

from broker.blobs import BLOB_LIMIT
from coordinator.aggregation.knowledge import consensus
from coordinator.bench import Bench, RoundResult, ScoreJob
from coordinator.bench_loading import load_bench_model, load_server_data
from journal.blobs import BlobFolder
from slimmable.guidance import PUBLIC_SCORES, row_size
from slimmable.knowledge import INPUTS, nothing_known
from slimmable.samples import SamplesError
from slimmable.state import Array, decode_state, encode_state

NOT_MEASURED = "none"
MIB = 2**20
LARGEST_BLOB = BLOB_LIMIT - 16 * MIB  # tags and a header come on top


def public_inputs(bench: Bench) -> Array:
    """Return the inputs (N, ...) that all devices score: the pool, or the first of it.

    Raises:
        SamplesError: there is no pool, or it does not fit the campaign; the message says why.
    """
    model, pool, wanted = (
        load_bench_model(bench),
        load_server_data(bench).pool,
        bench.public_samples,
    )
    if pool is None:
        raise SamplesError('exchange = "public-scores" needs public recordings: name a pool')
    if wanted > len(pool):
        raise SamplesError(
            f"knowledge.samples = {wanted}, and the pool holds {len(pool)}: ask for no more"
        )
    if pool.shape[1:] != tuple(model.input_shape):
        raise SamplesError(
            f"the pool holds samples of shape {list(pool.shape[1:])}: {list(model.input_shape)} is"
            f" needed, as the model {model.name!r} takes them"
        )
    chosen = pool[: wanted or None]
    if chosen.nbytes > LARGEST_BLOB:
        raise SamplesError(
            f"the public inputs are {chosen.nbytes / MIB:.0f} MiB, and every device fetches them:"
            f" at most {LARGEST_BLOB / MIB:.0f} travel; lower knowledge.samples"
        )
    return chosen


def public_bytes(bench: Bench) -> bytes:
    """Return the public inputs as they travel.

    Raises:
        SamplesError: see `public_inputs`.
    """
    return encode_state({INPUTS: public_inputs(bench)})


def nothing_told(bench: Bench) -> bytes:
    """Return the bytes of the knowledge that the first round starts from.

    Raises:
        ModelError: the campaign's network tells nothing of this kind.
        SamplesError: see `public_inputs`.
    """
    model = load_bench_model(bench)
    size = row_size(model, bench.exchange)
    public = bench.exchange == PUBLIC_SCORES
    rows = len(public_inputs(bench)) if public else len(model.task.classes)
    return encode_state(nothing_known(rows, size))


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
