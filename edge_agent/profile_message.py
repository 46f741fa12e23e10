"""The device profile on the wire and back: `broker` and `profiler` know nothing of each other."""

from dataclasses import asdict, fields

import msgspec

from broker import messages
from profiler.prediction import SET_UP_STEPS, training_cost
from profiler.profile import DeviceProfile, InferenceCost, WidthCost
from slimmable.training_rule import TrainingRule

# The message has a field for every field of the profile; only the costs are structs of their own.
_ALIKE = tuple(f.name for f in fields(DeviceProfile) if f.name not in {"costs", "inference"})


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
        costs=tuple(messages.WidthCost(**asdict(cost)) for cost in profile.costs),
        inference=tuple(messages.InferenceCost(**asdict(one)) for one in profile.inference),
        **{name: getattr(profile, name) for name in _ALIKE},
    )


def from_message(message: messages.Profile) -> DeviceProfile:
    """Return the profile that ``message`` carries; sender, number and time stay behind."""
    return DeviceProfile(
        costs=width_costs(message),
        inference=tuple(InferenceCost(**msgspec.structs.asdict(one)) for one in message.inference),
        **{name: getattr(message, name) for name in _ALIKE},
    )


def width_costs(message: messages.Profile) -> tuple[WidthCost, ...]:
    """Return what training each width costs."""
    return tuple(WidthCost(**msgspec.structs.asdict(cost)) for cost in message.costs)


def expected_training_s(profile: messages.Profile, task: messages.Task, steps: int) -> float:
    """Return the seconds that a task's training takes by the profile, 0 where it does not say."""
    rule = TrainingRule(**msgspec.structs.asdict(task.training))
    cost = training_cost(width_costs(profile), task.width, rule)
    return (steps + SET_UP_STEPS) * cost.step_s if cost else 0.0
