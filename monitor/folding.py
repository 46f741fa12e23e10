"""What each event changes in the operator's view: `fold(view, at, event)`. Pure.

Nothing here decides. A view that is folded from the whole journal is the same whenever it is made.
"""

from collections.abc import Callable

from broker.messages import FLEET_ACTIONS, InstallState, OperatorAction, Profile
from journal import events as e
from monitor.device_view import DeviceView, Moment, WidthChange, clipped
from monitor.fleet_view import FleetView
from monitor.round_folding import ROUND_HANDLERS

CLOCK_SLACK_S = 60.0
CAUSES = 64
"""So many different causes of a change of presence are counted apart."""


def fold(view: FleetView, at: float, event: e.AnyEvent) -> None:
    """Take in one event; one of a kind that is not shown changes nothing.

    Args:
        view: is changed.
        at: server time of the event's record.
        event: what happened.
    """
    view.events += 1
    if at < view.last_at - CLOCK_SLACK_S:
        back = view.last_at - at
        view.incident(at, "clock", f"the server's clock went back by {back:.0f} s")
    view.at, view.last_at = max(view.at, at), at
    handler = _HANDLERS.get(type(event))
    if handler is not None:
        handler(view, at, event)


def _campaign_started(view: FleetView, at: float, event: e.CampaignStarted) -> None:
    view.fleet, view.model, view.software = event.fleet, event.model, event.software
    view.settings, view.started_at = event.settings, at
    for name in event.settings.get("labels", {}):
        view.device(name)  # the operator expects it, though it may never have appeared
    view.enter(at, "initialising")


def _server_started(view: FleetView, at: float, event: e.ServerStarted) -> None:
    view.epoch = event.epoch
    if event.epoch > 1:
        view.incident(at, "server", f"the server started for the {event.epoch}. time")


def _initialised(view: FleetView, at: float, event: e.ModelInitialised) -> None:
    view.enter(at, "gathering")


def _stopped(view: FleetView, at: float, event: e.TrainingStopped) -> None:
    view.stopped = event.reason
    view.enter(at, "allocating")


def _finished(view: FleetView, at: float, event: e.CampaignFinished) -> None:
    view.enter(at, "finished")


def _work_failed(view: FleetView, at: float, event: e.WorkFailed) -> None:
    view.incident(at, "work", f"{event.job} failed: {event.detail}")


def _message_refused(view: FleetView, at: float, event: e.MessageRefused) -> None:
    text = f"a message on {event.channel} was refused: {event.reason}"
    if event.sender in view.devices:
        view.device(event.sender).note(at, "refused", text, trouble=True)
    view.incident(at, "message", f"{event.sender}: {text}")


def _born(view: FleetView, at: float, event: e.DeviceBorn) -> None:
    device = view.device(event.device)
    device.born_at = at if device.born_at is None else device.born_at
    device.session, device.agent = event.session, clipped(event.agent)
    device.can_train, device.emulated = event.can_train, clipped(event.emulated)
    _runs(view, at, device)
    device.note(at, "birth", f"session {event.session}, agent {event.agent or 'unknown'}")


def _presence(view: FleetView, at: float, event: e.PresenceChanged) -> None:
    device = view.device(event.device)
    device.present, device.since, device.cause = event.state, at, event.cause
    key = (str(event.state), event.cause)
    if key not in view.presence_changes and len(view.presence_changes) >= CAUSES:
        key = (str(event.state), "other")
    view.presence_changes[key] = view.presence_changes.get(key, 0) + 1
    device.note(at, "link", f"{event.state}: {event.cause}" if event.cause else event.state)


def _profiled(view: FleetView, at: float, event: e.DeviceProfiled) -> None:
    device = view.device(event.device)
    _compare_machines(view, device, at, event.profile)
    device.profile, device.profiled_at = event.profile, at
    device.can_train = event.profile.can_train
    device.note(at, "profile", "a new profile")


def _compare_machines(view: FleetView, device: DeviceView, at: float, profile: Profile) -> None:
    """Notice that an earlier machine is back: devices move to new ones, but not to and fro."""
    facts = (profile.machine, profile.system, str(profile.cores), str(profile.memory_total))
    machine = tuple(clipped(one) for one in (*facts, profile.emulated))
    if device.machines and device.machines[-1] == machine:
        return
    if machine in device.machines:
        device.cloned_at = at
        text = f"{device.name}: profiles of two machines come in turn; two agents may use this id"
        device.note(at, "clone", text, trouble=True)
        view.incident(at, "clone", text)
    device.machines.append(machine)


def _width_chosen(view: FleetView, at: float, event: e.WidthChosen) -> None:
    device = view.device(event.device)
    device.participation, device.reason = event.participation, event.reason
    device.predicted_s = event.predicted_s
    for forecast in event.forecasts:
        view.sizes[forecast.width] = forecast.received or forecast.size
    before = device.widths[-1] if device.widths else None
    device.width = event.width
    if before is None or (before.width, before.reason) != (event.width, event.reason):
        device.widths.append(WidthChange(at, event.width, event.reason))
        device.note(at, "width", f"trains width {event.width:g}: {event.reason}")


