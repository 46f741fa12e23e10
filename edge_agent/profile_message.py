"""The device profile on the wire and back: `broker` and `profiler` know nothing of each other."""

from dataclasses import fields

from broker import messages
from profiler.profile import DeviceProfile, WidthCost

# The message has a field for every field of the profile; only the costs are structs of their own.
_ALIKE = tuple(field.name for field in fields(DeviceProfile) if field.name != "costs")


def to_message(
    profile: DeviceProfile, *, session: int = 0, seq: int = 0, sent_at: float = 0.0
) -> messages.Profile:
    """Return the message that carries ``profile``.

    Args:
        profile: what the device can do.
        session: the sender's start count.
        seq: the message's number in the session.
        sent_at: the sender's clock.
    """
    return messages.Profile(
        session=session,
        seq=seq,
        sent_at=sent_at,
        costs=tuple(
            messages.WidthCost(
                width=cost.width,
                step_s=cost.step_s,
                peak_bytes=cost.peak_bytes,
                timed_steps=cost.timed_steps,
            )
            for cost in profile.costs
        ),
        **{name: getattr(profile, name) for name in _ALIKE},
    )


def from_message(message: messages.Profile) -> DeviceProfile:
    """Return the profile that ``message`` carries; sender, number and time stay behind."""
    return DeviceProfile(
        costs=tuple(
            WidthCost(cost.width, cost.step_s, cost.peak_bytes, cost.timed_steps)
            for cost in message.costs
        ),
        **{name: getattr(message, name) for name in _ALIKE},
    )
