"""From a finished campaign to the rows of its report."""

from collections.abc import Mapping, Sequence
from statistics import median

from coordinator.capacity import granted_width
from coordinator.fleet import POST_TRAINING_NOTICE, Campaign, Device, confirmed
from journal import events as e
from journal.chain import Record
from monitor.run_report import DeviceRow, RoundRow, RunReport
from slimfleet.demo.scenario import Scenario

EMULATION_NOTICE = (
    "All machines are EMULATED on this one: compute speed, memory budget and link rate are slowed"
    " down or capped as their table says (profiler/emulation.py); inference latencies are this"
    " machine's own."
)


def run_report(
    scenario: Scenario,
    state: Campaign,
    records: Sequence[Record],
    alone: Mapping[str, float],
    seconds: float,
) -> RunReport:
    """Return the report of a finished run.

    Args:
        scenario: who took part.
        state: final state of the campaign.
        records: its journal.
        alone: device -> score of its stand-alone model on the unseen person.
        seconds: of the whole run.
    """
    settings = state.settings
    assert settings is not None
    machine_of = {member.device: member.machine for member in scenario.devices}
    allocation = state.allocation
    return RunReport(
        title="Slimfleet demonstration",
        fleet=scenario.fleet,
        notices=(
            EMULATION_NOTICE,
            POST_TRAINING_NOTICE,
        ),
        score_name="accuracy",
        devices=tuple(
            device_row(state, device, machine_of.get(name, ""), alone.get(name))
            for name, device in sorted(state.devices.items())
        ),
        rounds=round_rows(records),
        curve=state.scored.curve if state.scored else (),
        untrained=state.untrained,
        stopped=state.stopped,
        rule=allocation.rule if allocation else "",
        rule_note=allocation.note if allocation else "",
        method=state.scored.method if state.scored else settings.contributions.method,
        seconds=seconds,
        grid=settings.widths,
    )


def device_row(state: Campaign, device: Device, machine: str, alone: float | None) -> DeviceRow:
    """Return one device's row."""
    assert state.settings is not None
    width, reason = granted_width(device, state.settings)
    report, deployed = device.report, device.deployed
    scores = {one.data: one.score for one in report.evaluations} if report else {}
    release = state.releases.get(deployed.digest) if deployed else None
    return DeviceRow(
        device=device.device,
        machine=f"{machine} (emulated)" if machine else "",
        predicted_s=device.predicted_s,
        observed_s=median(device.observed_s) if device.observed_s else None,
        training_width=device.width,
        training_reason=device.reason,
        rounds_taken=device.rounds_taken,
        rounds_missed=device.rounds_missed,
        missed_why=device.last_drop,
        contribution=state.contribution(device.device),
        share=device.reward.share if device.reward else None,
        reward_width=width,
        reward_reason=reason,
        unseen_score=scores.get("unseen-person"),
        own_score=scores.get("own"),
        alone_score=alone,
        onnx_bytes=release[0].manifest.size if release else 0,
        latency_p50_s=report.latency_p50_s if report else 0.0,
        latency_p95_s=report.latency_p95_s if report else 0.0,
        confirmed=report.running if report and confirmed(device) else "",
    )


def round_rows(records: Sequence[Record]) -> tuple[RoundRow, ...]:
    """Return one row per closed round."""
    opened: dict[int, tuple[float, e.RoundOpened]] = {}
    closed: dict[int, tuple[float, e.RoundClosed]] = {}
    scores: dict[int, float] = {}
    drops: dict[int, list[str]] = {}
    shared: dict[str, int] = {}
    uploaded: dict[int, int] = {}
    for record in records:
        match record.event:
            case e.RoundOpened() as event:
                opened[event.round] = (record.at, event)
            case e.RoundClosed() as event:
                closed[event.round] = (record.at, event)
            case e.RoundScored() as event:
                scores[event.round] = event.curve[-1].score
            case e.DeviceDropped() as event:
                drops.setdefault(event.round, []).append(f"{event.device}: {event.reason}")
            case e.BlobShared() as event:
                shared[event.purpose] = shared.get(event.purpose, 0) + event.size
            case e.UpdateAccepted() as event:
                uploaded[event.round] = uploaded.get(event.round, 0) + event.size
    return tuple(
        RoundRow(
            number=number,
            invited=len(opened[number][1].tasks),
            aggregated=len(
                {
                    *closed[number][1].aggregated,
                    *(step.device for step in closed[number][1].late),
                }
            ),
            seconds=closed[number][0] - opened[number][0],
            score=scores.get(number),
            drops=tuple(drops.get(number, ())),
            shared_bytes=shared.get(f"round-{number}", 0),
            uploaded_bytes=uploaded.get(number, 0),
        )
        for number in sorted(closed)
    )
