"""The facts that a device reports about itself. Values only; nothing here measures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

PROFILE_SCHEMA = 2
"""Version of `DeviceProfile`: 2 added what was interpolated, inference, clock and round trip."""


@dataclass(frozen=True)
class MachineFacts:
    """What the operating system says about the machine.

    Attributes:
        cores: processors that this process may keep busy, a control group's limit considered.
        cpu_flags: instruction sets that matter to numeric kernels, sorted; empty where unknown.
        memory_total: bytes of memory, or the cgroup's limit where that is lower.
        memory_available: bytes that can be had now without swapping, the limit considered.
        machine: architecture, for example "x86_64" or "aarch64".
        system: operating system with its release.
        python: version of Python.
        runtimes: installed versions of the numeric packages.
        clock_mhz: highest clock of a processor; 0 where unknown.
        swap_total: bytes that can be swapped out; training that needs them is slow beyond use.
        container: kind of container that the agent runs in, for example "docker", or "".
    """

    cores: int
    cpu_flags: tuple[str, ...]
    memory_total: int
    memory_available: int
    machine: str
    system: str
    python: str
    runtimes: Mapping[str, str]
    clock_mhz: float = 0.0
    swap_total: int = 0
    container: str = ""


@dataclass(frozen=True)
class Condition:
    """The state of a machine at one moment.

    Attributes:
        temperature_c: of the hottest sensor, degrees Celsius; None without a sensor.
        throttled: why the processor is slower than it could be, or ""; "since the start" where it
            was earlier and is not now.
        power: "mains", "battery", or "" where the machine does not say.
        disk_free: bytes free where the agent keeps its files; 0 where unknown.
    """

    temperature_c: float | None = None
    throttled: str = ""
    power: str = ""
    disk_free: int = 0


@dataclass(frozen=True)
class WidthCost:
    """What one training width costs on a device.

    Attributes:
        width: width multiplier.
        step_s: seconds of one training step of that sub-model, emulation included.
        peak_bytes: peak resident memory of the training process.
        timed_steps: how many steps were timed; 0 where it was interpolated.
        interpolated: computed from the widths beside it, because the time to measure was over.
    """

    width: float
    step_s: float
    peak_bytes: int
    timed_steps: int = 3
    interpolated: bool = False


@dataclass(frozen=True)
class InferenceCost:
    """What one ONNX file costs on a device with batch 1 and one thread; never emulated.

    Attributes:
        width: width multiplier of the file.
        form: "float32" or "int8".
        latency_s, latency_p95_s: median and 95th percentile of the seconds of one call.
        load_s: seconds until the file answers for the first time.
        size: bytes of the file.
    """

    width: float
    form: str
    latency_s: float
    latency_p95_s: float
    load_s: float
    size: int


@dataclass(frozen=True)
class InferenceFindings:
    """What measuring ONNX files gave.

    Attributes:
        costs: ascending by width.
        failures: one line per file that could not be measured, or why there are none.
    """

    costs: tuple[InferenceCost, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """What timing real training steps gave.

    Attributes:
        model: model id.
        spec_hash: its width spec.
        batch_size: samples a step.
        samples: training samples on the device.
        costs: one entry per width that fitted, ascending; some may be interpolated.
        failures: one line per width that did not.
        baseline_bytes: resident memory of the training process before the first step.
        passing: some failure may not happen again: the machine was short of memory or of time.
    """

    model: str
    spec_hash: str
    batch_size: int
    samples: int
    costs: tuple[WidthCost, ...] = ()
    failures: tuple[str, ...] = ()
    baseline_bytes: int = 0
    passing: bool = False


@dataclass(frozen=True)
class DeviceProfile:
    """What a device can do, as the server's width policy sees it.

    Attributes:
        schema: version of this profile.
        model: model id that the costs were measured with; "" where the device cannot train.
        spec_hash: width spec of that model.
        batch_size: batch of the timed steps.
        costs: one entry per width that fitted, ascending.
        failures: one line per width that did not.
        can_train: false on an inference-only device.
        reason: why it cannot train.
        memory_budget: bytes that training may use.
        link_bytes_per_s: measured (or emulated) rate of the transfer path; 0 where unknown.
        round_trip_s: seconds from a small message to the broker's acknowledgement; 0 where unknown.
        clock_offset_s: the device's clock less the server's, as far as messages show; None where
            unknown. Shown, never decided on.
        samples: training samples on the device.
        cores: processors that the agent may use.
        cpu_flags: instruction sets that matter to numeric kernels.
        memory_total: bytes.
        machine: architecture.
        system: operating system.
        python: version.
        runtimes: versions of the numeric packages.
        clock_mhz, swap_total, container: see `MachineFacts`.
        temperature_c, throttled, power, disk_free: see `Condition`; when the profile was made.
        emulated: name of the emulated machine, or "". The facts from ``cores`` on are always those
            of the machine that really runs the agent.
        inference: one entry per ONNX file that was measured; never emulated.
        inference_failures: one line per file that could not be, or why there are none.
    """

    schema: int = PROFILE_SCHEMA
    model: str = ""
    spec_hash: str = ""
    batch_size: int = 0
    costs: tuple[WidthCost, ...] = ()
    failures: tuple[str, ...] = ()
    can_train: bool = False
    reason: str = ""
    memory_budget: int = 0
    link_bytes_per_s: float = 0.0
    samples: int = 0
    cores: int = 0
    cpu_flags: tuple[str, ...] = ()
    memory_total: int = 0
    machine: str = ""
    system: str = ""
    python: str = ""
    runtimes: Mapping[str, str] = field(default_factory=dict)
    clock_mhz: float = 0.0
    swap_total: int = 0
    container: str = ""
    temperature_c: float | None = None
    throttled: str = ""
    power: str = ""
    disk_free: int = 0
    emulated: str = ""
    round_trip_s: float = 0.0
    clock_offset_s: float | None = None
    inference: tuple[InferenceCost, ...] = ()
    inference_failures: tuple[str, ...] = ()

    def cost(self, width: float) -> WidthCost | None:
        """Return the cost of ``width``, or None where there is none."""
        return next((cost for cost in self.costs if cost.width == width), None)


CARRIED = frozenset(f.name for f in fields(MachineFacts)) & {f.name for f in fields(DeviceProfile)}
"""The facts that a profile carries as they are."""


def describe(
    facts: MachineFacts,
    benchmark: Benchmark | None,
    *,
    memory_budget: int,
    condition: Condition | None = None,
    inference: InferenceFindings | None = None,
    link_bytes_per_s: float = 0.0,
    emulated: str = "",
    reason: str = "",
) -> DeviceProfile:
    """Put facts and benchmark together.

    Args:
        facts: of the machine.
        benchmark: None where the device does not train.
        memory_budget: bytes that training may use.
        condition: of the machine now; None = not looked at.
        inference: what its ONNX files cost; None = not measured.
        link_bytes_per_s: rate of the transfer path, 0 where unknown.
        emulated: name of the emulated machine, or "".
        reason: why there is no benchmark; ignored where there is one.
    """
    measured = benchmark or Benchmark("", "", 0, 0)
    files = inference or InferenceFindings()
    can_train = bool(measured.costs)
    if benchmark is not None and not can_train:
        reason = measured.failures[0] if measured.failures else "no width was timed"
    return DeviceProfile(
        model=measured.model,
        spec_hash=measured.spec_hash,
        batch_size=measured.batch_size,
        costs=measured.costs,
        failures=measured.failures,
        can_train=can_train,
        reason="" if can_train else reason or "training is switched off",
        memory_budget=memory_budget,
        link_bytes_per_s=link_bytes_per_s,
        samples=measured.samples,
        emulated=emulated,
        inference=files.costs,
        inference_failures=files.failures,
        **{name: getattr(facts, name) for name in CARRIED},
        **asdict(condition or Condition()),
    )
