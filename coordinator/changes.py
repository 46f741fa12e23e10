"""How a campaign looks after one change, such as to one of its devices. Pure."""

from typing import Any, TypeVar

from coordinator.fleet import Campaign, Device
from coordinator.traffic import allowed_per_day, with_traffic

T = TypeVar("T")


def replace(known: T, **changes: Any) -> T:
    """Do as `dataclasses.replace` does, for a dataclass without slots or checks of its own.

    A campaign has some forty fields and every message of every device changes one or two: setting
    all of them anew, one by one, would be the larger part of the coordinator's work.

    Raises:
        TypeError: there is no such field.
    """
    fields = vars(known)
    if not changes.keys() <= fields.keys():
        raise TypeError(f"{type(known).__name__} lacks a field among {sorted(changes)}")
    other = object.__new__(type(known))
    vars(other).update(fields, **changes)
    return other


def with_device(state: Campaign, device: str, **changes: Any) -> Campaign:
    """Return a campaign with changes to one of its devices, or with a new one."""
    return replace(state, devices=devices_with(state, device, **changes))


def devices_with(state: Campaign, device: str, **changes: Any) -> dict[str, Device]:
    """Return the devices of a campaign with changes to one of them."""
    known = state.devices.get(device) or Device(device)
    return {**state.devices, device: replace(known, **changes)}


def moved_bytes(state: Campaign, device: str, size: int, at: float) -> dict[str, Any]:
    """Return what changes of a device that moved bytes; nothing where they are not limited."""
    known, settings = state.devices.get(device), state.settings
    if known is None or settings is None or not allowed_per_day(settings.width_policy, device):
        return {}
    return {"traffic": with_traffic(known.traffic, size, at)}
