"""How long does one call of each of several ONNX files take? Imports onnxruntime.

On a machine that does other work too, a difference between two files measured one after the other
may be a difference between two moments. So the files take turns, call by call.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from exporter.errors import ExportError
from exporter.preoptimised import load_level
from exporter.sessions import REFUSED, first_line, open_session
from slimmable.state import Array

WARM_UP_CALLS = 5
LOW_QUANTILE = 0.2


@dataclass(frozen=True)
class Latency:
    """Seconds of one call.

    Attributes:
        low_s: a fifth of the calls are at least as quick. Other work on the machine can only add
            to a call, so this is what to compare files by.
        median_s: what a caller mostly waits.
        p95_s: what a caller waits at worst, one call in twenty aside.
        calls: how many were timed.
    """

    low_s: float
    median_s: float
    p95_s: float
    calls: int


def measure_latencies(
    models: Mapping[str, bytes],
    inputs: Mapping[str, Array],
    *,
    threads: int = 1,
    calls: int = 100,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Return the latency of each file, measured in turns.

    Args:
        models: the files by name; all take the same inputs. A pre-optimised one is loaded as it
            says.
        inputs: by the input's name: a batch, of one sample for the latency of a device.
        threads: of ONNX Runtime.
        calls: how many of each file to time, after warming up.
        clock: seconds. `time.thread_time` counts the work of this thread alone, which other
            programs disturb less; it knows nothing of further threads.

    Raises:
        ExportError: a file does not load, or does not run on these inputs.
    """
    if calls < 1:
        raise ValueError(f"{calls} calls: time at least one")
    sessions = {
        name: open_session(onnx, threads=threads, level=load_level(onnx))
        for name, onnx in models.items()
    }
    feed = dict(inputs)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    order = list(models)
    for turn in range(-WARM_UP_CALLS, calls):
        for name in order:
            run = sessions[name].run
            started = clock()
            try:
                run(None, feed)
            except (*REFUSED, ValueError) as error:  # ValueError: a wrong name of an input
                raise ExportError(
                    f"{name} does not run on inputs of shape"
                    f" { {key: x.shape for key, x in feed.items()} }: {first_line(error)}"
                ) from error
            took = clock() - started
            if turn >= 0:
                seconds[name].append(took)
        order.append(order.pop(0))  # so that none always follows the same other one
    return {name: _summary(times) for name, times in seconds.items()}


def _summary(seconds: list[float]) -> Latency:
    low, median, high = np.quantile(seconds, (LOW_QUANTILE, 0.5, 0.95))
    return Latency(float(low), float(median), float(high), len(seconds))
