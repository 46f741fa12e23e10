"""The slow jobs of the coordinator, run in a worker process: describe, initialise, score, export.

Each job is a value that names its inputs by digest and returns plain facts; weights go through the
blob folder. Imports torch, so the server's own process never imports this module.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from coordinator.assessment import assess
from coordinator.bench import Bench
from coordinator.bench_loading import load_bench_model, load_server_data, load_validation
from coordinator.knowledge_round import nothing_told, public_bytes
from coordinator.release_files import export_widths, warm_templates
from coordinator.scoring import score_round
from coordinator.untrained import untrained
from journal.blobs import BlobFolder
from slimmable.evaluation import initial_state
from slimmable.guidance import PUBLIC_SCORES
from slimmable.model import ModelError, SlimmableModel
from slimmable.model_check import check_model
from slimmable.samples import SamplesError
from slimmable.state import encode_state
from slimmable.task import TaskKind


def describe(bench: Bench) -> bytes:
    """Return the width spec of the model in its JSON form; proves that model and data load."""
    model, validation = load_bench_model(bench), load_validation(bench)
    if validation:
        model.task.check_targets(validation.samples.y)
    elif bench.exchange == "weights":
        _check_without_data(model)
    if bench.exchange != "weights":
        nothing_told(bench)  # whether the network, and public inputs, fit the exchange
    if bench.distillation.rule != "none":
        _check_distillation(bench, model)
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


def _check_distillation(bench: Bench, model: SlimmableModel) -> None:
    """Refuse a pool that the network cannot take, and a rule that its task cannot follow.

    Raises:
        SamplesError: the pool has another shape than samples of the model, or is too small.
        ModelError: Fed-ET, which compares classes, without classes.
    """
    data = load_server_data(bench)
    if bench.distillation.rule == "fed-et" and model.task.kind is not TaskKind.CLASSIFICATION:
        raise ModelError(
            f"model {model.name!r} is for {model.task.kind}, and aggregation.distillation.rule ="
            ' "fed-et" compares classes: set it to "feddf"'
        )
    if data.judges:
        model.task.check_targets(data.judges.y)
    if data.pool is None:
        raise SamplesError(
            "distillation has no inputs: name a pool, or set aside validation recordings with"
            " aggregation.distillation.set_aside"
        )
    known = data.validation.samples.x.shape[1:] if data.validation else model.input_shape
    if data.pool.shape[1:] != tuple(known) or len(data.pool) < 2:
        raise SamplesError(
            f"the pool holds {len(data.pool)} samples of shape {list(data.pool.shape[1:])}: at"
            f" least 2 of shape {list(known)} are needed, as the model {model.name!r} takes them"
        )


def initialise(bench: Bench) -> tuple[str, float, str]:
    """Make the initial weights, and public inputs where devices score such.

    Returns:
        The digest of the weights, their score at full width and the digest of the public inputs,
        "" without. Without validation data the score is 0: devices tell it in the first round.
    """
    model, validation = load_bench_model(bench), load_validation(bench)
    if bench.exchange != "weights":
        blobs = BlobFolder(bench.blobs, owner=False)
        public = blobs.put(public_bytes(bench)) if bench.exchange == PUBLIC_SCORES else ""
        return blobs.put(nothing_told(bench)), 0.0, public
    state = initial_state(model, bench.seed)
    score = float(untrained(bench).scores[1.0].mean()) if validation else 0.0
    if not np.isfinite(score):
        raise ValueError(f"the untrained model scores {score}: check the scale of its inputs")
    digest = BlobFolder(bench.blobs, owner=False).put(encode_state(state))
    return digest, score, ""


# By their names, as the server's process asks for them: it cannot import them itself.
JOBS: dict[str, Callable[..., Any]] = {
    job.__name__: job
    for job in (describe, initialise, score_round, assess, warm_templates, export_widths)
}
