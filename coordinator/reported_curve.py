"""Score over width from what devices report, where the server has no validation data. Pure.

Nobody can check a report, so no device counts more than another (how many samples it measured on is
a claim, too), and of all reports about a width the highest and the lowest are cut off before the
rest is averaged. As long as no more than the trimmed share of a width's reports are lies, whatever
their direction, what is left lies between honest reports.

The intervals are over devices: the t-interval of a trimmed mean with the winsorised variance (Tukey
and McLaughlin, "Less vulnerable confidence and significance procedures for location based on a
single sample", Sankhya A, 1963).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from broker.messages import WidthEvaluation
from coordinator.comparison import Interval
from coordinator.contribution.student import quantile
from coordinator.rewards import WORSE, isotonic
from journal.events import CurvePoint

Reports = Mapping[str, tuple[WidthEvaluation, ...]]
Scores = Mapping[str, float]  # device -> its score at one width

LOWEST_SCORE = -1e3  # a regression may explain less than nothing, but nothing honest is worse
HIGHEST_LOSS = 1e6
MOST_SAMPLES = 2**53  # what every format of numbers holds
NOT_MEASURED = "no device measures this width: the score is read off its neighbours"


def sound_evaluations(
    evaluations: Sequence[WidthEvaluation], widths: Sequence[float], widest: float
) -> tuple[tuple[WidthEvaluation, ...], str]:
    """Return the evaluations that can be true, and one line about the others, or "".

    Args:
        evaluations: what a device sent.
        widths: the training grid.
        widest: width of its task.
    """
    kept: dict[float, WidthEvaluation] = {}
    faults = []
    for one in evaluations:
        fault = _fault(one, widths, widest)
        if one.width in kept:
            fault = f"width {one.width:g} is reported twice"
        if fault:
            faults.append(fault)
        else:
            kept[one.width] = one
    if not faults:
        return tuple(kept.values()), ""
    note = f"{len(faults)} of {len(evaluations)} evaluations dropped: {faults[0]}"
    return tuple(kept.values()), note


def _fault(one: WidthEvaluation, widths: Sequence[float], widest: float) -> str:
    if one.width not in widths or one.width > widest:
        return f"width {one.width:g} is none of the grid up to {widest:g}"
    # Also refuses NaN, which no comparison holds for.
    if not LOWEST_SCORE <= one.score <= 1.0:
        return f"a score of {one.score:g} at width {one.width:g}"
    if not 0.0 <= one.loss <= HIGHEST_LOSS:
        return f"a loss of {one.loss:g} at width {one.width:g}"
    if not 1 <= one.samples <= MOST_SAMPLES:
        return f"{one.samples} samples at width {one.width:g}"
    return ""


def trimmed_mean(values: Sequence[float], trim: float) -> Interval:
    """Return the mean without the floor(trim * n) highest and lowest, with its 95 % t-interval.

    The interval is infinite where fewer than two values are left: one says nothing about spread.

    Args:
        values: one a device, at least one, in any order.
        trim: share of them that is cut off at either end, below 0.5.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    cut = min(math.floor(trim * count + 1e-9), (count - 1) // 2)
    kept = ordered[cut : count - cut]
    # Clipped: rounding alone can carry a mean beyond what it is the mean of.
    mean = float(np.clip(kept.mean(), kept[0], kept[-1]))
    if len(kept) < 2:
        return Interval(mean, -math.inf, math.inf)
    spread = float(np.std(np.clip(ordered, kept[0], kept[-1]), ddof=1))
    half = quantile(len(kept) - 1, 0.05) * spread / ((1 - 2 * cut / count) * math.sqrt(count))
    return Interval(mean, mean - half, mean + half)


def reported_curve(
    reports: Reports,
    trim: float,
    ladder: Sequence[float] = (),
    needed: int = 1,
    untrained: Reports | None = None,
) -> tuple[CurvePoint, ...]:
    """Return one point per reported width and ladder width, ascending; () without any report.

    A width is not offered where

    - nobody reports it, or too few devices do,
    - it scores no better than the untrained model,
    - it is significantly worse than a narrower one.

    Models and widths are compared by the paired differences of the devices that report on both.
    Among the offered widths a small dip is noise, which the isotonic fit removes.

    Args:
        reports: device -> its evaluations, each width at most once.
        trim: see `trimmed_mean`.
        ladder: widths that the curve names even where nobody reports them.
        needed: so many devices must report a width for it to be offered.
        untrained: reports on the initial weights; None = all widths are better.
    """
    scores, initial = _by_width(reports), _by_width(untrained or {})
    if not scores:
        return ()
    means = {width: trimmed_mean([*scores[width].values()], trim) for width in sorted(scores)}
    why = {
        width: _too_few(scores[width], needed)
        or _not_better(scores[width], initial.get(width, {}), trim)
        or _dominated(width, scores, trim)
        for width in means
    }
    offered = [width for width in means if not why[width]]
    fit = isotonic([means[width].mean for width in offered])
    fitted = dict(zip(offered, fit, strict=True))
    points = {
        width: CurvePoint(
            width=width,
            score=found.mean,
            low=found.low if math.isfinite(found.low) else min(scores[width].values()),
            high=found.high if math.isfinite(found.high) else max(scores[width].values()),
            offered=width in fitted,
            fitted=fitted.get(width, found.mean),
            why=why[width],
        )
        for width, found in means.items()
    }
    for width in sorted({*ladder} - {*points}):
        points[width] = _between([points[known] for known in means], width)
    return tuple(points[width] for width in sorted(points))


def reported_value(reports: Reports, trim: float) -> float:
    """Return minus the trimmed mean, over devices, of each one's mean loss; 0 without any."""
    losses = [_mean([one.loss for one in reports[device]]) for device in sorted(reports)]
    return -trimmed_mean(losses, trim).mean if losses else 0.0


def reported_gain(
    new: Reports, old: Reports, trim: float, of: Callable[[WidthEvaluation], float]
) -> Interval:
    """Return how much better one model is reported than another, paired device by device.

    Only devices that reported on both count, over the widths that they reported in both. Where
    there are fewer than two, the interval is infinite.

    Args:
        new: reports on the one.
        old: reports on the other.
        trim: see `trimmed_mean`.
        of: what is compared of an evaluation, higher is better.
    """
    gains = []
    for device in sorted({*new} & {*old}):
        before = {one.width: of(one) for one in old[device]}
        both = [of(one) - before[one.width] for one in new[device] if one.width in before]
        if both:
            gains.append(_mean(both))
    return trimmed_mean(gains, trim) if gains else Interval(0.0, -math.inf, math.inf)


def _by_width(reports: Reports) -> dict[float, dict[str, float]]:
    scores: dict[float, dict[str, float]] = {}
    for device in sorted(reports):
        for one in reports[device]:
            scores.setdefault(one.width, {})[device] = one.score
    return scores


def _too_few(scores: Scores, needed: int) -> str:
    if len(scores) >= needed:
        return ""
    return f"reported by {len(scores)} devices, at least {needed} are needed"


def _not_better(scores: Scores, initial: Scores, trim: float) -> str:
    gains = _paired(scores, initial)
    if gains and trimmed_mean(gains, trim).mean <= 0:
        return "scores no better than the untrained model"
    return ""


def _dominated(width: float, scores: Mapping[float, Scores], trim: float) -> str:
    for narrow in sorted(narrow for narrow in scores if narrow < width):
        gains = _paired(scores[width], scores[narrow])
        if gains and trimmed_mean(gains, trim).high < 0:
            return f"{WORSE} {narrow:g}, by what devices report"
    return ""


def _paired(one: Scores, other: Scores) -> list[float]:
    return [one[device] - other[device] for device in one if device in other]


def _between(known: Sequence[CurvePoint], width: float) -> CurvePoint:
    widths = [point.width for point in known]
    score, low, high = (
        float(np.interp(width, widths, [getattr(point, name) for point in known]))
        for name in ("score", "low", "high")
    )
    return CurvePoint(
        width=width,
        score=score,
        low=low,
        high=high,
        offered=False,
        fitted=score,
        why=NOT_MEASURED,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
