"""Whether the state of the machine has changed so much that the server should know. Pure."""

from broker import messages as m
from profiler.profile import Condition

TELLING_C = 3.0  # degrees; a thermometer is never quite still


def worth_telling(told: m.Profile, now: Condition) -> bool:
    """Return whether a condition is news.

    Free disk space is told with the next profile: nothing is decided on it.

    Args:
        told: what the server knows.
        now: what was read.
    """
    if (told.throttled, told.power) != (now.throttled, now.power):
        return True
    if told.temperature_c is None or now.temperature_c is None:
        return told.temperature_c is not now.temperature_c
    return abs(told.temperature_c - now.temperature_c) >= TELLING_C
