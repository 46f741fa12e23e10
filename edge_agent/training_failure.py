"""How training ends badly, in the words that the device reports. No torch."""

import importlib.util
import signal
from typing import TypeVar

from broker.messages import DropReason
from edge_agent import trainer_protocol as protocol

R = TypeVar("R", bound=protocol.Reply)

DROP_REASONS = {
    "wrong-spec": DropReason.WRONG_SPEC,
    "bad-bytes": DropReason.BAD_BYTES,
    "not-finite": DropReason.NOT_FINITE,
}


class TrainingFailed(Exception):  # noqa: N818  reads as what happened, like an event
    """The training process could not do what was asked. The next command starts it anew.

    Attributes:
        reason: for the progress message.
    """

    def __init__(self, detail: str, reason: DropReason = DropReason.TRAINING_FAILED) -> None:
        """Keep the reason."""
        super().__init__(detail)
        self.reason = reason


class OutOfMemory(TrainingFailed):
    """Training needed more memory than its budget. Take a narrower width.

    Attributes:
        width: that did not fit; 0 where the process did not even start.
    """

    def __init__(self, width: float, detail: str) -> None:
        """Keep the width."""
        super().__init__(detail, DropReason.OUT_OF_MEMORY)
        self.width = width


class ProcessDied(TrainingFailed):
    """The training process ended while it worked.

    Attributes:
        by_memory: most likely because the machine ran out of memory.
    """

    def __init__(self, returncode: int | None) -> None:
        """Say how it ended."""
        super().__init__(f"the training process {describe_exit(returncode)}")
        self.by_memory = returncode is not None and _signal_name(returncode) == "SIGKILL"


def training_obstacle() -> str:
    """Return why this installation cannot train, or ""."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; install it with: pip install 'slimfleet[train]'"
    return ""


def describe_exit(returncode: int | None) -> str:
    """Return how a process ended, in words, after "the process ..."."""
    if returncode is None:
        return "closed its pipe"
    if returncode >= 0:
        return f"exited with status {returncode}; its log says why"
    name = _signal_name(returncode)
    hints = {
        "SIGKILL": " (perhaps by the system, out of memory)",
        "SIGILL": (
            ", illegal instruction: this build of torch needs another CPU; install another version"
            " of torch, or let this device only infer"
        ),
    }
    return f"was ended by {name}{hints.get(name, '')}"


def _signal_name(returncode: int) -> str:
    """Return the name of the signal that a negative status stands for, "" for another status."""
    if returncode >= 0:
        return ""
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def expect(kind: type[R], reply: protocol.Reply, width: float = 0.0) -> R:
    """Return ``reply`` if it is of ``kind``.

    Raises:
        OutOfMemory: the process ran out of memory and survived it.
        TrainingFailed: it reports any other failure, or answers something else.
    """
    if isinstance(reply, kind):
        return reply
    if not isinstance(reply, protocol.Failed):
        raise TrainingFailed(f"the training process answered {type(reply).__name__}")
    if reply.code == "out-of-memory":
        raise OutOfMemory(width, f"out of memory at width {width:g}: {reply.detail}")
    raise TrainingFailed(reply.detail, DROP_REASONS.get(reply.code, DropReason.TRAINING_FAILED))
