"""Ask the operating system what this machine is. No numeric package is imported for it."""

import math
import os
import platform
import warnings
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import psutil

from profiler.cgroups import CGROUPS, PROC, cgroup_cores, cgroup_memory
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


def gather_facts(proc: Path = PROC, cgroups: Path = CGROUPS) -> MachineFacts:
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
        cores=usable_cores(cgroup_cores(proc, cgroups)),
        cpu_flags=read_cpu_flags(proc / "cpuinfo"),
        memory_total=total,
        memory_available=available,
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        runtimes=installed_versions(RUNTIMES),
        clock_mhz=_clock_mhz(),
        swap_total=_swap_total(),
        container=container_of(Path("/"), os.environ),
    )


def training_budget(facts: MachineFacts, share: float = TRAINING_SHARE) -> int:
    """Return how many bytes training may use where nobody set a limit."""
    return int(facts.memory_available * share)


def usable_cores(allowed: float | None = None) -> int:
    """Return the number of processors that this process may keep busy.

    Args:
        allowed: processors' time that a control group leaves, see `profiler.cgroups`.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return cores if allowed is None else max(1, min(cores, math.ceil(allowed)))


def container_of(root: Path, environment: Mapping[str, str]) -> str:
    """Return what kind of container this process runs in, or "".

    Args:
        root: of the file system.
        environment: of the process.
    """
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run" / ".containerenv").exists():
        return "podman"
    try:  # systemd names the kind, as lxc or systemd-nspawn
        named = (root / "run" / "systemd" / "container").read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
    return named.strip()[:32]


def _clock_mhz() -> float:
    try:
        clock = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError, RuntimeError):
        return 0.0
    return float(clock.max or clock.current) if clock else 0.0


def _swap_total() -> int:
    with warnings.catch_warnings():  # psutil warns where a container hides /proc/vmstat
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return int(psutil.swap_memory().total)
        except (OSError, RuntimeError):
            return 0


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