def _operator(view: FleetView, at: float, event: e.OperatorActed) -> None:
    view.actions.append((at, event))
    said = f"{event.action} {event.by_whom}"
    if not event.done:
        said = f"{said} (refused: {event.detail})"
    if event.device and (event.done or event.device in view.devices):
        device = view.device(event.device)  # a slip of the pen makes no device
        device.note(at, "operator", said)
    if not event.done:
        return
    if event.action is OperatorAction.NOTE:
        notes = view.device(event.device).notes if event.device else view.notes
        notes.append(Moment(at, "note", clipped(f"{event.author}: {event.reason}")))
    elif event.action in FLEET_ACTIONS:
        paused = event.action is OperatorAction.PAUSE_ROUNDS
        view.paused = f"paused {event.by_whom}" if paused else ""
    elif event.device:
        device = view.device(event.device)
        _apply_action(device, event)
        _runs(view, at, device)


def _contradicted(view: FleetView, at: float, event: e.ContradictionReported) -> None:
    device = view.device(event.device)
    proof = "its two checkpoints prove it" if event.proven else "by the device's word"
    device.contradiction = (
        f"{event.kind}: it kept a checkpoint of {event.kept_size} records and was shown one of"
        f" {event.seen_size} that denies it; {proof}"
    )
    device.note(at, "audit", device.contradiction, trouble=True)
    view.incident(at, "audit", f"{event.device}: {device.contradiction}")


def _settled(view: FleetView, at: float, event: e.ContradictionSettled) -> None:
    device = view.device(event.device)
    device.contradiction = ""
    device.note(at, "audit", f"accepted: {event.reason or 'the device lost what it kept'}")


def _entitlements(view: FleetView, at: float, event: e.EntitlementsRevised) -> None:
    for reward in event.rewards:
        view.device(reward.device).rewards.append((at, reward))


def _allocated(view: FleetView, at: float, event: e.RewardsAllocated) -> None:
    view.allocations.append((at, event))
    for reward in event.rewards:
        device = view.device(reward.device)
        device.rewards.append((at, reward))
        device.note(at, "reward", f"earned width {reward.width:g}: {reward.reason}")
    view.enter(at, "exporting")


def _built(view: FleetView, at: float, event: e.ReleaseBuilt) -> None:
    digest = event.release.manifest.digest
    view.releases[digest] = (event.release, at)
    view.touched |= {one.name for one in view.devices.values() if one.running == digest}
    view.withheld = ""


def _withheld(view: FleetView, at: float, event: e.ReleaseWithheld) -> None:
    view.withheld = event.reason
    view.incident(at, "release", f"release withheld: {event.reason}")
    view.enter(at, "delivering" if view.stopped else "gathering")


def _deployed(view: FleetView, at: float, event: e.DeploymentIssued) -> None:
    device = view.device(event.device)
    device.deployed, device.deployed_at = event, at
    what = f"width {event.width:g}" if event.digest else "no model"
    device.note(at, "deployment", f"{what} ordered: {event.reason}")
    _runs(view, at, device)
    if not event.commanded:  # an export ended, and not just an operator's roll-back
        view.enter(at, "delivering" if view.stopped else "gathering")


def _reported(view: FleetView, at: float, event: e.InstallReported) -> None:
    device = view.device(event.device)
    device.report, device.reported_at = event.report, at
    _runs(view, at, device)
    bad = event.state in (InstallState.REFUSED, InstallState.FAILED)
    text = f"{event.state} width {event.report.width:g}"
    if event.report.detail:
        text = f"{text}: {event.report.detail}"
    device.note(at, "model", text, trouble=bad)
    if event.state is InstallState.CONFIRMED:
        device.worked(at, "confirmed its model")


def _runs(view: FleetView, at: float, device: DeviceView) -> None:
    """Note what a device runs; a retired one counts no more."""
    running = None if device.retired else (device.running, device.confirmed)
    view.versions.note(at, device.name, running)


def _apply_action(device: DeviceView, event: e.OperatorActed) -> None:
    """Note on a device what an operator did to it."""
    match event.action:
        case OperatorAction.SUSPEND:
            device.suspended = f"suspended {event.by_whom}"
        case OperatorAction.RESUME:
            device.suspended = device.retired = ""
        case OperatorAction.RETIRE:
            device.retired = f"retired {event.by_whom}"
        case OperatorAction.CAP_WIDTH:
            device.cap_width = event.width
            device.cap = f"held at {event.width:g} at most {event.by_whom}" if event.width else ""


_HANDLERS: dict[type, Callable[..., None]] = {
    e.CampaignStarted: _campaign_started,
    e.ServerStarted: _server_started,
    e.ModelInitialised: _initialised,
    e.TrainingStopped: _stopped,
    e.CampaignFinished: _finished,
    e.WorkFailed: _work_failed,
    e.MessageRefused: _message_refused,
    e.DeviceBorn: _born,
    e.PresenceChanged: _presence,
    e.DeviceProfiled: _profiled,
    e.WidthChosen: _width_chosen,
    e.OperatorActed: _operator,
    e.ContradictionReported: _contradicted,
    e.ContradictionSettled: _settled,
    e.EntitlementsRevised: _entitlements,
    e.RewardsAllocated: _allocated,
    e.ReleaseBuilt: _built,
    e.ReleaseWithheld: _withheld,
    e.DeploymentIssued: _deployed,
    e.InstallReported: _reported,
    **ROUND_HANDLERS,
}
