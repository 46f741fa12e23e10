"""The benchmark: which widths it times, and where it stops."""

import sys

import numpy as np
import pytest

from profiler.benchmark import (
    MOST_STEPS,
    TIMED_S,
    BenchmarkHooks,
    BenchmarkSettings,
    run_benchmark,
    saved_activation_bytes,
)
from profiler.resident_memory import PeakMeter
from slimmable.model import load_model
from slimmable.samples import Samples

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def model():
    return load_model("cnn1d", {"sensors": 3, "length": 32, "classes": ["still", "moving"]})


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return Samples(
        rng.normal(size=(24, 3, 32)).astype(np.float32),
        rng.integers(0, 2, 24),
        np.arange(24),
    )


def test_every_width_is_timed_from_the_narrowest_up(model, samples):
    begun, finished, steps = [], [], []
    found = run_benchmark(
        model,
        samples,
        BenchmarkSettings(widths=(1.0, 0.25, 0.5), batch_size=8),
        BenchmarkHooks(begun.append, finished.append, lambda: steps.append(1)),
    )
    assert begun == [cost.width for cost in found.costs] == [0.25, 0.5, 1.0]
    assert finished == list(found.costs)
    assert len(steps) == sum(2 + cost.timed_steps for cost in found.costs)
    assert all(cost.timed_steps >= 3 for cost in found.costs)
    assert all(cost.step_s > 0 and cost.peak_bytes > 0 for cost in found.costs)
    assert found.spec_hash == model.spec.spec_hash
    assert found.samples == 24


class Clock:
    """Passes so many seconds a step; one second passes for whatever else is done at a width."""

    def __init__(self, seconds):
        self.now, self.width, self._seconds = 0.0, 0.0, seconds

    def __call__(self):
        return self.now

    def step(self):
        self.now += self._seconds[self.width]

    def begin(self, width):
        self.width = width


def timed_within(model, samples, budget, seconds):
    """Return width -> timed steps, where a step of each width takes so many seconds."""
    clock = Clock(seconds)
    found = run_benchmark(
        model,
        samples,
        BenchmarkSettings(tuple(seconds), 8, factor=1.0, time_budget_s=budget),
        BenchmarkHooks(clock.begin, after_step=clock.step, clock=clock),
    )
    return {cost.width: cost.timed_steps for cost in found.costs}, clock.now


STEPS = {0.25: 1.0, 0.5: 3.2, 0.75: 6.5, 1.0: 10.6}


@pytest.mark.parametrize(
    ("budget", "timed"),
    [
        (0.0, {0.25: 3, 0.5: 3, 0.75: 3, 1.0: 3}),
        (110.0, {0.25: 3, 0.5: 3, 0.75: 3, 1.0: 3}),
        (76.0, {0.25: 3, 0.5: 3, 1.0: 3}),
        (60.0, {0.25: 3, 1.0: 3}),
        (30.0, {0.25: 3, 1.0: 1}),
        (1.0, {0.25: 1, 1.0: 1}),
    ],
)
def test_within_a_budget_of_time_the_ends_are_timed_and_less_in_between(
    model, samples, budget, timed
):
    found, passed = timed_within(model, samples, budget, STEPS)
    assert found == timed
    # At the least two steps of the narrowest and of the widest are done, whatever the budget.
    assert not budget or passed <= max(budget, 2 * (STEPS[0.25] + STEPS[1.0]))


def test_short_steps_of_a_real_machine_are_timed_for_a_while(model, samples):
    [cost] = run_benchmark(model, samples, BenchmarkSettings((0.25,), 8)).costs
    assert cost.timed_steps > 3
    assert cost.timed_steps * cost.step_s >= TIMED_S or cost.timed_steps == MOST_STEPS


def test_an_emulated_machine_is_slower_by_its_factor(model, samples):
    plain, slow = (
        run_benchmark(model, samples, BenchmarkSettings((0.25,), 8, factor=factor)).costs[0]
        for factor in (1.0, 1e6)
    )
    assert slow.step_s > 1e3 * plain.step_s


def test_widths_beyond_the_memory_budget_are_named_and_not_run(model, samples):
    steps = []
    found = run_benchmark(
        model,
        samples,
        BenchmarkSettings((0.25, 1.0), 8, memory_budget=PeakMeter().sample()),
        BenchmarkHooks(after_step=lambda: steps.append(1)),
    )
    assert found.costs == ()
    assert [line.split(":")[0] for line in found.failures] == [
        "out of memory at width 0.25",
        "out of memory at width 1",
    ]
    assert not steps


def test_saved_activations_grow_with_width_and_batch(model, samples):
    narrow, wide = (saved_activation_bytes(model, width, samples) for width in (0.25, 1.0))
    half = saved_activation_bytes(model, 1.0, samples.take(np.arange(12)))
    assert 2 * narrow < wide < 8 * narrow
    assert half == pytest.approx(wide / 2, rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is Linux's")
def test_a_peak_between_two_looks_is_not_missed():
    meter = PeakMeter()
    before = meter.sample()
    block = np.ones(64 * 2**20, dtype=np.uint8)
    del block
    assert meter.peak() >= before + 60 * 2**20
