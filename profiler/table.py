"""A device profile as text for a terminal."""

from profiler.profile import DeviceProfile, WidthCost

MIB = 2**20
BAR = 30


def profile_table(profile: DeviceProfile) -> str:
    """Return the profile as lines of text: the machine, then each width with a bar of its time."""
    lines = [f"{name:<16}{value}" for name, value in _facts(profile) if value]
    if profile.costs:
        lines += ["", *_cost_lines(profile)]
    if profile.failures:
        lines += ["", *(f"! {failure}" for failure in profile.failures)]
    return "\n".join(lines)


def _facts(profile: DeviceProfile) -> list[tuple[str, str]]:
    emulated = (
        f"{profile.emulated}: compute time, memory budget and link rate are EMULATED"
        if profile.emulated
        else ""
    )
    link = f"{profile.link_bytes_per_s / 1e6:.1f} MB/s" if profile.link_bytes_per_s else ""
    cores = f"{profile.cores} core{'s' if profile.cores != 1 else ''}"
    clock = f" of up to {profile.clock_mhz:.0f} MHz" if profile.clock_mhz else ""
    swap = f", {profile.swap_total / MIB:.0f} MiB swap" if profile.swap_total else ""
    memory = f"{profile.memory_total / MIB:.0f} MiB memory{swap}"
    return [
        ("machine", f"{profile.machine}, {cores}{clock}, {memory}"),
        ("container", profile.container),
        ("condition", _condition(profile)),
        ("emulated", emulated),
        ("system", f"{profile.system}, Python {profile.python}"),
        ("runtimes", ", ".join(f"{name} {version}" for name, version in profile.runtimes.items())),
        ("cpu", " ".join(profile.cpu_flags)),
        ("link", link),
        ("can train", "yes" if profile.can_train else f"no: {profile.reason}"),
        ("memory budget", f"{profile.memory_budget / MIB:.0f} MiB for training"),
        ("data", f"{profile.samples} samples" if profile.samples else ""),
        ("model", f"{profile.model}, batch {profile.batch_size}" if profile.model else ""),
    ]


def _condition(profile: DeviceProfile) -> str:
    heat = "" if profile.temperature_c is None else f"{profile.temperature_c:.0f} °C"
    free = f"{profile.disk_free / MIB:.0f} MiB free on disk" if profile.disk_free else ""
    power = f"on {profile.power}" if profile.power else ""
    return ", ".join(filter(None, (heat, profile.throttled, power, free)))


def _cost_lines(profile: DeviceProfile) -> list[str]:
    slowest = max(cost.step_s for cost in profile.costs)
    head = f"{'width':>6}  {'step':>10}  {'peak memory':>12}  time of one training step"
    return [head, *(_cost_line(cost, slowest) for cost in profile.costs)]


def _cost_line(cost: WidthCost, slowest: float) -> str:
    bar = "█" * max(1, round(BAR * cost.step_s / slowest)) if slowest > 0 else ""
    step = f"{cost.step_s * 1e3:.1f} ms"
    peak = f"{cost.peak_bytes / MIB:.0f} MiB"
    return f"{cost.width:>6g}  {step:>10}  {peak:>12}  {bar}"
