"""What a device is sent: of what it earned, the widest width that it can run. Pure.

*Entitled* is what a device has earned, and does not shrink because it is weak. *Deployed* is what
it gets: limited by the operator, by its memory, and by what it failed to install before.
"""

from broker.messages import Participation, Profile
from coordinator.fleet import Campaign, Device
from coordinator.settings import Settings

MIB = 2**20


def granted_width(device: Device, settings: Settings) -> tuple[float, str]:
    """Return the width a device is entitled to and the sentence why; 0 = no release."""
    if settings.keeps_own:
        return 0.0, "devices keep networks of their own: no width is a reward"
    if device.reward is not None:
        return device.reward.width, device.reward.reason
    if device.participation is Participation.CANNOT and settings.rewards.inference_only_width:
        width = settings.rewards.inference_only_width
        return width, f"width {width:g}: granted by the operator to devices that cannot train"
    return 0.0, "no release: the device was never invited to a round"


def allowed_width(device: Device, settings: Settings) -> float:
    """Return the widest width that a device may run by now: earned, and allowed by the operator."""
    entitled = granted_width(device, settings)[0]
    return min(entitled, settings.rewards.caps.get(device.device, entitled))


def deployed_width(state: Campaign, device: Device, settings: Settings) -> tuple[float, str]:
    """Return the width that a device is sent with the next release, and the sentence why.

    It is the widest offered width up to the entitlement that the operator allows
    (``rewards.caps``), that its memory holds, and that is narrower than one which it had no memory
    or time to install. Where even the narrowest of them failed, that one is tried again.

    Returns:
        Width 0 where it is entitled to nothing, or where nothing fits.
    """
    entitled, reason = granted_width(device, settings)
    if not entitled:
        return 0.0, reason
    offered = state.scored.curve if state.scored else ()
    ladder = {p.width for p in offered if p.offered and p.width in settings.rewards.ladder}
    fitting = [width for width in sorted({*ladder, entitled}) if width <= entitled]
    why = ""
    cap = settings.rewards.caps.get(device.device)
    if cap is not None and cap < fitting[-1]:
        fitting = [width for width in fitting if width <= cap]
        why = f"the operator allows this device at most {cap:g}"
    memory = _memory(device.profile)
    needed = state.inference_bytes.get(fitting[-1], 0) if fitting and memory else 0
    if needed > memory:
        why = (
            f"{fitting[-1]:g} would need at least {needed / MIB:.0f} of its {memory / MIB:.0f} MiB"
        )
        fitting = [width for width in fitting if state.inference_bytes.get(width, 0) <= memory]
    if not fitting:
        return 0.0, f"no release, although entitled to {entitled:g}: {why}"
    if device.failed_width and device.failed_width <= fitting[-1]:
        why = f"{device.failed_width:g} failed to install here for want of memory or time"
        fitting = [width for width in fitting if width < device.failed_width] or fitting[:1]
    if fitting[-1] == entitled:
        return entitled, reason
    return fitting[-1], f"width {fitting[-1]:g} of the {entitled:g} it is entitled to: {why}"


def _memory(profile: Profile | None) -> int:
    """Return the bytes that a device has for inference; 0 = unknown.

    The memory budget is that of training and may be set far lower; but the memory that an emulated
    machine reports is that of the computer it is emulated on.
    """
    if profile is None:
        return 0
    return profile.memory_budget if profile.emulated else profile.memory_total
