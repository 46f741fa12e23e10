"""The model and the validation data of a worker process, each read once.

Imports torch, so the server's own process never imports this module.
"""

import json
from functools import lru_cache
from pathlib import Path

from coordinator.bench import Bench
from coordinator.measuring import Validation
from slimmable.model import SlimmableModel, load_model
from slimmable.readers import read_samples


def load_bench_model(bench: Bench) -> SlimmableModel:
    """Return the model."""
    return _model(bench.model, json.dumps(bench.options, sort_keys=True))


@lru_cache(maxsize=1)
def _model(model: str, options: str) -> SlimmableModel:
    import torch

    torch.set_num_threads(1)
    return load_model(model, json.loads(options))


def load_validation(bench: Bench) -> Validation | None:
    """Return the validation data; None where devices measure."""
    if bench.validation is None:
        return None
    return _read_validation(
        bench.validation, bench.reader, json.dumps(bench.reader_options, sort_keys=True)
    )


@lru_cache(maxsize=1)
def _read_validation(path: Path, reader: str, options: str) -> Validation:
    return Validation.of(read_samples(path, reader, json.loads(options)))
