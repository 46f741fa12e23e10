"""Does what was measured before still hold, for this machine, this model and its load? Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from profiler.prediction import out_of_memory_line
from profiler.profile import Benchmark, MachineFacts

# A step that now takes so many times what it took, or that part of it, says that the machine is
# loaded, cooled or powered otherwise. Steps of one machine at rest differ by less than a tenth.
LOAD_CHANGED = 1.25
LONGEST_S, MOST_BYTES = 86400.0, 1 << 50


@dataclass(frozen=True)
class Question:
    """What was asked of a machine: the same question has the same answer.

    Attributes:
        model, options: which network.
        widths: offered.
        batch_size: samples a step.
        emulated: name of the emulated machine, or "".
        spec_hash: of the network, where the asker knows it.
    """

    model: str
    options: Mapping[str, Any]
    widths: Sequence[float]
    batch_size: int = 0
    emulated: str = ""
    spec_hash: str = ""

    def key(self, facts: MachineFacts) -> str:
        """Return what names the answer on one machine: SHA-256 of question, hardware and runtimes.

        Free memory, the clock of the moment and the system's version are not part of it: they
        change all the time, and what they change shows when a width is timed again.
        """
        hardware = (facts.machine, facts.cores, facts.cpu_flags, facts.memory_total)
        parts = (
            self.model,
            self.options,
            sorted(set(self.widths)),
            self.batch_size,
            self.emulated,
            self.spec_hash,
            hardware,
            facts.python,
            facts.runtimes,
        )
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Remembered:
    """A benchmark as it was measured.

    Attributes:
        benchmark: the result.
        memory_budget: bytes that training might use then.
    """

    benchmark: Benchmark
    memory_budget: int

    def usable(self, memory_budget: int) -> bool:
        """Return whether it is plausible, and nothing failed that might not fail now."""
        found = self.benchmark
        more = self.memory_budget and (not memory_budget or memory_budget > self.memory_budget)
        widths = [cost.width for cost in found.costs]
        return bool(
            found.costs
            and not found.passing
            and not (found.failures and more)
            and widths == sorted(set(widths))
            and all(
                0 < cost.width <= 1
                and 0 < cost.step_s < LONGEST_S
                and 0 <= cost.peak_bytes < MOST_BYTES
                for cost in found.costs
            )
        )

    def within(self, memory_budget: int) -> Benchmark:
        """Return the benchmark without the widths that a smaller budget no longer holds."""
        if not memory_budget:
            return self.benchmark
        over = [cost for cost in self.benchmark.costs if cost.peak_bytes > memory_budget]
        lines = (out_of_memory_line(one.width, one.peak_bytes, memory_budget) for one in over)
        return replace(
            self.benchmark,
            costs=tuple(cost for cost in self.benchmark.costs if cost not in over),
            failures=(*self.benchmark.failures, *lines),
        )


def outdated(known: Benchmark, again: Benchmark) -> str:
    """Return why a benchmark does not hold any more, "" where it does.

    Args:
        known: as it was measured.
        again: one of its widths, timed now.
    """
    if again.spec_hash != known.spec_hash:
        return f"the model's width spec is {again.spec_hash[:8]} now"
    if again.samples != known.samples:
        return f"there are {again.samples} samples now, {known.samples} then"
    if not again.costs:
        return "; ".join(again.failures) or "no width could be timed"
    now = again.costs[0]
    then = next((cost for cost in known.costs if cost.width == now.width), None)
    if then is None:
        return f"width {now.width:g} was not timed then"
    ratio = now.step_s / then.step_s
    if 1 / LOAD_CHANGED <= ratio <= LOAD_CHANGED:
        return ""
    return f"a step at width {now.width:g} takes {ratio:.2f} times what it took"
