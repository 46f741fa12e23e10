"""What can happen to a coordinator, as values; and what of them may enter the journal."""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from broker.messages import (
    Birth,
    BlobReference,
    Command,
    DropReason,
    Profile,
    Progress,
    Release,
    Report,
    Update,
)
from coordinator.bench import RoundResult
from coordinator.settings import Settings
from journal.events import AloneScore, ContradictionReported, LinkState, WidthMemory

SENTENCE_LIMIT = 300  # characters; six such sentences stay below the control limit
M = TypeVar("M", bound=msgspec.Struct)


def brief(sentence: str) -> str:
    """Return a sentence cut to what fits into a message: others wrote parts of it."""
    return sentence if len(sentence) <= SENTENCE_LIMIT else sentence[: SENTENCE_LIMIT - 1] + "…"


def recordable(message: M) -> M:
    """Return a message with every NaN and infinity as 0, for the journal holds neither."""
    if b"null" not in msgspec.json.encode(message):  # which JSON says for both
        return message
    cleaned: M = _finite(message)
    return cleaned


def is_finite(value: Any) -> bool:
    """Return whether no number in a struct, a sequence or a mapping is NaN or infinite."""
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(is_finite(part) for part in value.values())
        case list() | tuple():
            return all(is_finite(part) for part in value)
        case msgspec.Struct():
            return all(is_finite(getattr(value, name)) for name in value.__struct_fields__)
    return True


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else 0.0
        case tuple():
            return tuple(_finite(part) for part in value)
        case msgspec.Struct():
            fields = {name: _finite(getattr(value, name)) for name in value.__struct_fields__}
            return msgspec.structs.replace(value, **fields)
    return value


@dataclass(frozen=True)
class Started:
    """The coordinator process started (again); ``memory`` is for each reward width."""

    settings: Settings
    spec_hash: str
    software: str
    memory: tuple[WidthMemory, ...] = ()
    signer: str = ""


@dataclass(frozen=True)
class BirthReceived:
    """A device announced itself."""

    device: str
    birth: Birth


@dataclass(frozen=True)
class LeaseChanged:
    """The lease of a device changed its state."""

    device: str
    link: LinkState
    cause: str


@dataclass(frozen=True)
class ProfileReceived:
    """A device reported what it can do; ``payload_bytes`` is the weights' size per width."""

    device: str
    profile: Profile
    payload_bytes: dict[float, int]


@dataclass(frozen=True)
class ProgressReceived:
    """A device said how far it is."""

    device: str
    progress: Progress


@dataclass(frozen=True)
class UpdateAnnounced:
    """A device announced an update; its bytes have not been fetched.

    Attributes:
        limit_bytes: the most that an update of this width can honestly weigh.
    """

    device: str
    update: Update
    limit_bytes: int


@dataclass(frozen=True)
class UpdateFetched:
    """The bytes of an update were fetched and inspected.

    Attributes:
        digest: where they stand in the blob folder.
        fault: why they cannot be used, if so.
    """

    device: str
    update: Update
    limit_bytes: int
    digest: str
    fault: tuple[DropReason, str] | None = None


@dataclass(frozen=True)
class ReportReceived:
    """A device said what it runs."""

    device: str
    report: Report


@dataclass(frozen=True)
class CommandReceived:
    """An operator asked for something; ``payload_bytes`` is the weights' size per width."""

    operator: str
    command: Command
    payload_bytes: dict[float, int]


@dataclass(frozen=True)
class WitnessReported:
    """A device said whether two checkpoints that it has seen contradict each other.

    Attributes:
        claim: what it reports, without the evidence; None = nothing.
        accepted: why an operator accepted the last one, or "".
    """

    device: str
    claim: ContradictionReported | None
    accepted: str = ""


@dataclass(frozen=True)
class MessageForged:
    """A message whose payload names somebody else than its topic, or that is nonsense."""

    sender: str
    channel: str
    reason: str


@dataclass(frozen=True)
class Initialised:
    """The initial weights exist and were measured; public inputs too, where devices score such."""

    digest: str
    score: float
    public: str = ""


@dataclass(frozen=True)
class Scored:
    """The worker aggregated and measured a round."""

    round: int
    result: RoundResult


@dataclass(frozen=True)
class Assessed:
    """The worker measured what each device trained alone."""

    round: int
    scores: tuple[AloneScore, ...]
    seconds: float


@dataclass(frozen=True)
class Exported:
    """The worker exported the reward widths.

    Attributes:
        releases: one per width, with the shared blob's reference.
        worse: why the new weights must not replace those in use, or "".
    """

    releases: tuple[tuple[Release, BlobReference], ...]
    worse: str = ""


@dataclass(frozen=True)
class BlobPublished:
    """The blocks of a shared blob are all on the broker; ``device``: that it is for, or ""."""

    purpose: str
    width: float
    blob: str
    size: int
    device: str = ""


@dataclass(frozen=True)
class JobFailed:
    """A job of the worker failed."""

    job: str
    detail: str


@dataclass(frozen=True)
class Tick:
    """Time passed."""


Input = (
    Started
    | BirthReceived
    | LeaseChanged
    | ProfileReceived
    | ProgressReceived
    | UpdateAnnounced
    | UpdateFetched
    | ReportReceived
    | CommandReceived
    | WitnessReported
    | MessageForged
    | Initialised
    | Scored
    | Assessed
    | Exported
    | BlobPublished
    | JobFailed
    | Tick
)
