"""The release that a device goes back to, or forward again, and what it is kept from. Pure.

A device goes back to what it ran itself: that file is known to answer there. What it was rolled
back from, it is not sent again by itself, in no width: the weights are the same. The next release
of other weights ends that, or an operator who rolls it forward.
"""

from coordinator.capacity import allowed_width
from coordinator.fleet import Campaign, Device, settings_of
from coordinator.inputs import brief
from coordinator.settings import DAY_S, Settings
from journal import events as e

COUNTER_LIMIT = 2**53  # what a device claims may not carry the counter to where no format holds it


def earlier_release(state: Campaign, device: Device, now: float) -> tuple[str, str]:
    """Return the digest of the release that a device ran before the one in force.

    Returns:
        The digest, and ""; or "" and the sentence why the device cannot go back.
    """
    deployed = device.deployed.digest if device.deployed else ""
    before = [digest for digest in device.ran if digest != deployed]
    if not before:
        return "", f"{device.device} has run no other release before: nothing to go back to"
    return _fit(state, device, before[-1], now)


def later_release(state: Campaign, device: Device, now: float) -> tuple[str, str]:
    """Return the digest of the release that a device was rolled back from first.

    Returns:
        The digest, and ""; or "" and the sentence why the device cannot go forward.
    """
    if not device.rolled_from:
        return "", f"{device.device} was not rolled back, or has a newer release since"
    return _fit(state, device, device.rolled_from[0], now)


def _fit(state: Campaign, device: Device, digest: str, now: float) -> tuple[str, str]:
    """Return the digest where the device may run its release now, else why it may not."""
    release = state.releases[digest][0]
    width, allowed = release.manifest.width, allowed_width(device, settings_of(state))
    name = f"release {release.version} at width {width:g}"
    if not now < release.expires_at:
        return "", f"{name} has expired, so {device.device} would refuse it; wait for the next one"
    if width > allowed:
        return "", f"{name} is wider than the {allowed:g} that {device.device} may run by now"
    return digest, ""


def redeployed(
    state: Campaign, device: Device, digest: str, why: str, now: float
) -> e.DeploymentIssued:
    """Return the order to run a release that was made before."""
    release = state.releases[digest][0]
    width = release.manifest.width
    reason = f"release {release.version} at width {width:g}: {why}"
    settings = settings_of(state)
    return deployment(device, digest, width, reason, settings, now, commanded=True)


def deployment(
    device: Device,
    digest: str,
    width: float,
    reason: str,
    settings: Settings,
    now: float,
    *,
    commanded: bool = False,
) -> e.DeploymentIssued:
    """Return the order that a device shall run a file, "" = none, with the next higher counter."""
    # A device that served another campaign counts on from there, and says so in its report.
    claimed = device.report.counter if device.report else 0
    return e.DeploymentIssued(
        device=device.device,
        counter=max(device.counter, min(claimed, COUNTER_LIMIT)) + 1,
        digest=digest,
        width=width,
        reason=brief(reason) if commanded else reason,
        expires_at=now + settings.releases.valid_days * DAY_S,
        commanded=commanded,
    )


def kept_from(state: Campaign, device: Device, round_: int) -> bool:
    """Return whether a device was rolled back from the weights of a round, in whatever width."""
    return any(state.releases[d][0].manifest.round == round_ for d in device.rolled_from)


def offered(state: Campaign, device: Device) -> dict[float, str]:
    """Return the files of the newest release that a device was not rolled back from, by width."""
    open_to = {
        digest: release
        for digest, (release, _) in state.releases.items()
        if not kept_from(state, device, release.manifest.round)
    }
    newest = max((release.version for release in open_to.values()), default=0)
    return {r.manifest.width: d for d, r in open_to.items() if r.version == newest}
