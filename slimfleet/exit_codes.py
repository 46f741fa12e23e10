"""The exit codes of every command; documented in docs/operations.md."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's end means."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    BROKER_UNREACHABLE = 3
    BAD_CONFIGURATION = 4
    NO_ACCEPTABLE_MODEL = 5
