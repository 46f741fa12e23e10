"""Latencies of several files are measured in turns."""

import itertools

import numpy as np
import pytest

from exporter.errors import ExportError, ParityError
from exporter.latency import WARM_UP_CALLS, Latency, measure_latencies
from tests.fakes.toy_onnx import FEATURES, linear

ONE = {"x": np.zeros((1, FEATURES), dtype=np.float32)}
FILE = linear(np.eye(FEATURES))
OTHER = linear(np.ones((FEATURES, 3)))


class Stopwatch:
    """A clock on which the calls take what a list says, in the order in which they are made."""

    def __init__(self, seconds) -> None:
        self._seconds = iter(seconds)
        self._now = 0.0
        self._running = False

    def __call__(self):
        if self._running:
            self._now += next(self._seconds)
        self._running = not self._running
        return self._now


def test_the_files_take_turns_and_none_always_follows_the_same_one():
    calls = 6
    # Each call takes its number: the order of the calls can be read off the quantiles.
    clock = Stopwatch(itertools.count())
    found = measure_latencies({"a": FILE, "b": OTHER, "c": FILE}, ONE, calls=calls, clock=clock)

    medians = [latency.median_s for latency in found.values()]
    assert max(medians) - min(medians) < 3
    assert [latency.calls for latency in found.values()] == [calls] * 3


def test_warming_up_does_not_count():
    slow = [100.0] * WARM_UP_CALLS
    found = measure_latencies({"a": FILE}, ONE, calls=4, clock=Stopwatch([*slow, 1, 1, 1, 1]))
    assert found == {"a": Latency(low_s=1.0, median_s=1.0, p95_s=1.0, calls=4)}


def test_the_quantiles_are_those_of_the_calls():
    seconds = [0.0] * WARM_UP_CALLS + list(range(101))
    found = measure_latencies({"a": FILE}, ONE, calls=101, clock=Stopwatch(seconds))["a"]
    assert (found.low_s, found.median_s, found.p95_s) == pytest.approx((20, 50, 95))


def test_a_file_that_does_not_run_on_the_inputs_is_named():
    wrong = {"x": np.zeros((1, FEATURES + 1), dtype=np.float32)}
    with pytest.raises(ExportError, match=r"^b does not run.*\(1, 5\)"):
        measure_latencies({"b": FILE}, wrong, calls=1)
    with pytest.raises(ExportError, match="does not run"):
        measure_latencies({"b": FILE}, {"y": ONE["x"]}, calls=1)


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(ParityError):
        measure_latencies({"a": b"\xff" * 9}, ONE, calls=1)


def test_at_least_one_call_is_timed():
    with pytest.raises(ValueError, match="at least one"):
        measure_latencies({"a": FILE}, ONE, calls=0)
