"""How many bytes a device has moved in the last day, and how many it may. Pure.

They are counted by the hour: an hour counts until its end is a day ago, so that what is counted is
never less than what was moved in the last 24 hours, and at most an hour's more.
"""

from coordinator.settings import DAY_S, WidthPolicy

HOUR_S = 3600.0
Traffic = tuple[tuple[int, int], ...]
"""(Hour since the epoch, bytes), ascending; hours in which nothing moved are not there."""


def with_traffic(traffic: Traffic, size: int, at: float) -> Traffic:
    """Return what was moved after ``size`` more bytes; a negative claim counts as nothing."""
    if size <= 0:
        return traffic
    hour = int(at // HOUR_S)
    kept = dict(one for one in traffic if _counts(one[0], at))
    kept[hour] = kept.get(hour, 0) + size
    return tuple(sorted(kept.items()))


def moved(traffic: Traffic, now: float) -> int:
    """Return the bytes that count at a time."""
    return sum(size for hour, size in traffic if _counts(hour, now))


def allowed_per_day(policy: WidthPolicy, device: str) -> float:
    """Return the bytes that a device may move in 24 hours; 0 = as many as it takes."""
    return policy.traffic.get(device, policy.traffic_per_day)


def _counts(hour: int, now: float) -> bool:
    return (hour + 1) * HOUR_S > now - DAY_S
