"""A device profile as text for a terminal."""

from profiler.profile import DeviceProfile, InferenceCost, WidthCost

MIB = 2**20
BAR = 30


def profile_table(profile: DeviceProfile) -> str:
    """Return the profile as lines of text: the machine, then each width with a bar of its time."""
    lines = [f"{name:<16}{value}" for name, value in _facts(profile) if value]
    if profile.costs:
        lines += ["", *_cost_lines(profile)]
    if profile.failures:
        lines += ["", *(f"! {failure}" for failure in profile.failures)]
    if profile.inference:
        lines += ["", *_inference_lines(profile)]
    if profile.inference_failures:
        lines += ["", *(f"! {failure}" for failure in profile.inference_failures)]
    return "\n".join(lines)


def _facts(profile: DeviceProfile) -> list[tuple[str, str]]:
    emulated = (
        f"{profile.emulated}: compute time, memory budget and link rate are EMULATED"
        if profile.emulated
        else ""
    )
    link = f"{profile.link_bytes_per_s / 1e6:.1f} MB/s" if profile.link_bytes_per_s else ""
    if profile.round_trip_s:
        link = ", ".join(filter(None, (link, f"round trip {profile.round_trip_s * 1e3:.3g} ms")))
    ahead = profile.clock_offset_s
    offset = "" if ahead is None else f"{ahead:+.3f} s against the server's"
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
        ("clock", offset),
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
    lines = [head, *(_cost_line(cost, slowest) for cost in profile.costs)]
    if any(cost.interpolated for cost in profile.costs):
        lines.append("~ interpolated: the time for measuring was over")
    return lines


def _cost_line(cost: WidthCost, slowest: float) -> str:
    about = "~" if cost.interpolated else ""
    step = f"{about}{cost.step_s * 1e3:.1f} ms"
    peak = f"{about}{cost.peak_bytes / MIB:.0f} MiB"
    bar = _bar(cost.step_s, slowest, "░" if cost.interpolated else "█")
    return f"{cost.width:>6g}  {step:>10}  {peak:>12}  {bar}"


def _inference_lines(profile: DeviceProfile) -> list[str]:
    slowest = max(cost.latency_s for cost in profile.inference)
    head = f"{'width':>6}  {'form':<8}{'call':>10}  {'95 %':>10}  {'load':>10}  {'file':>10}"
    return [
        f"{head}  time of one inference",
        *(_inference_line(cost, slowest) for cost in profile.inference),
    ]


def _inference_line(cost: InferenceCost, slowest: float) -> str:
    times = (cost.latency_s, cost.latency_p95_s, cost.load_s)
    call, high, load = (f"{seconds * 1e3:.2f} ms" for seconds in times)
    size = f"{cost.size / 1024:.0f} KiB"
    bar = _bar(cost.latency_s, slowest, "█")
    return f"{cost.width:>6g}  {cost.form:<8}{call:>10}  {high:>10}  {load:>10}  {size:>10}  {bar}"


def _bar(value: float, most: float, mark: str) -> str:
    return mark * max(1, round(BAR * value / most)) if most > 0 else ""
