"""Score over width: measured, with intervals, and what of it is worth offering. Pure."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from coordinator.comparison import bootstrap, difference
from coordinator.rewards import isotonic
from journal.events import CurvePoint


def score_curve(
    scores: Mapping[float, npt.NDArray[np.float64]],
    recording: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[CurvePoint, ...]:
    """Return one point per width, ascending.

    A width is not offered where it is significantly worse than a narrower one (95 % paired
    bootstrap over recordings). Among the offered ones a small dip is noise, which the isotonic fit
    removes.

    Args:
        scores: width -> score of each sample, (N,).
        recording: (N,) which recording each sample was cut from.
        rng: draws recordings.
    """
    widths = sorted(scores)
    offered = []
    for position, width in enumerate(widths):
        gains = (
            difference(scores[width], scores[narrow], recording, rng)
            for narrow in widths[:position]
        )
        if all(gain.high >= 0 for gain in gains):
            offered.append(width)
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
            )
        )
    return tuple(points)
