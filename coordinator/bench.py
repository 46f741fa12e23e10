"""The values that the coordinator and its worker processes exchange; weights go by digest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from broker.messages import ModelManifest
from coordinator.settings import Aggregation, Distillation
from journal.events import AloneScore, Contribution, ControlVariates, CurvePoint, Distilled
from slimmable.window import PREFIX, Window

if TYPE_CHECKING:  # decisions read the results below, and they have no disk
    from pathlib import Path


@dataclass(frozen=True)
class Bench:
    """What every job needs: the model, the validation data and where blobs are.

    Attributes:
        model, options: see `slimmable.model.load_model`.
        validation: file of the validation samples, None where devices measure; reader,
            reader_options: how to read it.
        blobs, templates: folders.
        grid: training widths; ladder: reward widths.
        seed: of the campaign.
        fleet: its name, which is written into exported files.
        distillation: what the aggregate is taught; pool: file of unlabelled samples for that or
            for all devices to score, None where validation recordings are set aside; pool_reader,
            pool_options: how to read it.
        exchange: see `coordinator.settings.Settings`; public_samples: `Knowledge.samples` of it.
    """

    model: str
    options: Mapping[str, Any]
    validation: "Path | None"
    reader: str
    blobs: "Path"
    templates: "Path"
    grid: tuple[float, ...]
    ladder: tuple[float, ...]
    seed: int
    reader_options: Mapping[str, Any] = field(default_factory=dict)
    fleet: str = ""
    distillation: Distillation = field(default_factory=Distillation)
    pool: "Path | None" = None
    pool_reader: str = "npz"
    pool_options: Mapping[str, Any] = field(default_factory=dict)
    exchange: str = "weights"
    public_samples: int = 0


@dataclass(frozen=True)
class UpdateFile:
    """An accepted update in the blob folder.

    Attributes:
        weight: in the aggregate.
        samples: on the device, its own claim.
        rounds: in which an update of the device counted, this one included.
        window: which entries of the full model it is about.
        reach: widest sub-model that its device comes to train, which may be wider than this once.
        steps: that the device was asked for.
        corrected: whether it says that it corrected its gradients.
        base: of a late one, digest of the weights that it was trained on; "" = those of the round.
        round: of a late one, the round that it was trained in; 0 = this one.
        staleness: how many times the weights have moved since its own.
        factor: what its change is multiplied by.
    """

    device: str
    width: float
    digest: str
    weight: float
    samples: int = 0
    rounds: int = 1
    window: Window = PREFIX
    reach: float = 0.0
    steps: int = 0
    corrected: bool = False
    base: str = ""
    round: int = 0
    staleness: int = 0
    factor: float = 1.0

    @property
    def player(self) -> str:
        """Its name among the updates of the round; of a device there may be a late one besides."""
        return f"{self.device}@{self.round}" if self.round else self.device


@dataclass(frozen=True)
class Control:
    """The control variates that a round went by.

    Attributes:
        fleet: digest of what the fleet's are worked out from, "" at first; devices: of each
            device's own, where it has one.
        rate: learning rate of the round.
    """

    fleet: str
    devices: Mapping[str, str]
    rate: float


@dataclass(frozen=True)
class ScoreJob:
    """Aggregate and measure one round.

    Attributes:
        base, best: digests of the weights it started from, and of the best so far.
        method, coalitions, widths: see `coordinator.settings.Contributions`.
        aggregation: how the updates become one change.
        optimiser: digest of what the server's optimiser remembers, or "".
        known: digests of weights before ``base``, the latest first: the steps between them are
            what the server could foresee. known_to_late: those before them, of which as many count
            for a late update as the weights have moved since its own.
        private: see `coordinator.settings.Training`.
        min_trainers: see `coordinator.settings.Rewards`.
        absent_widths: how far devices without an update in this round reach, if they ever trained.
        control: None where gradients are not corrected.
    """

    round: int
    base: str
    best: str
    updates: tuple[UpdateFile, ...]
    method: str
    coalitions: int
    known: tuple[str, ...] = ()
    known_to_late: tuple[str, ...] = ()
    min_trainers: int = 1
    absent_widths: tuple[float, ...] = ()
    aggregation: Aggregation = field(default_factory=Aggregation)
    optimiser: str = ""
    widths: int = 0
    control: Control | None = None
    private: tuple[str, ...] = ()


@dataclass(frozen=True)
class AssessJob:
    """Measure the updates of an assessment round one by one.

    Attributes:
        base: digest of the weights it started from.
    """

    round: int
    base: str
    updates: tuple[UpdateFile, ...]


@dataclass(frozen=True)
class RoundResult:
    """What `score_round` found; where devices measure, no curve and no values.

    Its fields are those of `journal.events.RoundScored`, which is made of it.
    """

    digest: str
    curve: tuple[CurvePoint, ...]
    contributions: tuple[Contribution, ...]
    method: str
    value_before: float
    value_after: float
    coalitions: int
    seconds: float
    better: bool
    optimiser: str = ""
    distilled: Distilled | None = None
    variates: ControlVariates | None = None


@dataclass(frozen=True)
class AssessResult:
    """What `coordinator.assessment.assess` found."""

    scores: tuple[AloneScore, ...]
    seconds: float


@dataclass(frozen=True)
class ExportJob:
    """Export widths of one set of weights.

    Attributes:
        in_use: the weights released before, or "".
        reported: where devices measure, width -> score; score_data: in words, where it is from.
    """

    weights: str
    round: int
    widths: tuple[float, ...]
    in_use: str
    reported: Mapping[float, float] = field(default_factory=dict)
    score_data: str = ""


@dataclass(frozen=True)
class ExportResult:
    """Manifests of the files that stand in the blob folder, or why they must not be released."""

    manifests: tuple[ModelManifest, ...]
    worse: str = ""
