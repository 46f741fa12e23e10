"""The benchmarks of aggregation and of rounds: what they count is what was done."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks import aggregation, rounds
from benchmarks.errors import BenchmarkError
from slimmable.samples import Samples

AGGREGATION = argparse.Namespace(
    network="resnet18", updates=2, widths=(0.25, 0.5), repeats=1, cache=Path("none")
)
ROUNDS = argparse.Namespace(
    devices=6,
    cohort=2,
    rounds=2,
    images=64,
    validation=40,
    method="data-size",
    folder=Path("nowhere"),
)


def images(_folder, _part):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 1, 28, 28)).astype(np.float32)
    return Samples(x, np.arange(100) % 10, np.arange(100))


@pytest.mark.torch
def test_aggregation_without_its_peer_says_why_and_shows_the_rest(monkeypatch):
    def missing(*_):
        raise BenchmarkError("flower cannot be installed: no network")

    monkeypatch.setattr(aggregation, "peer_python", missing)
    monkeypatch.setattr(aggregation, "RULES", {"mean": (aggregation.MEAN, 1)})
    found = aggregation.measure(AGGREGATION)
    speed, memory = found.tables
    assert [row[0] for row in speed.rows][:2] == ["copied", aggregation.OURS]
    assert len({row[1] for row in speed.rows}) == 1, "all are about the same bytes"
    assert [row[:2] for row in memory.rows] == [("mean", 1), ("mean", 2)]
    assert "flower cannot be installed: no network" in found.notes
    assert [ratio.at_least for ratio in found.ratios[:2]] == [0.5, 0.5]


def test_widths_that_are_none_are_refused():
    given = argparse.Namespace(**{**vars(AGGREGATION), "widths": (0.0, 2.0)})
    with pytest.raises(BenchmarkError, match="above 0 and at most 1"):
        aggregation.make_round(given)


@pytest.mark.torch
def test_in_every_round_the_cohort_trains_and_its_updates_are_put_together(monkeypatch):
    monkeypatch.setattr(rounds, "read_fashion_mnist", images)
    found = rounds.measure(ROUNDS)
    (table,) = found.tables
    assert [row[:2] for row in table.rows] == [(1, 2), (2, 2)]
    for _, _, devices, loop, jobs, share in table.rows:
        assert min(devices, loop, jobs) > 0
        assert share == pytest.approx((loop + jobs) / (loop + jobs + devices))
    assert found.ratios[0].at_most is None, "the goal is for 1,000 devices"


def test_a_cohort_larger_than_the_fleet_is_refused():
    with pytest.raises(BenchmarkError, match="at most --devices"):
        rounds.measure(argparse.Namespace(**{**vars(ROUNDS), "cohort": 7}))
