"""What can happen to a device, as values for `edge_agent.session`."""

from dataclasses import dataclass

from broker import messages as m
from edge_agent.witness_state import Acceptance
from profiler.profile import Condition
from slimmable.update_codec import UpdateEncoding


@dataclass(frozen=True)
class ServerSaid:
    """A message on one of the device's down channels or from ``srv/``; None = cleared.

    ``live`` says that it was sent just now, not kept by the broker from before.
    """

    message: (
        m.ServerState
        | m.Task
        | m.Receipt
        | m.Standing
        | m.DeploymentOrder
        | m.ProfileRequest
        | m.SignedCheckpoint
        | m.Proof
        | None
    )
    live: bool = False


@dataclass(frozen=True)
class Acknowledged:
    """The broker has a small message; it and its acknowledgement took so many seconds."""

    seconds: float


@dataclass(frozen=True)
class ProfileMade:
    """The profiler finished."""

    profile: m.Profile


@dataclass(frozen=True)
class ConditionRead:
    """What state the machine is in now."""

    condition: Condition


@dataclass(frozen=True)
class WeightsArrived:
    """The weights of a task are here, decrypted and checked, and what else it names.

    Attributes:
        public: file with the inputs that all devices score; "" = none.
    """

    round: int
    data: bytes
    downloaded_bytes: int
    download_s: float
    correction: bytes = b""
    public: str = ""


@dataclass(frozen=True)
class TaskBroke:
    """A task cannot be done: weights that cannot be had, training that failed."""

    round: int
    reason: m.DropReason
    detail: str


@dataclass(frozen=True)
class TrainingDone:
    """The trainer returned."""

    round: int
    state: bytes
    samples: int
    steps: int
    loss: float
    train_s: float
    evaluations: tuple[m.WidthEvaluation, ...] = ()
    upload: UpdateEncoding = UpdateEncoding.FLOAT32
    corrected: bool = False


@dataclass(frozen=True)
class UpdateKept:
    """The update is safe in the outbox; ``update`` names its blob."""

    update: m.Update


@dataclass(frozen=True)
class UpdateSent:
    """All blocks and the announcement of an update were acknowledged by the broker."""

    round: int


@dataclass(frozen=True)
class InstallDone:
    """The model of a deployment runs, or does not; the report says which."""

    report: m.Report


@dataclass(frozen=True)
class ContradictionAccepted:
    """An operator left word on this device."""

    acceptance: Acceptance


@dataclass(frozen=True)
class Tick:
    """Time passed."""


SessionInput = (
    ServerSaid
    | Acknowledged
    | ProfileMade
    | ConditionRead
    | WeightsArrived
    | TaskBroke
    | TrainingDone
    | UpdateKept
    | UpdateSent
    | InstallDone
    | ContradictionAccepted
    | Tick
)
