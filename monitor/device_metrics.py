"""The metrics of each device. Pure."""

from collections.abc import Callable, Mapping

from broker.messages import Profile, Telemetry
from journal.events import LinkState
from monitor.device_data import Seen, release_name, site_of
from monitor.device_view import DeviceView
from monitor.fleet_view import FleetView
from monitor.metric import Family, Kind, Labels, Metric, family, tidy

Find = Callable[[DeviceView, FleetView, Seen], float | None]
THERE = (LinkState.ONLINE, LinkState.LATE)


def _up(device: DeviceView, view: FleetView, seen: Seen) -> float:
    return float(device.present in THERE and seen.trusts_presence)


def _telemetry(find: Callable[[Telemetry], float | None]) -> Find:
    def found(device: DeviceView, view: FleetView, seen: Seen) -> float | None:
        return find(device.telemetry) if device.telemetry else None

    return found


def _profile(find: Callable[[Profile], float | None]) -> Find:
    def found(device: DeviceView, view: FleetView, seen: Seen) -> float | None:
        return find(device.profile) if device.profile else None

    return found


def _own(find: Callable[[DeviceView], float | None]) -> Find:
    def found(device: DeviceView, view: FleetView, seen: Seen) -> float | None:
        return find(device)

    return found


def _gauge(name: str, text: str) -> Metric:
    return Metric(f"slimfleet_{name}", Kind.GAUGE, text, ("device",))


def _counter(name: str, text: str) -> Metric:
    return Metric(f"slimfleet_{name}", Kind.COUNTER, text, ("device",))


DEVICE_INFO = Metric(
    "slimfleet_device_info",
    Kind.INFO,
    "What a device is and what it says it runs; the value is 1.",
    ("device", "site", "agent", "runtime", "arch", "model"),
)
DRIFT = Metric(
    "slimfleet_drift_psi",
    Kind.GAUGE,
    "Population stability index of the running model against its first answers; from 200 answers"
    " on. Above 0.1 is worth a look, above 0.2 an alarm.",
    ("device", "signal"),
)
# A width of 0 stands for none.
OF_DEVICE: Mapping[Metric, Find] = {
    _gauge("device_up", "1 while its lease is valid and the server is there to see it."): _up,
    _gauge("device_suspended", "1 while an operator keeps it out of training."): _own(
        lambda d: float(bool(d.suspended))
    ),
    _gauge(
        "device_last_seen_timestamp_seconds",
        "When it was last heard of, as far as the journal and its telemetry tell.",
    ): _own(lambda d: d.seen_at),
    _gauge("device_last_telemetry_timestamp_seconds", "When its last telemetry came."): _own(
        lambda d: d.telemetry_at
    ),
    _gauge(
        "device_last_inference_timestamp_seconds", "When it last told that its model answered."
    ): _own(lambda d: d.inferred_at),
    _gauge(
        "device_last_useful_work_timestamp_seconds",
        "When it last answered, trained or confirmed a model.",
    ): _own(lambda d: d.useful_at),
    _gauge(
        "device_clock_offset_seconds", "Its clock less the server's, by its last profile."
    ): _profile(lambda p: p.clock_offset_s),
    _gauge(
        "device_generation_lag", "Orders between the model that it was sent and the confirmed one."
    ): _own(lambda d: float(d.generation_lag)),
    _gauge(
        "device_model_confirmed", "1 if it says that it runs what it was last sent; else 0."
    ): _own(lambda d: float(d.confirmed) if d.deployed and d.deployed.digest else None),
    _gauge("device_outbox_updates", "Updates that wait on it for a receipt."): _telemetry(
        lambda t: float(t.outbox)
    ),
    _gauge("device_memory_bytes", "Resident memory of its agent."): _telemetry(
        lambda t: float(t.memory_bytes) if t.memory_bytes else None
    ),
    _gauge(
        "device_inference_duration_p95_seconds",
        "95 % of the calls of its model took no longer, in its last telemetry.",
    ): _telemetry(lambda t: t.latency_p95_s or None),
    _gauge("device_memory_budget_bytes", "What training may use, by its last profile."): _profile(
        lambda p: float(p.memory_budget) if p.memory_budget else None
    ),
    _gauge("device_disk_free_bytes", "Free disk, by its last profile."): _profile(
        lambda p: float(p.disk_free) if p.disk_free else None
    ),
    _gauge("device_temperature_celsius", "Of its hottest sensor, by its last profile."): _profile(
        lambda p: p.temperature_c
    ),
    _gauge("device_throttled", "1 if its processor was slowed down, by its last profile."): (
        _profile(lambda p: float(bool(p.throttled)))
    ),
    _counter("device_inferences_total", "Answers of its models, as far as telemetry is kept."): (
        _own(lambda d: float(d.inferences))
    ),
    _counter("device_eligible_rounds_total", "Rounds that count for its participation."): _own(
        lambda d: float(d.eligible)
    ),
    _counter("device_aggregated_rounds_total", "Rounds whose aggregate holds its update."): _own(
        lambda d: float(d.taken)
    ),
    _gauge("participation_ratio", "Aggregated over eligible rounds, since it joined."): _own(
        lambda d: d.participation_ratio
    ),
    _gauge(
        "straggler_ratio",
        "Its duration over the median of devices of the same width, median of its last 10 rounds.",
    ): _own(lambda d: d.straggler_index),
    _gauge("width_training_ratio", "Width that it trains."): _own(lambda d: d.width),
    _gauge("width_reward_ratio", "Width that it has earned."): _own(
        lambda d: d.reward.width if d.reward else None
    ),
    _gauge("width_assigned_ratio", "Width that it was last sent."): _own(
        lambda d: d.deployed.width if d.deployed else None
    ),
    _gauge("width_running_ratio", "Width that it says it runs."): _own(
        lambda d: d.report.width if d.report else None
    ),
    _gauge("contribution", "Its contribution by the last allocation, in score units."): _own(
        lambda d: d.reward.contribution if d.reward else d.contribution
    ),
}
DEVICE_METRICS = (DEVICE_INFO, *OF_DEVICE, DRIFT)


def device_families(devices: list[DeviceView], view: FleetView, seen: Seen) -> list[Family]:
    """Return the metrics of these devices; what is not known of one has no series."""
    found = [family(DEVICE_INFO, {_info(device, view): 1.0 for device in devices})]
    for metric, find in OF_DEVICE.items():
        values: dict[Labels, float] = {}
        for device in devices:
            value = find(device, view, seen)
            if value is not None:
                values[tidy(device.name),] = value
        found.append(family(metric, values))
    drifts = {(tidy(one.name), "confidence"): one.drift_index for one in devices}
    found.append(family(DRIFT, {at: psi for at, psi in drifts.items() if psi is not None}))
    return found


def _info(device: DeviceView, view: FleetView) -> Labels:
    profile = device.profile
    runtime = profile.runtimes.get("onnxruntime", "") if profile else ""
    texts = (
        device.name,
        site_of(device),
        device.agent,
        runtime,
        profile.machine if profile else "",
        release_name(view, device.running),
    )
    return tuple(tidy(text) for text in texts)
