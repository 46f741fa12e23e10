"""The pictures of a report over time, as ``<svg>`` elements for its page.

Drawn as the picture of a run is (`monitor.picture`): the same figures give the same bytes, and no
meaning hangs on colour alone.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from journal.events import CurvePoint
from monitor.kpi_report import KpiReport
from monitor.picture import CURVE, DEVICE, FAINT, PAPER, SETTINGS, draw_interval
from monitor.round_view import AGGREGATED, RoundView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES = (5.2, 2.7)
BARS = 40
"""Rounds beyond so many are drawn several to a bar."""


def pictures(report: KpiReport) -> dict[str, str]:
    """Return name -> ``<svg>`` of what there is to draw: participation, score, widths, traffic."""
    found: dict[str, str] = {}
    training = [one for one in report.rounds if one.turns]
    if training:
        found["participation"] = _svg("p", lambda axes: _participation(axes, training))
    if report.scores:
        found["score"] = _svg("s", lambda axes: _score(axes, report))
    if report.curve:
        found["widths"] = _svg("w", lambda axes: _widths(axes, report))
    if report.sent + report.received:
        found["traffic"] = _svg("t", lambda axes: _traffic(axes, report.rounds))
    return found


def grouped(rounds: Sequence[RoundView]) -> list[Sequence[RoundView]]:
    """Return the rounds in groups of neighbours, at most `BARS` of them and of one size."""
    size = -(-len(rounds) // BARS)
    return [rounds[start : start + size] for start in range(0, len(rounds), max(1, size))]


def _svg(prefix: str, draw: Callable[["Axes"], None]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**SETTINGS, "font.size": 8.5}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        figure.patch.set_facecolor("none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        axes.grid(visible=True, axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        target = io.BytesIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue().decode()
    # Several pictures stand in one page, and an id may be there once.
    text = re.sub(r'(\bid="|="#|url\(#)', rf"\g<1>{prefix}-", text)
    return text[text.index("<svg") :]


def _participation(axes: "Axes", rounds: Sequence[RoundView]) -> None:
    groups = grouped(rounds)
    for group in groups:
        turns = [turn for one in group for turn in one.turns.values()]
        taken = sum(turn.outcome == AGGREGATED for turn in turns)
        left, size = group[0].number, group[-1].number - group[0].number + 1
        middle = left + (size - 1) / 2
        axes.bar(middle, 100, 0.84 * size, color="none", edgecolor=FAINT, linewidth=0.7)
        axes.bar(middle, 100 * taken / len(turns), 0.84 * size, color=CURVE)
    axes.set_ylim(0, 104)
    axes.set_ylabel("% of eligible devices")
    _rounds_axis(axes, rounds, groups)


def _score(axes: "Axes", report: KpiReport) -> None:
    points = ([report.score_before] if report.score_before else []) + list(report.scores)
    at = [point.round for point in points]
    draw_interval(axes, at, points)
    marker = "o" if len(points) <= BARS else ""
    axes.plot(
        at, [p.score for p in points], color=CURVE, marker=marker, markersize=3, linewidth=1.3
    )
    if report.score_before:
        axes.axhline(
            report.score_before.score,
            color=FAINT,
            linestyle=(0, (4, 3)),
            linewidth=1,
            label="before",
        )
    axes.set_ylabel("score at full width")
    axes.set_xlabel("round")
    _whole_numbers(axes)
    axes.legend(frameon=False, fontsize=7.5, loc="lower right")


def _widths(axes: "Axes", report: KpiReport) -> None:
    if report.curve_before:
        _curve(axes, report.curve_before, DEVICE, "s", "when it began", -0.006)
    _curve(axes, report.curve, CURVE, "o", "at the end", 0.006 if report.curve_before else 0.0)
    axes.set_xlabel("width of the network")
    axes.set_ylabel("score")
    axes.set_xlim(0, 1.06)
    axes.legend(frameon=False, fontsize=7.5, loc="lower right")


def _curve(
    axes: "Axes", curve: Sequence[CurvePoint], colour: str, shape: str, name: str, shift: float
) -> None:
    """Draw scores with their intervals; a shift keeps those of two curves apart."""
    points = sorted(curve, key=lambda point: point.width)
    at = [point.width + shift for point in points]
    axes.vlines(at, [p.low for p in points], [p.high for p in points], color=colour, linewidth=1)
    axes.plot(
        at,
        [point.score for point in points],
        color=colour,
        marker=shape,
        markersize=4,
        markeredgecolor=PAPER,
        linewidth=1.2,
        linestyle="-" if shape == "o" else "--",
        label=name,
    )


def _traffic(axes: "Axes", rounds: Sequence[RoundView]) -> None:
    groups = grouped(rounds)
    sums = [
        [sum(one.received for one in group) for group in groups],
        [sum(one.sent for one in group) for group in groups],
    ]
    unit, name = _unit(max(max(one) for one in sums))
    for place, (moved, colour, hatch, what) in enumerate(
        zip(
            sums,
            (CURVE, DEVICE),
            ("", "////"),
            ("fetched by devices", "sent by devices"),
            strict=True,
        )
    ):
        sizes = [group[-1].number - group[0].number + 1 for group in groups]
        lefts = [
            group[0].number - 0.42 * size + (size - 1) / 2
            for group, size in zip(groups, sizes, strict=True)
        ]
        axes.bar(
            [left + (0.21 + 0.42 * place) * size for left, size in zip(lefts, sizes, strict=True)],
            [one / unit for one in moved],
            [0.42 * size for size in sizes],
            facecolor=colour if not hatch else "none",
            edgecolor=colour,
            hatch=hatch,
            linewidth=0.6,
            label=what,
        )
    axes.set_ylabel(name)
    axes.set_ylim(0, 1.25 * max(max(one) for one in sums) / unit)
    axes.legend(frameon=False, fontsize=7.5, loc="upper right", ncols=2)
    _rounds_axis(axes, rounds, groups)


def _unit(largest: int) -> tuple[float, str]:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= unit:
            return unit, name
    return 1.0, "bytes"


def _rounds_axis(
    axes: "Axes", rounds: Sequence[RoundView], groups: Sequence[Sequence[RoundView]]
) -> None:
    size = len(groups[0])
    axes.set_xlabel("round" if size == 1 else f"round ({size} in a bar)")
    axes.set_xlim(rounds[0].number - 0.6, rounds[-1].number + 0.6)
    _whole_numbers(axes)


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
