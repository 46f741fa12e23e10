"""Flower's aggregations of some bytes: ``python flower.py SHAPES.json UPDATES REPEATS``.

Prints one line of JSON: name -> the least CPU seconds of the repeats. Every update has all shapes:
Flower knows no widths.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.strategy.aggregate import aggregate, aggregate_inplace
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords


def main(shapes: Path, updates: int, repeats: int) -> None:
    """Time the three aggregations that Flower has, one after the other."""
    wanted = [tuple(shape) for shape in json.loads(shapes.read_text(encoding="utf-8"))]
    arrays = [
        [np.full(shape, 1.0 + number, np.float32) for shape in wanted] for number in range(updates)
    ]
    plain = [(layers, 100) for layers in arrays]
    found = {"aggregate": _least(lambda: aggregate(plain), repeats)}
    status = Status(Code.OK, "")
    sent: list[Any] = [
        (None, FitRes(status, ndarrays_to_parameters(layers), 100, {})) for layers in arrays
    ]
    found["aggregate_inplace"] = _least(lambda: aggregate_inplace(sent), repeats)
    sent.clear()
    records = [
        RecordDict({"arrays": ArrayRecord(layers), "metrics": MetricRecord({"samples": 100})})
        for layers in arrays
    ]
    found["aggregate_arrayrecords"] = _least(
        lambda: aggregate_arrayrecords(records, "samples"), repeats
    )
    print(json.dumps(found))


def _least(work: Callable[[], Any], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return min(spent)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
