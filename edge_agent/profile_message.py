"""The device profile on the wire and back: `broker` and `profiler` know nothing of each other."""

from broker import messages
from profiler.profile import DeviceProfile, WidthCost


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
        schema=profile.schema,
        model=profile.model,
        spec_hash=profile.spec_hash,
        batch_size=profile.batch_size,
        costs=tuple(
            messages.WidthCost(
                width=cost.width,
                step_s=cost.step_s,
                peak_bytes=cost.peak_bytes,
                timed_steps=cost.timed_steps,
            )
            for cost in profile.costs
        ),
        failures=profile.failures,
        can_train=profile.can_train,
        reason=profile.reason,
        memory_budget=profile.memory_budget,
        link_bytes_per_s=profile.link_bytes_per_s,
        samples=profile.samples,
        cores=profile.cores,
        cpu_flags=profile.cpu_flags,
        memory_total=profile.memory_total,
        machine=profile.machine,
        system=profile.system,
        python=profile.python,
        runtimes=dict(profile.runtimes),
        emulated=profile.emulated,
    )


def from_message(message: messages.Profile) -> DeviceProfile:
    """Return the profile that ``message`` carries; sender, number and time stay behind."""
    return DeviceProfile(
        schema=message.schema,
        model=message.model,
        spec_hash=message.spec_hash,
        batch_size=message.batch_size,
        costs=tuple(
            WidthCost(cost.width, cost.step_s, cost.peak_bytes, cost.timed_steps)
            for cost in message.costs
        ),
        failures=message.failures,
        can_train=message.can_train,
        reason=message.reason,
        memory_budget=message.memory_budget,
        link_bytes_per_s=message.link_bytes_per_s,
        samples=message.samples,
        cores=message.cores,
        cpu_flags=message.cpu_flags,
        memory_total=message.memory_total,
        machine=message.machine,
        system=message.system,
        python=message.python,
        runtimes=dict(message.runtimes),
        emulated=message.emulated,
    )
