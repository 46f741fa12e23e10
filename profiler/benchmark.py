"""Time real training steps of each width on this machine. Imports torch.

Nothing that leaves the model out predicts a step well, so the model itself is trained for a few
steps on the device's own data, from the narrowest width upwards. Before each wider one its memory
is extrapolated, and the benchmark stops where the budget would be passed. So peaks are honest: a
process that has trained a wide sub-model keeps the memory for the narrow one after it.

There is a budget of time too. Where all widths would take longer, some between the narrowest and
the widest are left out, to be interpolated (`profiler.interpolation`), and of the others as few
steps are timed as must be.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from profiler.interpolation import forecast_step
from profiler.prediction import extrapolate_memory, out_of_memory_line, predict_memory
from profiler.profile import Benchmark, WidthCost
from profiler.resident_memory import PeakMeter
from slimmable.evaluation import state_of
from slimmable.memory import saved_bytes
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.state import decode_state, encode_state
from slimmable.training import Training, TrainingRule, loss_function

WARM_UP_STEPS = 2  # the first steps load kernels and fill the allocator
TIMED_STEPS = 3
LEAST_STEPS = 2  # one warms up, one is timed
# Beside other work, a step of milliseconds either meets it or does not. So on a real machine steps
# are timed for so long, or so many of them; a round takes their sum, so their mean predicts it.
TIMED_S = 0.4
MOST_STEPS = 100
FLOAT_BYTES = 4


@dataclass(frozen=True)
class BenchmarkSettings:
    """How the benchmark runs.

    Attributes:
        widths: offered training widths.
        batch_size: samples a step.
        memory_budget: bytes the process may hold; 0 = no limit.
        factor: emulated seconds per CPU second; None = a real machine, whose wall time counts.
        time_budget_s: seconds that all widths together may take; 0 = no limit.
    """

    widths: Sequence[float]
    batch_size: int
    memory_budget: int = 0
    factor: float | None = None
    time_budget_s: float = 0.0


@dataclass(frozen=True)
class BenchmarkHooks:
    """What the caller is told while the benchmark runs.

    Attributes:
        before_width: called with the width that comes next.
        after_width: called with its cost.
        after_step: called after each step; may wait, which is not timed, or raise.
        clock: seconds, by which the budget of time is kept.
    """

    before_width: Callable[[float], None] = lambda _width: None
    after_width: Callable[[WidthCost], None] = lambda _cost: None
    after_step: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.perf_counter


def run_benchmark(
    model: SlimmableModel,
    samples: Samples,
    settings: BenchmarkSettings,
    hooks: BenchmarkHooks | None = None,
) -> Benchmark:
    """Return the cost of each width that fits the memory budget.

    Args:
        model: what is trained.
        samples: the device's own data.
        settings: widths, batch, budget, emulation.
        hooks: told about progress.
    """
    hooks = hooks or BenchmarkHooks()
    baseline = PeakMeter().sample()
    widths = sorted(set(settings.widths))
    forecast = _MemoryForecast(model, samples, settings.batch_size, baseline)
    allowance = _Allowance(settings.time_budget_s, hooks.clock)
    costs: list[WidthCost] = []
    failures: list[str] = []
    budget = settings.memory_budget or sys.maxsize
    for width in widths:
        if costs and not allowance.includes(width, _widest(widths, width, forecast, budget)):
            continue
        hooks.before_width(width)
        needs = forecast.peak(width)
        if needs <= budget:
            cost = _time_width(model, samples, width, settings, hooks, allowance)
            needs = cost.peak_bytes
            forecast.learn(width, needs)
            allowance.learn(cost)
            if needs <= budget:
                costs.append(cost)
                hooks.after_width(cost)
        if needs > budget:
            # Wider ones need more still, but each is named so that the operator sees them all.
            failures.append(out_of_memory_line(width, needs, budget))
    return Benchmark(
        model=model.name,
        spec_hash=model.spec.spec_hash,
        batch_size=settings.batch_size,
        samples=len(samples),
        costs=tuple(costs),
        failures=tuple(failures),
        baseline_bytes=baseline,
    )


def _widest(
    widths: Sequence[float], width: float, forecast: "_MemoryForecast", budget: int
) -> float:
    """Return the widest width, ``width`` or wider, that is expected to fit the memory."""
    return max([width, *(w for w in widths if w > width and forecast.peak(w) <= budget)])


def saved_activation_bytes(model: SlimmableModel, width: float, samples: Samples) -> int:
    """Return the bytes that one training step on ``samples`` saves for its backward pass."""
    network = model.build(width).train()

    def forward() -> torch.Tensor:
        outputs = network(torch.from_numpy(samples.x))
        return loss_function(model.task)(outputs, torch.from_numpy(samples.y))

    return saved_bytes(network, forward)


class _Allowance:
    """Says which widths, and how many steps of each, the budget of time still holds.

    Its seconds are those that pass, waits of an emulated machine included.
    """

    def __init__(self, budget_s: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + budget_s if budget_s > 0 else float("inf")
        self._known: list[WidthCost] = []  # with seconds that passed in place of those of a step
        self._begun = 0.0

    def includes(self, width: float, widest: float) -> bool:
        """Return whether ``width`` may be timed and time be left for the widest one that fits."""
        if not self._known or width == widest:
            return True
        needed = WARM_UP_STEPS + TIMED_STEPS
        both = forecast_step(self._known, width) + forecast_step(self._known, widest)
        return self._clock() + needed * both <= self._end

    def begin(self) -> None:
        self._begun = self._clock()

    def steps(self, done: int) -> int:
        """Return how many more steps fit, as long as those that are done."""
        now = self._clock()
        took = (now - self._begun) / done
        return int(min((self._end - now) / took, MOST_STEPS)) if took > 0 else MOST_STEPS

    def learn(self, cost: WidthCost) -> None:
        passed = (self._clock() - self._begun) / (WARM_UP_STEPS + cost.timed_steps)
        self._known.append(replace(cost, step_s=max(passed, 1e-9)))


class _MemoryForecast:
    """Says what the next width will need, from the formula and the widths measured so far."""

    def __init__(
        self, model: SlimmableModel, samples: Samples, batch_size: int, baseline: int
    ) -> None:
        self._model = model
        self._batch = samples.take(np.arange(min(batch_size, len(samples))))
        self._baseline = baseline
        self._probe: tuple[float, int] | None = None  # (width, saved bytes) of the narrowest
        self._measured: tuple[float, int] | None = None  # (width, peak) of the widest so far

    def peak(self, width: float) -> int:
        if self._measured is None:
            return predict_memory(
                self._baseline, self._parameter_bytes(width), self._activation_bytes(width)
            )
        known, peak = self._measured
        return extrapolate_memory(
            peak,
            (self._parameter_bytes(known), self._parameter_bytes(width)),
            (self._activation_bytes(known), self._activation_bytes(width)),
        )

    def learn(self, width: float, peak: int) -> None:
        self._measured = (width, peak)

    def _parameter_bytes(self, width: float) -> int:
        return FLOAT_BYTES * self._model.spec.parameter_count(width)

    def _activation_bytes(self, width: float) -> int:
        # Saved activations grow in proportion to the width, so only the narrowest, the one that
        # costs least, is run to count them.
        if self._probe is None:
            self._probe = (width, saved_activation_bytes(self._model, width, self._batch))
        return round(self._probe[1] * width / self._probe[0])


def _time_width(
    model: SlimmableModel,
    samples: Samples,
    width: float,
    settings: BenchmarkSettings,
    hooks: BenchmarkHooks,
    allowance: _Allowance,
) -> WidthCost:
    clock = time.perf_counter if settings.factor is None else time.process_time
    meter = PeakMeter()
    # Through bytes and back, as a task's weights come, so that the peak holds those copies too.
    state = decode_state(encode_state(state_of(model.build(width), model)))
    rule = TrainingRule(
        steps=WARM_UP_STEPS + TIMED_STEPS,
        batch_size=settings.batch_size,
        learning_rate=1e-4,  # small: nothing is learnt here, and nothing may diverge
        momentum=0.9,
        weight_decay=0.0,
        widths=(width,),
    )
    durations: list[float] = []
    rest = rule.steps
    allowance.begin()
    with torch.random.fork_rng(devices=[]):
        started = clock()
        training = Training(model, state, width, samples, rule, np.random.default_rng(0))
        while rest > 0:
            training.step()
            durations.append(clock() - started)
            meter.observe()
            hooks.after_step()
            rest = _more_steps(durations, allowance, real=settings.factor is None)
            started = clock()
        encode_state(training.state())
    timed = durations[min(WARM_UP_STEPS, len(durations) - 1) :]
    average = statistics.mean if settings.factor is None else statistics.median
    return WidthCost(
        width=width,
        step_s=average(timed) * (settings.factor or 1.0),
        peak_bytes=meter.peak(),
        timed_steps=len(timed),
    )


def _more_steps(durations: Sequence[float], allowance: _Allowance, *, real: bool) -> int:
    """Return how many steps are still to be done: of their number, and of their duration."""
    done = len(durations)
    wanted = WARM_UP_STEPS + TIMED_STEPS
    if real and done >= wanted and sum(durations[WARM_UP_STEPS:]) < TIMED_S:
        wanted = WARM_UP_STEPS + MOST_STEPS
    return min(wanted - done, max(LEAST_STEPS - done, allowance.steps(done)))
