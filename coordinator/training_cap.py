"""How wide an operator lets a device train, and the width that its profile gives below that. Pure.

There are two ways to limit a device: ``width_policy.caps`` of the settings, and a command while the
campaign runs. The narrower one holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from broker.messages import Profile
from coordinator.fleet import Campaign, Device, settings_of
from coordinator.settings import Settings
from coordinator.width_policy import WidthChoice, choose_width, said_by_settings


@dataclass(frozen=True)
class TrainingCap:
    """The widest width that a device may train, and the sentence that says by whose word."""

    width: float
    reason: str


def training_cap(device: Device, settings: Settings) -> TrainingCap | None:
    """Return how wide an operator lets a device train; None where nobody limits it."""
    caps, configured = [], settings.width_policy.caps.get(device.device)
    if configured is not None:
        caps.append(TrainingCap(configured, said_by_settings(configured)))
    if device.cap:
        caps.append(TrainingCap(device.cap, device.cap_reason))
    return min(caps, key=lambda cap: cap.width, default=None)


def width_for(
    state: Campaign,
    name: str,
    profile: Profile,
    payload_bytes: Mapping[float, int],
    *,
    held: float = 0.0,
) -> WidthChoice:
    """Return the training width that a device's profile gives, below its cap.

    Args:
        state: of the campaign; the device may be unknown to it.
        name: of the device.
        profile: what it can do.
        payload_bytes: size on the wire of the weights of each width.
        held: see `coordinator.width_policy.choose_width`.
    """
    settings = settings_of(state)
    cap = training_cap(state.devices.get(name, Device(name)), settings)
    return choose_width(
        profile,
        settings,
        state.spec_hash,
        payload_bytes.__getitem__,
        held=held,
        cap=cap.width if cap else 1.0,
        capped=cap.reason if cap else "",
    )
