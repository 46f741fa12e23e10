"""Who may say what to whom: one table, from which every broker's own rules are written.

======== ======================================= ==============================================
role     publishes                               reads
======== ======================================= ==============================================
server   everything of its fleet                 everything of its fleet
device   ``d/<itself>/up/#``                     ``d/<itself>/down/#``, ``srv/#``, ``b/#``
operator ``op/<itself>/up/#``                    ``op/#``, ``srv/#``, ``d/+/up/<channel>``, and of
                                                 ``d/+/down/`` what carries no key
======== ======================================= ==============================================

The server may publish where devices do, because it clears what a vanished device left retained. A
last will is a publish like any other. Shared blocks (``b/``) are encrypted, so that a device may
read all of them; an operator needs none.
"""

from dataclasses import dataclass

from broker.topics import DeviceSays, ServerSays, check_name, root

KEY_CARRIERS = frozenset({ServerSays.TASK, ServerSays.DEPLOYMENT})
"""Messages that carry a key to a blob: for one device's eyes only."""


@dataclass(frozen=True)
class Permissions:
    """Topic filters that one user may publish to and read from; all else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def may_publish(self, topic: str) -> bool:
        """Return whether a publish (or a last will) on ``topic`` is routed."""
        return allows(self.publish, topic)

    def may_read(self, topic: str) -> bool:
        """Return whether messages of ``topic`` are delivered."""
        return allows(self.subscribe, topic)


def device_permissions(fleet: str, device: str) -> Permissions:
    """Return what a device may do.

    Raises:
        ValueError: a name may not stand in a topic.
    """
    prefix = root(fleet)
    own = f"{prefix}d/{check_name(device, 'device')}"
    return Permissions(
        publish=(f"{own}/up/#",), subscribe=(f"{own}/down/#", f"{prefix}srv/#", f"{prefix}b/#")
    )


def server_permissions(fleet: str) -> Permissions:
    """Return what the coordinator may do.

    Raises:
        ValueError: the name may not stand in a topic.
    """
    everything = (f"{root(fleet)}#",)
    return Permissions(publish=everything, subscribe=everything)


def operator_permissions(fleet: str, operator: str) -> Permissions:
    """Return what an operator's tools may do.

    Written as what is allowed, channel by channel: a channel that somebody adds is closed until it
    is thought about.

    Raises:
        ValueError: a name may not stand in a topic.
    """
    prefix = root(fleet)
    up = [f"{prefix}d/+/up/{channel}" for channel in DeviceSays]
    down = [f"{prefix}d/+/down/{channel}" for channel in ServerSays if channel not in KEY_CARRIERS]
    return Permissions(
        publish=(f"{prefix}op/{check_name(operator, 'operator')}/up/#",),
        subscribe=(*up, *down, f"{prefix}srv/#", f"{prefix}op/#"),
    )


def allows(filters: tuple[str, ...], topic: str) -> bool:
    """Return whether any of ``filters`` matches ``topic``."""
    return any(matches(filter_, topic) for filter_ in filters)


def matches(filter_: str, topic: str) -> bool:
    """Return whether an MQTT topic filter matches a topic.

    ``+`` stands for one level, a final ``#`` for the level above it and all below. Wildcards at the
    front do not match topics that begin with ``$``.
    """
    wanted, levels = filter_.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in {"+", "#"}:
        return False
    for index, want in enumerate(wanted):
        if want == "#":
            return True
        if index >= len(levels) or want not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)
