"""Devices as plain data: what the page, the terminal and ``--json`` show of each. Pure.

Times and text are as in `monitor.fleet_data`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitor.device_view import DeviceView, Link, Moment
from monitor.drift import ALARM, WARN
from monitor.fleet_view import FleetView

Data = dict[str, Any]
STRAGGLER = 1.5
"""From this index on a device counts as a straggler."""
LOW_PARTICIPATION = 0.8
CLOCK_OFF_S = 60.0
"""From so many seconds on a device's clock is wrong; its certificates and logs suffer."""
CLONE_S = 86_400.0
"""For so long after its last sign a second agent with the same id is warned of."""


@dataclass(frozen=True)
class Seen:
    """What a view does not hold itself.

    Attributes:
        now: time of the viewer's machine, seconds since the epoch.
        server_online: whether the server is there; None = nobody was asked, it counts as there.
        damage: of the journal, in one sentence, or "".
    """

    now: float
    server_online: bool | None = None
    damage: str = ""

    @property
    def trusts_presence(self) -> bool:
        """Whether somebody watches the leases."""
        return self.server_online is not False


def site_of(device: DeviceView) -> str:
    """Return the site of a device, or ""."""
    return device.labels.get("site", "")


def device_row(device: DeviceView, view: FleetView, seen: Seen) -> Data:
    """Return one line of the fleet table."""
    assigned = device.deployed
    reward = device.reward
    telemetry, profile = device.telemetry, device.profile
    drift = device.drift_index
    takes_part, reason = device.takes_part(server_online=seen.trusts_presence)
    return {
        "device": device.name,
        "site": site_of(device),
        "labels": dict(device.labels),
        "link": str(device.link(server_online=seen.trusts_presence)),
        "link_since": device.since,
        "link_cause": device.retired or device.suspended or device.cause,
        "telemetry_at": device.telemetry_at,
        "useful_at": device.useful_at,
        "useful": device.useful,
        "agent": device.agent,
        "emulated": device.emulated,
        "can_train": device.can_train,
        "takes_part": takes_part,
        "reason": reason,
        "participation": device.participation_ratio,
        "rounds_eligible": device.eligible,
        "rounds_taken": device.taken,
        "recent": [turn.outcome for turn in device.turns],
        "straggler": device.straggler_index,
        "training_width": device.width,
        "cap": device.cap,
        "cap_width": device.cap_width,
        "entitled_width": reward.width if reward else 0.0,
        "deployed_width": assigned.width if assigned else 0.0,
        "running_width": device.report.width if device.report else 0.0,
        "assigned": assigned.digest if assigned else "",
        "assigned_release": release_name(view, assigned.digest if assigned else ""),
        "installed": device.report.installed if device.report else "",
        "installed_release": release_name(view, device.report.installed if device.report else ""),
        "running": device.running,
        "confirmed": device.confirmed,
        "release": release_name(view, device.running),
        "contribution": reward.contribution if reward else device.contribution,
        "share": reward.share if reward else None,
        "drift": drift,
        "drift_level": drift_level(drift),
        "latency_p95_s": telemetry.latency_p95_s if telemetry else None,
        "inferences": device.inferences,
        "memory_bytes": telemetry.memory_bytes if telemetry else None,
        "outbox": telemetry.outbox if telemetry else None,
        "clock_offset_s": profile.clock_offset_s if profile else None,
        "contradiction": device.contradiction,
        "last_error": device.errors[-1].text if device.errors else "",
        "alarms": alarms(device, seen),
    }


def device_rows(view: FleetView, seen: Seen) -> list[Data]:
    """Return the fleet table, by name."""
    return [device_row(view.devices[name], view, seen) for name in sorted(view.devices)]


def drift_level(index: float | None) -> str:
    """Return "ok", "warn" or "alarm", or "" where there is nothing to judge by."""
    if index is None:
        return ""
    return "alarm" if index >= ALARM else "warn" if index >= WARN else "ok"


