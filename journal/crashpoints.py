"""Places where the power may fail, by name, so that tests can make it fail there.

Every step that makes something durable registers its places at import and passes them with
`crashpoint`. The environment variable ``SLIMFLEET_CRASH_AT`` holds a name, or ``name:N`` for the
N-th pass; the process then ends at once with status 137 as after SIGKILL: no clean-up, no flush,
no exit handlers.
"""

import os
import re
from collections import Counter

CRASH_AT = "SLIMFLEET_CRASH_AT"
KILLED = 137

CRASHPOINTS: dict[str, str] = {}
"""Name of each registered place -> what may be half-done there."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_passes: Counter[str] = Counter()


class CrashpointError(ValueError):
    """A place is not registered, registered twice, or badly named. Correct the code or the test."""


def register(name: str, description: str) -> None:
    """Make a place known, at import of the module that passes it.

    Args:
        name: lower-case words joined by hyphens, beginning with the thing that is written.
        description: what may be half-done when the process ends there.

    Raises:
        CrashpointError: the name is malformed, or stands for something else already.
    """
    if not _NAME.fullmatch(name):
        raise CrashpointError(f"crash point {name!r} is no name; use lower-case words and hyphens")
    if CRASHPOINTS.setdefault(name, description) != description:
        raise CrashpointError(f"crash point {name!r} is registered twice; choose another name")


def crashpoint(name: str) -> None:
    """End the process here if the environment says so; else do nothing.

    Raises:
        CrashpointError: the name is not registered, or the environment asks for a pass that is
            not a number from 1.
    """
    if name not in CRASHPOINTS:
        raise CrashpointError(f"crash point {name!r} is unknown; register it at import")
    wanted = os.environ.get(CRASH_AT)
    if not wanted:
        return
    at, _, nth = wanted.partition(":")
    if at != name:
        return
    if nth and (not nth.isdecimal() or int(nth) < 1):
        raise CrashpointError(f"{CRASH_AT}={wanted}: {nth!r} is no pass; write {name}:1 or higher")
    _passes[name] += 1
    if _passes[name] == int(nth or 1):
        os._exit(KILLED)
