"""How a campaign and its devices are doing, in words and numbers for people. Pure."""

from broker import messages as m
from coordinator.entitlement import training_width
from coordinator.fleet import Campaign, Device, Phase, confirmed
from coordinator.inputs import brief
from coordinator.presence import PRESENT
from coordinator.settings import Settings

EXAMPLES = 3  # devices that are named where no round opens
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
        online=sum(device.link in PRESENT for device in devices),
        devices=tuple(
            m.DeviceSummary(
                device=device.device,
                link=device.link,
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
        case Phase.GATHERING if why := _too_few(state):
            return why
        case Phase.GATHERING if state.settings and current is None:
            waiting = m.Participation.WAITING
            heard = sum(d.participation is not waiting for d in state.devices.values())
            return f"{heard} of {state.settings.rounds.min_devices} devices said what they can do"
        case Phase.TRAINING if current:
            done = len(current.tasks) - sum(current.waiting.values())
            answered = f"{done} of {len(current.tasks)} devices answered"
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
            given = [d for d in state.devices.values() if d.deployed and d.deployed.digest]
            done = sum(confirmed(device) for device in given)
            return f"{done} of {len(given)} devices confirmed their release"
        case Phase.FINISHED:
            return state.withheld or state.stopped
    return ""


def _too_few(state: Campaign) -> str:
    """Return why no round can open although devices enough are known, or ""."""
    settings, devices = state.settings, state.devices.values()
    if settings is None:
        return ""
    if state.held:
        examples = [f"{name}: {why}" for name, why in sorted(state.held.resting.items())]
        return "; ".join([state.held.reason, *examples[:EXAMPLES]])
    waiting = m.Participation.WAITING
    heard = [device for device in devices if device.participation is not waiting]
    able = [device for device in heard if device.width and not device.suspended]
    here = [device for device in able if device.link in PRESENT]
    needed = settings.rounds.quorum if state.round else settings.rounds.min_devices
    if len(heard) < needed or len(here) >= settings.rounds.quorum:
        return ""
    examples = [f"{device.device}: {_absence(device)}" for device in heard if device not in here]
    said = (
        f"no round opens: {len(here)} of the {settings.rounds.quorum} devices of the quorum can"
        " train and are there"
    )
    return "; ".join([said, *sorted(examples)[:EXAMPLES]])


def _absence(device: Device) -> str:
    if device.suspended or not device.width:
        return participation(device)[1]
    return f"link is {device.link}"


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
    if device.suspended:
        return m.Participation.SUSPENDED, device.suspended
    return device.participation, device.reason
