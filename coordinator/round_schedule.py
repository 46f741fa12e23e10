"""When a round opens and closes, and when training stops. Pure."""

import math

from broker.messages import DropReason, Participation
from coordinator.entitlement import forecast, training_width
from coordinator.fleet import Campaign, Device, settings_of
from coordinator.local_training import (
    assessment_training,
    ordinary_steps,
    round_training,
    round_window,
)
from coordinator.pace import repaced
from coordinator.presence import PRESENT
from coordinator.round_limits import Limit
from coordinator.round_plan import RoundPlan, hold, plan_round
from coordinator.selection import Candidate, drawn
from journal import events as e
from slimmable.window import PREFIX


def eligible(state: Campaign) -> tuple[list[Device], dict[str, str]]:
    """Return the devices that can be invited now, and for each other one why it cannot."""
    invited, reasons = [], {}
    for device in sorted(state.devices.values(), key=lambda device: device.device):
        if device.suspended:
            reasons[device.device] = device.suspended
        elif device.link not in PRESENT:
            reasons[device.device] = f"link is {device.link}"
        elif not device.width:
            reasons[device.device] = device.reason
        else:
            invited.append(device)
    return invited, reasons


def stop_training(state: Campaign) -> list[e.AnyEvent]:
    """End training where no further round is worth it, or interrupt it for a release."""
    rounds, done, of = settings_of(state).rounds, state.trained_rounds, state.weights_round
    if done >= rounds.budget:
        return [e.TrainingStopped(round=of, reason=f"budget of {rounds.budget} rounds is used")]
    if done >= rounds.minimum and state.without_gain >= rounds.patience:
        reason = f"plateau: no significant improvement in {state.without_gain} rounds"
        return [e.TrainingStopped(round=of, reason=reason)]
    if state.failures >= rounds.failures_limit:
        reason = f"{state.failures} rounds in a row missed their quorum"
        return [e.TrainingStopped(round=of, reason=reason)]
    every = rounds.release_every
    if every and done and done % every == 0 and state.release_round < done:
        return [e.ReleaseDue(round=of, reason=f"a release is due every {every} rounds")]
    return []


def follow_pace(state: Campaign) -> list[e.AnyEvent]:
    """Give devices whose rounds take longer, or shorter, than predicted another width."""
    if state.round is None or state.round.closed is None:
        return []
    settings = settings_of(state)
    if settings.rounds.deadline == "chosen":  # then widths follow from the deadline
        return []
    choices = {name: repaced(device, settings) for name, device in state.devices.items()}
    return [choice.event(name) for name, choice in sorted(choices.items()) if choice]


def open_round(state: Campaign, now: float) -> list[e.AnyEvent]:
    """Invite everybody who can train, once they are enough."""
    settings = settings_of(state)
    rounds = settings.rounds
    if state.paused:
        return []
    if state.failures and now < state.since + rounds.retry_s:
        return []
    if state.round is None and now < state.since + rounds.gather_s:
        if len(state.devices) < rounds.min_devices:
            return []
        # Who cannot train has been heard too: nobody waits for it.
        heard = sum(d.participation is not Participation.WAITING for d in state.devices.values())
        if heard < rounds.min_devices:
            return []
    able, reasons = eligible(state)
    if len(able) < rounds.quorum:
        return []
    plan = plan_round(state, able, now)
    if len(plan.invited) < rounds.quorum:
        return hold(state, plan)
    if plan.changes:
        return list(plan.changes)
    return [_opened(state, plan, reasons)]


def _opened(state: Campaign, plan: RoundPlan, reasons: dict[str, str]) -> e.RoundOpened:
    settings, invited = settings_of(state), plan.invited
    rounds = settings.rounds
    number = state.round.number + 1 if state.round else 1
    assessment = _assesses(state)
    everybody = assessment or not rounds.cohort
    cohort = invited if everybody else _cohort(state, invited, number)
    spared = tuple(sorted({one.device for one in invited} - {one.device for one in cohort}))
    why = f"not drawn: {len(cohort)} of {len(invited)} are, by {rounds.selection}"
    return e.RoundOpened(
        round=number,
        base=state.weights,
        tasks=tuple(
            _task(state, device, number, position, plan.limits[device.device])
            for position, device in enumerate(cohort)
        ),
        not_invited=reasons | plan.resting | dict.fromkeys(spared, why),
        not_drawn=spared,
        resting=tuple(sorted(plan.resting)),
        excused=tuple(sorted(name for name in plan.resting if plan.limits[name].excused)),
        enough=0 if everybody or len(cohort) <= rounds.cohort else rounds.cohort,
        budget_s=plan.deadline_s * (settings.contributions.alone_rounds if assessment else 1),
        quorum=rounds.quorum,
        training=(
            assessment_training(settings)
            if assessment
            else round_training(settings, state.trained_rounds)
        ),
        assessment=assessment,
        window=PREFIX if assessment else round_window(settings, number, state.trained_rounds),
        reason=plan.why,
    )


