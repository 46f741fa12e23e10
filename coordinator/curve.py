"""Score over width: measured, with intervals, and what of it is worth offering. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.comparison import bootstrap, difference
from coordinator.rewards import WORSE, isotonic
from journal.events import CurvePoint

SampleScores = Mapping[float, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class TrainedWidths:
    """How wide the model was trained.

    Sub-models are nested: whoever trains a width trains all channels of the narrower ones too, and
    the narrower ones of the grid as networks of their own.

    Attributes:
        widths: training width of each device, one entry a device.
        narrowest: of the training grid.
        needed: so many devices must have trained a width or a wider one for it to be offered.
    """

    widths: Sequence[float]
    narrowest: float
    needed: int = 1


def score_curve(
    scores: SampleScores,
    recording: npt.NDArray[np.int64],
    rng: np.random.Generator,
    trained: TrainedWidths | None = None,
    untrained: SampleScores | None = None,
) -> tuple[CurvePoint, ...]:
    """Return one point per width, ascending; ``why`` says what speaks against offering one.

    A width is not offered where

    - too few devices trained it,
    - it scores no better than the untrained model; a width below the training grid, which nobody
      ever trained as a network of its own, must do so significantly (95 % paired bootstrap over
      recordings),
    - it is significantly worse than a narrower one.

    Among the offered ones a small dip is noise, which the isotonic fit removes.

    Args:
        scores: width -> score of each sample, (N,).
        recording: (N,) which recording each sample was cut from.
        rng: draws recordings.
        trained: how wide; None = all widths were trained by enough devices.
        untrained: the same as ``scores`` of the initial weights; None = all widths are better.
    """
    widths = sorted(scores)
    why = {}
    for position, width in enumerate(widths):
        narrower = {narrow: scores[narrow] for narrow in widths[:position]}
        why[width] = (
            _too_few(width, trained)
            or _not_better(width, scores, recording, rng, trained, untrained)
            or _dominated(scores[width], narrower, recording, rng)
        )
    offered = [width for width in widths if not why[width]]
    fit = isotonic([float(scores[width].mean()) for width in offered])
    fitted = dict(zip(offered, fit, strict=True))
    points = []
    for width in widths:
        interval = bootstrap(scores[width], recording, rng)
        points.append(
            CurvePoint(
                width=width,
                score=interval.mean,
                low=interval.low,
                high=interval.high,
                offered=width in fitted,
                fitted=fitted.get(width, interval.mean),
                why=why[width],
            )
        )
    return tuple(points)


def _too_few(width: float, trained: TrainedWidths | None) -> str:
    if trained is None:
        return ""
    count = sum(own >= width for own in trained.widths)
    if count >= trained.needed:
        return ""
    return f"trained by {count} devices, at least {trained.needed} are needed"


def _not_better(
    width: float,
    scores: SampleScores,
    recording: npt.NDArray[np.int64],
    rng: np.random.Generator,
    trained: TrainedWidths | None,
    untrained: SampleScores | None,
) -> str:
    if untrained is None:
        return ""
    gain = difference(scores[width], untrained[width], recording, rng)
    if gain.mean <= 0:
        return "scores no better than the untrained model"
    if trained and width < trained.narrowest and gain.low <= 0:
        return (
            "narrower than what is trained, and not significantly better than the untrained model"
        )
    return ""


def _dominated(
    own: npt.NDArray[np.float64],
    narrower: SampleScores,
    recording: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> str:
    for width, scores in narrower.items():
        if difference(own, scores, recording, rng).high < 0:
            return f"{WORSE} {width:g}"
    return ""
