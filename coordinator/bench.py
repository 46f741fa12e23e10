"""The values that the coordinator and its worker processes exchange; weights go by digest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.messages import ModelManifest
from journal.events import Contribution, CurvePoint


@dataclass(frozen=True)
class Bench:
    """What every job needs: the model, the validation data and where blobs are.

    Attributes:
        model, options: see `slimmable.model.load_model`.
        validation: file of the validation samples; reader, reader_options: how to read it.
        blobs, templates: folders.
        grid: training widths; ladder: reward widths.
        seed: of the campaign.
        fleet: its name, which is written into exported files.
    """

    model: str
    options: Mapping[str, Any]
    validation: Path
    reader: str
    blobs: Path
    templates: Path
    grid: tuple[float, ...]
    ladder: tuple[float, ...]
    seed: int
    reader_options: Mapping[str, Any] = field(default_factory=dict)
    fleet: str = ""


@dataclass(frozen=True)
class UpdateFile:
    """An accepted update in the blob folder."""

    device: str
    width: float
    digest: str
    weight: float


@dataclass(frozen=True)
class ScoreJob:
    """Aggregate and measure one round."""

    round: int
    base: str
    best: str
    updates: tuple[UpdateFile, ...]
    method: str
    coalitions: int


@dataclass(frozen=True)
class RoundResult:
    """What `score_round` found."""

    digest: str
    curve: tuple[CurvePoint, ...]
    contributions: tuple[Contribution, ...]
    method: str
    value_before: float
    value_after: float
    coalitions: int
    seconds: float
    better: bool


@dataclass(frozen=True)
class ExportJob:
    """Export widths of one set of weights; ``in_use`` are the weights released before, or ""."""

    weights: str
    round: int
    widths: tuple[float, ...]
    in_use: str


@dataclass(frozen=True)
class ExportResult:
    """Manifests of the files that stand in the blob folder, or why they must not be released."""

    manifests: tuple[ModelManifest, ...]
    worse: str = ""
