"""When a round opens, and when training stops. Pure."""

import math

from broker.messages import Participation
from coordinator.entitlement import forecast, training_width
from coordinator.fleet import Campaign, Device, settings_of
from coordinator.lateness import awaited, late_s
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
from coordinator.selection import Candidate, balanced, label_of
from coordinator.settings import Rounds
from journal import events as e
from slimmable.window import PREFIX


def eligible(state: Campaign) -> tuple[list[Device], dict[str, str]]:
    """Return the devices that can be invited now, and for each other one why it cannot."""
    settings, (label, only) = settings_of(state), label_of(settings_of(state).rounds.only)
    invited, reasons = [], {}
    for device in sorted(state.devices.values(), key=lambda device: device.device):
        if device.retired or device.suspended:
            reasons[device.device] = device.retired or device.suspended
        elif device.link not in PRESENT:
            reasons[device.device] = f"link is {device.link}"
        elif not device.width:
            reasons[device.device] = device.reason
        elif label and settings.labels.get(device.device, {}).get(label) != only:
            reasons[device.device] = f"not of {label}:{only}"
        elif owed := state.owed.get(device.device):
            reasons[device.device] = f"still at round {owed.number}"
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
    """Invite everybody who can train, once they are enough with those whose updates come late."""
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
    came = {late.update.device for late in state.late}
    coming = came | awaited(state)
    if len({one.device for one in able} | coming) < rounds.quorum:
        return []
    if not able and len(came) < rounds.quorum:
        return []  # there is nobody to train anything new, and those who are busy will be free then
    plan = plan_round(state, able, now)
    if len({one.device for one in plan.invited} | coming) < rounds.quorum:
        return hold(state, plan)
    if not plan.invited and len(came) < rounds.quorum:
        return hold(state, plan)
    if plan.changes:
        return list(plan.changes)
    return [_opened(state, plan, reasons)]


def _opened(state: Campaign, plan: RoundPlan, reasons: dict[str, str]) -> e.RoundOpened:
    settings, invited = settings_of(state), plan.invited
    rounds = settings.rounds
    if _full(state):
        reasons = reasons | {one.device: "late updates fill the round" for one in invited}
        invited = []
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
        enough=0 if assessment else _enough(rounds, len(cohort), everybody=everybody),
        late_s=0.0 if assessment else late_s(state, plan.deadline_s),
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


def _full(state: Campaign) -> bool:
    """Return whether late updates close the next round at once.

    The weights will move then, and nobody is sent the old ones.
    """
    rounds, came = settings_of(state).rounds, {late.update.device for late in state.late}
    buffered = rounds.mode == "buffered" and not _assesses(state)
    return buffered and len(state.late) >= rounds.buffer and len(came) >= rounds.quorum


def _enough(rounds: Rounds, drawn: int, *, everybody: bool) -> int:
    """Return the updates with which a round closes at once; 0 = all."""
    if rounds.mode == "buffered":
        return rounds.buffer
    return 0 if everybody or drawn <= rounds.cohort else rounds.cohort


def _cohort(state: Campaign, invited: list[Device], number: int) -> list[Device]:
    """Return those of the devices that are drawn, in their order.

    Who still trains for an earlier round has a place already.
    """
    settings = settings_of(state)
    places = math.ceil(settings.rounds.cohort * settings.rounds.over_selection)
    places = max(places - len(awaited(state)), settings.rounds.quorum)
    candidates = [
        Candidate(
            one.device,
            one.last_drawn,
            state.contribution(one.device) if one.last_drawn else None,
            settings.labels.get(one.device, {}).get(settings.rounds.balance, ""),
        )
        for one in invited
    ]
    chosen = balanced(candidates, places, settings.rounds.selection, settings.seed, number)
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
