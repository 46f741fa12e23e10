"""How long one network's width spec takes, in a process of its own.

``python -m benchmarks.derivation_time NAME`` derives it twice and prints its seconds. The first
time contains what torch loads and compiles when it traces for the first time in a process, as it
does for whoever runs one command.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.errors import BenchmarkError


@dataclass(frozen=True)
class DerivationTime:
    """CPU seconds of a network's width spec, except where another clock is named.

    Attributes:
        first: the first derivation of the process.
        first_wall: the same, by the clock on the wall.
        again: a second one.
        checked: one with its self-check at every offered width, after those two.
    """

    first: float
    first_wall: float
    again: float
    checked: float


def time_in_fresh_process(name: str) -> DerivationTime:
    """Return how long the width spec of a network takes; imports are not counted.

    Raises:
        BenchmarkError: it cannot be derived.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.derivation_time", name],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchmarkError(f"the width spec of {name} cannot be derived: {last}")
    return DerivationTime(**json.loads(done.stdout))


def time_in_this_process(name: str) -> DerivationTime:
    """Return how long the width spec of a network takes, in a process that may be warm already.

    Raises:
        BenchmarkError: there is no such network.
    """
    import torch

    from benchmarks.references import reference_entry
    from slimmable.derivation.derive import derive
    from slimmable.from_module import slimmable_from_module
    from slimmable.task import regression

    torch.set_num_threads(1)
    torch.manual_seed(0)
    entry = reference_entry(name)
    network = entry.build()
    wall, first = time.perf_counter(), time.process_time()
    derive(network, entry.inputs)
    wall, first = time.perf_counter() - wall, time.process_time() - first
    started = time.process_time()
    derive(network, entry.inputs)
    again = time.process_time() - started
    started = time.process_time()
    slimmable_from_module(name, network, entry.inputs, regression())
    return DerivationTime(first, wall, again, time.process_time() - started)


if __name__ == "__main__":
    print(json.dumps(asdict(time_in_this_process(sys.argv[1]))))
