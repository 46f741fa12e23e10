"""What control groups leave this process of the machine: memory and processor time. Linux only."""

from collections.abc import Iterator
from pathlib import Path

from profiler.system_files import text_of

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def cgroup_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int | None, int]:
    """Return (limit, bytes used) of the tightest control group around this process.

    Limits of outer groups bind too, so every level up to the mount point is read; groups of
    version 1 (``memory/memory.limit_in_bytes``) and 2 (``memory.max``) are understood.

    Args:
        proc: where Linux describes this process's control group.
        cgroups: where control groups are mounted.

    Returns:
        (None, 0) where no group limits memory, or the system has none.
    """
    tightest: tuple[int | None, int] = (None, 0)
    for folder, version in _levels(proc, cgroups, "memory"):
        names = ("memory.max", "memory.current")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit = _number(folder / names[0])
        if limit is not None and (tightest[0] is None or limit < tightest[0]):
            tightest = (limit, _number(folder / names[1]) or 0)
    return tightest


def cgroup_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """Return how many processors' time the tightest control group allows; None = no limit.

    ``docker run --cpus 1.5`` is such a limit: the process sees all processors and is stopped for
    the rest of each period once it has had its share.
    """
    found: list[float] = []
    for folder, version in _levels(proc, cgroups, "cpu"):
        if version == 2:
            quota, _, period = text_of(folder / "cpu.max").partition(" ")
        else:
            quota, period = (text_of(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):
            found.append(int(quota) / int(period))
    return min((cores for cores in found if cores > 0), default=None)


def _levels(proc: Path, cgroups: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the folder of each group around this process, with its version, the inmost first."""
    for line in text_of(proc / "self" / "cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            root, version = cgroups, 2
        elif controller in controllers.split(","):
            root, version = cgroups / controller, 1
        else:
            continue
        folder = root / path.strip("/")
        # Inside a container the path may name a folder of the host that is not mounted here.
        while folder != root:
            yield folder, version
            folder = folder.parent
        yield root, version


def _number(file: Path) -> int | None:
    text = text_of(file)
    return int(text) if text.isdecimal() else None  # absent, or "max"