def alarms(device: DeviceView, seen: Seen) -> list[str]:
    """Return what is wrong with a device, a few words each."""
    found = ["the journal was changed"] if device.contradiction else []
    if device.retired or device.suspended:
        return found
    link = device.link(server_online=seen.trusts_presence)
    if link in (Link.OFFLINE, Link.STALE):
        found.append(str(link))
    ratio = device.participation_ratio
    if ratio is not None and device.eligible >= 5 and ratio < LOW_PARTICIPATION:
        found.append("low participation")
    slow = device.straggler_index
    if slow is not None and slow >= STRAGGLER:
        found.append("straggler")
    if drift_level(device.drift_index) in ("warn", "alarm"):
        found.append("drift")
    offset = device.profile.clock_offset_s if device.profile else None
    if offset is not None and abs(offset) >= CLOCK_OFF_S:
        found.append("clock is wrong")
    if device.cloned_at is not None and seen.now - device.cloned_at < CLONE_S:
        found.append("two agents with one id?")
    if device.deployed and device.deployed.digest and not device.confirmed:
        found.append("model not confirmed")
    return found


def release_name(view: FleetView, digest: str) -> str:
    """Return a release in a few words; one that nobody made here is shown by its digest."""
    if not digest:
        return ""
    if digest not in view.releases:
        return f"unknown {digest[:12]}"
    release = view.releases[digest][0]
    return f"v{release.version} width {release.manifest.width:g}"


def device_detail(view: FleetView, name: str, seen: Seen) -> Data | None:
    """Return everything about one device, None where nobody knows it."""
    device = view.devices.get(name)
    if device is None:
        return None
    reward = device.reward
    return {
        **device_row(device, view, seen),
        "born_at": device.born_at,
        "session": device.session,
        "profiled_at": device.profiled_at,
        "profile": _profile(device),
        "predicted_s": device.predicted_s,
        "drops": dict(device.drops.most_common()),
        "turns": [
            {"round": turn.round, "outcome": turn.outcome, "detail": turn.detail}
            for turn in device.turns
        ],
        "widths": [
            {"at": one.at, "width": one.width, "reason": one.reason} for one in device.widths
        ],
        "contributions": [
            {"round": number, "score": score} for number, score in device.contributions
        ],
        "rewards": [
            {"at": at, "width": one.width, "score": one.score, "reason": one.reason}
            for at, one in device.rewards
        ],
        "reward": reward_row(device) if reward else None,
        "deployment": _deployment(device),
        "report": _report(device),
        "notes": moments(device.notes),
        "errors": moments(device.errors),
        "timeline": moments(device.timeline),
    }


def _profile(device: DeviceView) -> Data | None:
    profile = device.profile
    if profile is None:
        return None
    return {
        "cores": profile.cores,
        "memory_budget": profile.memory_budget,
        "samples": profile.samples,
        "link_bytes_per_s": profile.link_bytes_per_s,
        "widths": [
            {"width": one.width, "step_s": one.step_s, "peak_bytes": one.peak_bytes}
            for one in profile.costs
        ],
    }


def _deployment(device: DeviceView) -> Data | None:
    order = device.deployed
    if order is None:
        return None
    return {
        "at": device.deployed_at,
        "counter": order.counter,
        "digest": order.digest,
        "width": order.width,
        "reason": order.reason,
        "expires_at": order.expires_at,
    }


def _report(device: DeviceView) -> Data | None:
    report = device.report
    if report is None:
        return None
    return {
        "at": device.reported_at,
        "counter": report.counter,
        "state": str(report.state),
        "running": report.running,
        "installed": report.installed,
        "width": report.width,
        "code": report.code,
        "detail": report.detail,
        "latency_p50_s": report.latency_p50_s,
        "latency_p95_s": report.latency_p95_s,
        "evaluations": [
            {"data": one.data, "score": one.score, "samples": one.samples}
            for one in report.evaluations
        ],
    }


def reward_row(device: DeviceView) -> Data:
    """Return what a device earned; the caller made sure that it has a reward."""
    reward = device.reward
    assert reward is not None
    return {
        "device": device.name,
        "site": site_of(device),
        "contribution": reward.contribution,
        "low": reward.low,
        "high": reward.high,
        "share": reward.share,
        "target": reward.target,
        "width": reward.width,
        "score": reward.score,
        "alone": reward.alone,
        "equals": list(reward.equals),
        "reason": reward.reason,
        "deployed_width": device.deployed.width if device.deployed else 0.0,
        "running_width": device.report.width if device.report else 0.0,
        "confirmed": device.confirmed,
    }


def moments(lines: Sequence[Moment]) -> list[Data]:
    """Return lines of a timeline, the newest first."""
    return [{"at": one.at, "kind": one.kind, "text": one.text} for one in reversed(lines)]
