"""How a campaign and its devices are doing, in words and numbers for people. Pure."""

from broker import messages as m
from coordinator.entitlement import training_width
from coordinator.fleet import (
    Campaign,
    Device,
    Phase,
    Round,
    confirmed,
    remaining,
    settings_of,
)
from coordinator.inputs import brief
from coordinator.lateness import awaited
from coordinator.presence import PRESENT
from coordinator.round_schedule import eligible
from coordinator.settings import Settings

EXAMPLES = 3  # devices that are named where no round opens
RETIRED = "retired"  # stands for the link of a device that is gone for good
SUMMARY_LIMIT = 90  # lines; with the longest names, so many stay below the control limit


def summary(state: Campaign, settings: Settings) -> m.Summary:
    """Return how the whole fleet is doing."""
    devices = sorted(state.devices.values(), key=lambda device: device.device)
    return m.Summary(
        phase=state.phase,
        detail=brief(phase_detail(state)),
        round=round_of_budget(state),
        rounds=settings.rounds.budget,
        score=state.scored.curve[-1].score if state.scored and state.scored.curve else None,
        online=sum(device.link in PRESENT for device in remaining(state)),
        devices=tuple(
            m.DeviceSummary(
                device=device.device,
                link=RETIRED if device.retired else device.link,
                participation=participation_now(state, device)[0],
                training_width=training_width(state, device, settings)[0],
                running_width=device.report.width if device.report else 0.0,
            )
            for device in devices[:SUMMARY_LIMIT]
        ),
        more=max(0, len(devices) - SUMMARY_LIMIT),
    )


def round_of_budget(state: Campaign) -> int:
    """Return which of the planned rounds this is; an assessment and a missed round are none.

    A repeated round keeps its place here, while its number, by which journal and devices know it,
    goes on.
    """
    current = state.round
    counts = current is not None and not (current.scored or current.opened.assessment)
    return state.trained_rounds + counts


def _round_name(state: Campaign) -> str:
    assert state.round is not None
    place, number = round_of_budget(state), state.round.number
    return f"round {place}" if place == number else f"round {place} (number {number})"


def phase_detail(state: Campaign) -> str:
    """Return in one sentence what the coordinator is doing."""
    current = state.round
    match state.phase:
        case Phase.GATHERING if state.paused:
            return f"rounds are {state.paused}"
        case Phase.GATHERING if state.settings:
            return _gathering(state)
        case Phase.TRAINING if current:
            answered = _answered(state, current)
            if current.opened.assessment:
                return f"assessment: each device trains alone: {answered}"
            return f"{_round_name(state)}: {answered}"
        case Phase.SCORING if current and current.opened.assessment:
            return "assessment: measuring what each device trained alone"
        case Phase.SCORING if current:
            return f"{_round_name(state)}: measuring the aggregate and contributions"
        case Phase.EXPORTING:
            return f"exporting ONNX files ({state.stopped})"
        case Phase.DELIVERING:
            given = [d for d in remaining(state) if d.deployed and d.deployed.digest]
            done = sum(confirmed(device) for device in given)
            return f"{done} of {len(given)} devices confirmed their release"
        case Phase.FINISHED:
            return state.withheld or state.stopped
    return ""


def _answered(state: Campaign, current: Round) -> str:
    done = len(current.tasks) - sum(current.waiting.values())
    said = f"{done} of {len(current.tasks)} devices answered"
    if state.owed:
        said += f", {len(state.owed)} still at an earlier round"
    if state.late:
        said += f", {len(state.late)} late update{'s' * (len(state.late) > 1)} will count"
    return said


def _gathering(state: Campaign) -> str:
    """Return what the next round waits for."""
    rounds, current = settings_of(state).rounds, state.round
    missed = f"{_round_name(state)} missed its quorum" if current and state.failures else ""
    if why := _too_few(state):
        return f"{missed}; {why}" if missed else why
    if missed:
        return f"{missed}: it is tried again after {rounds.retry_s:g} s"
    if current:
        return ""
    waiting = m.Participation.WAITING
    heard = sum(device.participation is not waiting for device in state.devices.values())
    return f"{heard} of {rounds.min_devices} devices said what they can do"


def _too_few(state: Campaign) -> str:
    """Return why no round can open although devices enough are known, or ""."""
    rounds, waiting = settings_of(state).rounds, m.Participation.WAITING
    if state.held:
        examples = [f"{name}: {why}" for name, why in sorted(state.held.resting.items())]
        return "; ".join([state.held.reason, *examples[:EXAMPLES]])
    heard = {one.device for one in state.devices.values() if one.participation is not waiting}
    able, reasons = eligible(state)
    coming = {late.update.device for late in state.late} | awaited(state)
    needed = rounds.quorum if state.round else rounds.min_devices
    enough = len({one.device for one in able} | coming) >= rounds.quorum
    if len(heard) < needed or (enough and able):
        return ""
    examples = [f"{name}: {why}" for name, why in sorted(reasons.items()) if name in heard]
    said = (
        f"no round opens: {len(able)} of the {rounds.quorum} devices of the quorum can train and"
        " are there"
    )
    return "; ".join([said, *examples[:EXAMPLES]])


def participation_now(state: Campaign, device: Device) -> tuple[m.Participation, str]:
    """Return the same as `participation`, or that a device rests for the moment and why."""
    known = participation(device)
    if known[0] is not m.Participation.TAKES_PART:
        return known
    if state.held and device.device in state.held.resting:
        return m.Participation.WAITING, f"rests: {state.held.resting[device.device]}"
    opened = state.round.opened if state.round else None
    if opened and device.device in opened.resting:
        why = opened.not_invited[device.device]
        return m.Participation.WAITING, f"rests in round {opened.round}: {why}"
    return known


def participation(device: Device) -> tuple[m.Participation, str]:
    """Return whether a device takes part, and why, in one sentence."""
    if device.retired or device.suspended:
        return m.Participation.SUSPENDED, device.retired or device.suspended
    return device.participation, device.reason
