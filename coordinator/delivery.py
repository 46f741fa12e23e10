"""Which device is sent which release, and when the campaign is over. Pure."""

from coordinator import inputs as i
from coordinator.capacity import deployed_width
from coordinator.fleet import (
    Campaign,
    Device,
    Phase,
    answered_deployment,
    confirmed,
    remaining,
    settings_of,
)
from coordinator.inputs import brief
from coordinator.reported_round import worse_than_in_use
from coordinator.rollback import deployment, kept_from, offered
from coordinator.settings import Settings
from journal import events as e


def exported(state: Campaign, given: i.Exported, now: float) -> list[e.AnyEvent]:
    """Release the files that were made, and deploy to each device the one it shall run."""
    if state.phase is not Phase.EXPORTING:
        return []
    settings = settings_of(state)
    if worse := given.worse or worse_than_in_use(state):
        return [
            e.ReleaseWithheld(round=state.weights_round, reason=worse),
            *(
                event
                for device in _by_name(state)
                for event in _lowered(state, device, settings, now)
            ),
        ]
    events: list[e.AnyEvent] = [
        e.ReleaseBuilt(release=release, blob=blob) for release, blob in given.releases
    ]
    digest_of = {r.manifest.width: r.manifest.digest for r, _ in given.releases}
    round_of = {r.manifest.width: r.manifest.round for r, _ in given.releases}
    for device in _by_name(state):
        width, reason = deployed_width(state, device, settings)
        if width in digest_of and kept_from(state, device, round_of[width]):
            events += _lowered(state, device, settings, now)
        elif width in digest_of:  # not where the device came while the files were made
            if not _stands(device, digest_of[width]):
                events.append(deployment(device, digest_of[width], width, reason, settings, now))
        elif width:
            continue
        elif device.deployed and device.deployed.digest:
            events.append(deployment(device, "", 0.0, reason, settings, now))
    if not any(isinstance(event, e.DeploymentIssued) for event in events):
        reason = "every device has its file already" if digest_of else "no device earned a release"
        events.append(e.ReleaseWithheld(round=state.weights_round, reason=reason))
    return events


def _by_name(state: Campaign) -> list[Device]:
    return sorted(remaining(state), key=lambda device: device.device)


def _stands(device: Device, digest: str) -> bool:
    """Return whether a device runs this file, or is at it, by the deployment in force."""
    if device.deployed is None or device.deployed.digest != digest:
        return False
    return confirmed(device) or not answered_deployment(device)


def _lowered(
    state: Campaign, device: Device, settings: Settings, now: float
) -> list[e.DeploymentIssued]:
    """Redeploy a release already in use where the reward fell: a lower reward still deploys."""
    if not device.deployed or not device.deployed.digest:
        return []
    width, reason = deployed_width(state, device, settings)
    if width >= device.deployed.width:
        return []
    digest_of = offered(state, device)
    narrower = [w for w in digest_of if w <= width]
    if width and not narrower:
        return []  # no file so narrow was made: until the next release it keeps what it has
    chosen = max(narrower, default=0.0)
    return [deployment(device, digest_of.get(chosen, ""), chosen, reason, settings, now)]


def finish_campaign(state: Campaign, now: float) -> list[e.AnyEvent]:
    """End the campaign when every deployment is answered or has had its time.

    A device that had no room for its file is given a narrower one first.
    """
    if stepping := sorted(d.device for d in remaining(state) if _steps_down(state, d)):
        reason = f"no memory or time for its width on {', '.join(stepping)}: a narrower one follows"
        return [e.ReleaseDue(round=state.weights_round, reason=brief(reason))]
    waiting = [
        device.device
        for device in remaining(state)
        if device.deployed and device.deployed.digest and not answered_deployment(device)
    ]
    if waiting and now < state.since + settings_of(state).releases.delivery_s:
        return []
    return [
        e.CampaignFinished(
            detail=f"not confirmed: {', '.join(waiting)}"
            if waiting
            else (state.withheld or "every deployment was answered")
        )
    ]


def _steps_down(state: Campaign, device: Device) -> bool:
    if not device.steps_down or device.deployed is None:
        return False
    return deployed_width(state, device, settings_of(state))[0] < device.deployed.width
