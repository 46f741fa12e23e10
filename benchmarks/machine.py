"""Which machine measured: without it a figure means nothing."""

import os
import platform
from pathlib import Path

from profiler.facts import gather_facts


def describe_machine() -> dict[str, str]:
    """Return the facts that stand above every result."""
    facts = gather_facts()
    runtimes = ", ".join(f"{name} {version}" for name, version in sorted(facts.runtimes.items()))
    found = {
        "machine": f"{facts.cores} cores, {processor_name()}, {facts.memory_total / 2**30:.0f} GiB",
        "software": f"{facts.system}, Python {facts.python}, {runtimes}",
    }
    if hasattr(os, "getloadavg"):
        # Above the number of cores others were at work too: times are then too long.
        found["load at the start"] = f"{os.getloadavg()[0]:.1f} runnable processes"
    return found


def processor_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
