"""The model and the data of a worker process, each read once.

Imports torch, so the server's own process never imports this module.

Where the aggregate is distilled, a share of the validation recordings is set aside and measures
nothing. Their labels judge when to stop. Without a pool of the operator's, half of them give the
inputs instead, and no label of that half is looked at.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from coordinator.bench import Bench
from coordinator.measuring import Validation
from slimmable.model import SlimmableModel, load_model
from slimmable.readers import read_samples
from slimmable.samples import Samples, SamplesError, hold_out, split_recordings
from slimmable.state import Array


@dataclass(frozen=True)
class ServerData:
    """The recordings of the server; no recording stands in two of the three.

    Attributes:
        validation: what measures; None where devices measure.
        pool: (N, ...) inputs to distil with, or for all devices to score; None without either.
        judges: tell when to stop distilling; None where nothing is set aside.
    """

    validation: Validation | None
    pool: Array | None = None
    judges: Samples | None = None


def load_bench_model(bench: Bench) -> SlimmableModel:
    """Return the model."""
    return _model(bench.model, _key(bench.options))


@lru_cache(maxsize=1)
def _model(model: str, options: str) -> SlimmableModel:
    import torch

    torch.set_num_threads(1)
    return load_model(model, json.loads(options))


def load_validation(bench: Bench) -> Validation | None:
    """Return the validation data, without what is set aside; None where devices measure."""
    return load_server_data(bench).validation


def load_server_data(bench: Bench) -> ServerData:
    """Return all recordings of the server.

    Raises:
        SamplesError: they cannot be read, or there are too few.
    """
    return _read(
        bench.validation,
        bench.reader,
        _key(bench.reader_options),
        bench.distillation.set_aside if bench.distillation.rule != "none" else None,
        bench.pool,
        bench.pool_reader,
        _key(bench.pool_options),
    )


def _key(options: Any) -> str:
    return json.dumps(options, sort_keys=True)


@lru_cache(maxsize=1)
def _read(
    path: Path | None,
    reader: str,
    options: str,
    set_aside: float | None,
    pool_path: Path | None,
    pool_reader: str,
    pool_options: str,
) -> ServerData:
    samples = read_samples(path, reader, json.loads(options)) if path else None
    pool = judges = None
    if pool_path:
        pool = read_samples(pool_path, pool_reader, json.loads(pool_options)).x
    if set_aside is None:
        return ServerData(Validation.of(samples) if samples else None, pool)
    if samples and set_aside:
        samples, judges = _set_aside(samples, set_aside)
        if pool is None:
            given, judges = split_recordings(judges)
            pool = given.x
    return ServerData(Validation.of(samples) if samples else None, pool, judges)


def _set_aside(samples: Samples, share: float) -> tuple[Samples, Samples]:
    try:
        return hold_out(samples, share)
    except SamplesError as error:
        raise SamplesError(f"aggregation.distillation.set_aside: {error}") from error
