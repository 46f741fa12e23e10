"""Ask the operating system what this machine is. No numeric package is imported for it."""

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import psutil

from profiler.profile import MachineFacts

RUNTIMES = ("torch", "onnxruntime", "numpy", "safetensors")
# Whole flag lists have 150 entries; these decide which kernels torch and ONNX Runtime pick, and
# whether a wheel dies with an illegal instruction (a Cortex-A72 has neither atomics nor asimddp).
NUMERIC_FLAGS = frozenset(
    [
        "asimd",
        "asimddp",
        "asimdfhm",
        "asimdhp",
        "atomics",
        "bf16",
        "f16c",
        "fma",
        "fphp",
        "i8mm",
        "neon",
        "sme",
        "sve",
        "sve2",
        "sse4_1",
        "sse4_2",
        "avx",
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_bf16",
        "amx_int8",
        "amx_tile",
    ]
)
TRAINING_SHARE = 0.6  # the rest stays for the machine's own work, which came first


def gather_facts(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> MachineFacts:
    """Return the facts of the machine that runs this.

    Args:
        proc: where Linux describes processors and this process's control group.
        cgroups: where control groups are mounted.
    """
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    limit, used = cgroup_memory(proc, cgroups)
    if limit is not None and limit < total:
        total, available = limit, min(available, max(0, limit - used))
    return MachineFacts(
        cores=usable_cores(),
        cpu_flags=read_cpu_flags(proc / "cpuinfo"),
        memory_total=total,
        memory_available=available,
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        runtimes=installed_versions(RUNTIMES),
    )


def training_budget(facts: MachineFacts, share: float = TRAINING_SHARE) -> int:
    """Return how many bytes training may use where nobody set a limit."""
    return int(facts.memory_available * share)


def usable_cores() -> int:
    """Return the number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_cpu_flags(cpuinfo: Path) -> tuple[str, ...]:
    """Return the numeric instruction sets that ``cpuinfo`` lists, sorted; () where unreadable."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            return tuple(sorted(NUMERIC_FLAGS.intersection(value.split())))
    return ()


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed, without importing them."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cgroup_memory(proc: Path, cgroups: Path) -> tuple[int | None, int]:
    """Return (limit, bytes used) of the tightest control group around this process.

    Limits of outer groups bind too, so every level up to the mount point is read; groups of
    version 1 (``memory/memory.limit_in_bytes``) and 2 (``memory.max``) are understood.

    Returns:
        (None, 0) where no group limits memory, or the system has none.
    """
    tightest: tuple[int | None, int] = (None, 0)
    for folder, limit_file, usage_file in _cgroup_levels(proc, cgroups):
        limit = _read_number(folder / limit_file)
        if limit is not None and (tightest[0] is None or limit < tightest[0]):
            tightest = (limit, _read_number(folder / usage_file) or 0)
    return tightest


def _cgroup_levels(proc: Path, cgroups: Path) -> Iterable[tuple[Path, str, str]]:
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            root, names = cgroups, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / path.strip("/")
        # Inside a container the path may name a folder of the host that is not mounted here.
        while folder != root:
            yield folder, *names
            folder = folder.parent
        yield root, *names


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # absent, or "max"
        return None
