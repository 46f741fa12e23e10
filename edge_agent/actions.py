"""What a device does next: values that `edge_agent.session` returns and the agent carries out."""

from dataclasses import dataclass

from broker import messages as m
from slimmable.update_codec import UpdateEncoding


@dataclass(frozen=True)
class Say:
    """Publish on an up channel."""

    message: m.Message


@dataclass(frozen=True)
class MakeProfile:
    """Measure the device with the server's model; ``fresh``: whatever is remembered."""

    server: m.ServerState
    fresh: bool = False


@dataclass(frozen=True)
class FetchWeights:
    """Fetch, check and decrypt the weights of a task, and what else it names."""

    task: m.Task
    timeout_s: float


@dataclass(frozen=True)
class Train:
    """Train the task's width, starting from these weights.

    Attributes:
        correction: what is added to every gradient; b"" = nothing.
        public: file with the inputs that all devices score; "" = none.
    """

    task: m.Task
    weights: bytes
    timeout_s: float
    correction: bytes = b""
    public: str = ""


@dataclass(frozen=True)
class CancelTask:
    """Stop working on a round."""

    round: int


@dataclass(frozen=True)
class KeepUpdate:
    """Put an update into the outbox: from then on a crash cannot lose it."""

    task: m.Task
    state: bytes
    samples: int
    steps: int
    loss: float
    download_s: float
    train_s: float
    evaluations: tuple[m.WidthEvaluation, ...] = ()
    upload: UpdateEncoding = UpdateEncoding.FLOAT32
    corrected: bool = False


@dataclass(frozen=True)
class SendUpdate:
    """Publish the blocks of an update, then announce it."""

    update: m.Update


@dataclass(frozen=True)
class SettleUpdate:
    """The server has judged: clear the blocks and the announcement, forget the outbox entry."""

    round: int
    blob: str


@dataclass(frozen=True)
class Install:
    """Fetch, check, probe, place and run a verified release."""

    deployment: m.Deployment
    release: m.Release
    order: m.DeploymentOrder


@dataclass(frozen=True)
class RemoveModel:
    """Run no model any more."""

    deployment: m.Deployment


@dataclass(frozen=True)
class NoteStanding:
    """The server told the device where it stands."""

    standing: m.Standing


@dataclass(frozen=True)
class KeepWitness:
    """Put what the device has witnessed on its disk, then say it."""


@dataclass(frozen=True)
class Note:
    """Warn whoever reads the device's log."""

    text: str


Action = (
    Say
    | MakeProfile
    | FetchWeights
    | Train
    | CancelTask
    | KeepUpdate
    | SendUpdate
    | SettleUpdate
    | Install
    | RemoveModel
    | NoteStanding
    | KeepWitness
    | Note
)