def _cohort(state: Campaign, invited: list[Device], number: int) -> list[Device]:
    """Return those of the devices that are drawn, in their order."""
    settings = settings_of(state)
    places = math.ceil(settings.rounds.cohort * settings.rounds.over_selection)
    chosen = drawn(
        [
            Candidate(
                one.device,
                one.last_drawn,
                state.contribution(one.device) if one.last_drawn else None,
            )
            for one in invited
        ],
        places,
        settings.rounds.selection,
        settings.seed,
        number,
    )
    return [one for one in invited if one.device in chosen]


def _assesses(state: Campaign) -> bool:
    """Return whether the round that opens next is an assessment."""
    return bool(settings_of(state).contributions.alone_rounds and not state.assessed)


def _task(state: Campaign, device: Device, number: int, position: int, limit: Limit) -> e.RoundTask:
    settings = settings_of(state)
    steps, reasons = device.steps or ordinary_steps(settings, device.profile), []
    own, upload = steps if settings.training.epochs or device.steps else 0, ""
    if _assesses(state):
        steps *= settings.contributions.alone_rounds
        own = steps if own else 0
        width = device.width  # it starts from untrained weights: there is nothing to withhold
    else:
        width = training_width(state, device, settings)[0]
        if limit.width < width:
            width, reasons = limit.width, [limit.reason]
        found = next((one for one in device.forecasts if one.width == width), None)
        if found and found.upload:
            upload = found.upload
            reasons.append(found.upload_reason)
    return e.RoundTask(
        device=device.device,
        width=width,
        predicted_s=forecast(device, width, steps, settings),
        seed=(settings.seed * 1_000_003 + number * 1009 + position) % 2**31,
        steps=own,
        upload=upload,
        reason="; ".join(reasons),
    )


def _unanswered(state: Campaign, name: str, *, complete: bool) -> e.DeviceDropped:
    """Return why the work of a device that has not answered does not count.

    Args:
        state: of the campaign.
        name: the device.
        complete: whether the round closes because it has updates enough.
    """
    current = state.round
    assert current is not None
    stage = current.tasks[name].stage or "no answer"
    if complete:
        reason = DropReason.SURPLUS
        detail = f"{current.arrived} other updates were enough, last stage: {stage}"
    else:
        here = state.devices[name].link in PRESENT
        reason = DropReason.LATE if here else DropReason.OFFLINE
        detail = f"no update within {current.opened.budget_s:.1f} s, last stage: {stage}"
    return e.DeviceDropped(round=current.number, device=name, reason=reason, detail=detail)


def close_round(state: Campaign, now: float) -> list[e.AnyEvent]:
    """Close the open round when everybody has answered, or at its deadline."""
    current = state.round
    assert current is not None
    deadline = current.deadline
    if state.started_at > current.opened_at:
        # What was said while the server was away is retained at the broker: it is read first.
        deadline = max(deadline, state.started_at + settings_of(state).presence.grace_s)
    complete = 0 < current.opened.enough <= current.arrived
    if any(current.waiting.values()) and now < deadline and not complete:
        return []
    events: list[e.AnyEvent] = [
        _unanswered(state, name, complete=complete and now < deadline)
        for name, task in current.tasks.items()
        if not task.answered
    ]
    arrived = tuple(sorted(name for name, task in current.tasks.items() if task.update))
    enough = len(arrived) >= current.opened.quorum
    if not enough:
        events += [
            e.DeviceDropped(
                round=current.number,
                device=name,
                reason=DropReason.ROUND_ABANDONED,
                detail=f"{len(arrived)} updates, quorum is {current.opened.quorum}",
            )
            for name in arrived
        ]
    reason = f"{len(arrived)} of {len(current.tasks)} updates in {now - current.opened_at:.1f} s"
    if not enough:
        reason += f", quorum is {current.opened.quorum}: not aggregated"
    events.append(
        e.RoundClosed(round=current.number, aggregated=arrived if enough else (), reason=reason)
    )
    return events
