"""The picture of an export: score against latency against size, the Pareto front marked.

Every file that was measured is a mark: its place says latency and score, its area the file's size,
its shape the form. No meaning hangs on colour: float32 is round, int8 angular, what was not written
is hollow. The same report gives the same bytes.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.budget import format_bytes, parse_budget
from exporter.labels import Box, place_labels, text_box
from exporter.report import ExportReport, FormRow, WidthRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, PAPER = "#22262b", "#8a929b", "#fefefe"
# Okabe and Ito's, told apart by people who do not see all colours; of unlike lightness in grey.
FORMS = {
    "fp32": ("o", "#0072b2", "float32"),
    "int8-static": ("s", "#e69f00", "int8, static"),
    "int8-dynamic": ("^", "#d55e00", "int8, dynamic"),
}
SIZE_INCHES = (8.6, 5.4)
SMALLEST_MARK, LARGEST_MARK = 40.0, 620.0  # points squared
LABEL_SIZE = 7.5
FEW = 6  # widths that have room for labels of every mark
SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9.0,
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class _Mark:
    """One measured file."""

    row: WidthRow
    form: FormRow
    height: float  # its score, or its width where no score was measured

    @property
    def milliseconds(self) -> float:
        return self.form.latency_median_s * 1e3

    @property
    def is_chosen(self) -> bool:
        return self.form.form == self.row.chosen


def draw_report(report: ExportReport) -> bytes:
    """Return the picture as PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=SIZE_INCHES)
        figure.patch.set_facecolor(PAPER)
        axes = figure.add_axes((0.085, 0.185, 0.885, 0.70), facecolor="none")
        marks = _marks(report)
        _style(axes, report, marks)
        _draw_front(axes, marks)
        _draw_budget(axes, report)
        _draw_marks(axes, marks)
        _draw_labels(axes, marks)
        _legend(axes, marks)
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=150, metadata={"Software": None})
    return target.getvalue()


def _marks(report: ExportReport) -> list[_Mark]:
    """Return what has a score, or everything at its width where nothing has."""
    pairs = [(row, form) for row in report.widths for form in row.forms]
    scored = [_Mark(row, form, form.score) for row, form in pairs if form.score is not None]
    return scored or [_Mark(row, form, row.width) for row, form in pairs]


def _is_scored(marks: Sequence[_Mark]) -> bool:
    return any(mark.form.score is not None for mark in marks)


def _style(axes: "Axes", report: ExportReport, marks: Sequence[_Mark]) -> None:
    whose = f", fleet {report.fleet}, round {report.round}" if report.fleet else ""
    scored = _is_scored(marks)
    what = report.score_name.capitalize() if scored else "Width"
    title = f"{what}, latency and size of {report.model}{whose}"
    axes.set_title(_plain(title), loc="left", fontsize=11, pad=24)
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    below = f"latency on {report.machine}, {threads}"
    below += f"; {report.score_name} on {report.score_data}" if scored else "; no score measured"
    axes.text(0, 1.025, _plain(below), transform=axes.transAxes, fontsize=8, color=INK)
    axes.set_xlabel("milliseconds a call of one sample (median, logarithmic)")
    axes.set_ylabel(report.score_name if scored else "width (no score was measured)")
    _set_limits(axes, marks)
    axes.grid(visible=True, color=FAINT, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _set_limits(axes: "Axes", marks: Sequence[_Mark]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    times = [mark.milliseconds for mark in marks]
    heights = [mark.height for mark in marks]
    low, high = min(times), max(times)
    room = max(1.35, (high / low) ** 0.14)
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    narrow = math.log10(high * room * room / low) < 1.2
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if narrow else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    spread = max(max(heights) - min(heights), 0.02)
    axes.set_ylim(min(heights) - 0.16 * spread, max(heights) + 0.16 * spread)


def _draw_front(axes: "Axes", marks: Sequence[_Mark]) -> None:
    """Draw the best score that each latency buys; what is on the front for its size lies below."""
    stairs: list[_Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.milliseconds, -mark.height)):
        if mark.form.on_front and (not stairs or mark.height > stairs[-1].height):
            stairs.append(mark)
    if len(stairs) > 1:
        axes.plot(
            [mark.milliseconds for mark in stairs],
            [mark.height for mark in stairs],
            drawstyle="steps-post",
            color=INK,
            linewidth=1.0,
            linestyle=(0, (5, 2)),
            zorder=2,
            label="best score for the time",
        )


def _draw_budget(axes: "Axes", report: ExportReport) -> None:
    if not report.budget:
        return
    limit_ms = parse_budget(report.budget).latency_s * 1e3
    low, high = axes.get_xlim()
    if low < limit_ms < high:
        axes.axvspan(limit_ms, high, color=FAINT, alpha=0.14, linewidth=0, label="over the budget")


def _draw_marks(axes: "Axes", marks: Sequence[_Mark]) -> None:
    largest = max(mark.form.size for mark in marks)
    for mark in sorted(marks, key=lambda mark: -mark.form.size):  # small ones on top
        shape, colour, _ = FORMS[mark.form.form]
        written = mark.form.written is not None
        axes.scatter(
            mark.milliseconds,
            mark.height,
            s=_area(mark.form.size, largest),
            marker=shape,
            facecolor=colour if written else PAPER,
            edgecolor=INK if mark.form.on_front else colour,
            linewidth=1.6 if mark.form.on_front else 1.1,
            alpha=0.92,
            zorder=3,
        )


def _area(size: int, largest: int) -> float:
    """Return the area of a mark, proportional to the size of the file."""
    return max(SMALLEST_MARK, LARGEST_MARK * size / largest)


def _draw_labels(axes: "Axes", marks: Sequence[_Mark]) -> None:
    """Write widths beside marks, and sizes where written; of many widths the chosen alone."""
    from matplotlib.patheffects import withStroke

    halo = withStroke(linewidth=2.0, foreground=PAPER)
    few = len({mark.row.width for mark in marks}) <= FEW
    ordered = sorted(marks, key=lambda mark: (not mark.is_chosen, mark.form.written is None))
    labels = [_label(mark, few=few) for mark in ordered]
    largest = max(mark.form.size for mark in marks)
    points = 72.0 / axes.figure.dpi
    boxes = []
    for mark in ordered:
        x, y = axes.transData.transform((mark.milliseconds, mark.height)) * points
        length = math.sqrt(_area(mark.form.size, largest))
        boxes.append(Box(float(x), float(y), length, length))
    extent = axes.get_window_extent()
    frame = Box(
        (extent.x0 + extent.x1) / 2 * points,
        (extent.y0 + extent.y1) / 2 * points,
        extent.width * points,
        extent.height * points,
    )
    sizes = [text_box(label, LABEL_SIZE) for label in labels]
    for mark, label, box, (x, y) in zip(
        ordered, labels, boxes, place_labels(boxes, sizes, frame), strict=True
    ):
        axes.annotate(
            label,
            (mark.milliseconds, mark.height),
            xytext=(x - box.x, y - box.y),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=LABEL_SIZE,
            fontweight="bold" if mark.is_chosen else "normal",
            color=INK if mark.form.written else "#5a626b",
            path_effects=[halo],
            zorder=5,
        )


def _label(mark: _Mark, *, few: bool) -> str:
    if not few and not mark.is_chosen:
        return ""
    label = f"{mark.row.width:g}"
    if few and mark.form.written is not None:
        label += f", {format_bytes(mark.form.size)}"
    return f"{label}\nrecommended" if mark.row.recommended and mark.is_chosen else label


def _legend(axes: "Axes", marks: Sequence[_Mark]) -> None:
    """Explain the signs in use, below the plot."""
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    present = {mark.form.form for mark in marks}
    signs = [(shape, c, c, label) for form, (shape, c, label) in FORMS.items() if form in present]
    if any(mark.form.on_front for mark in marks):
        signs.append(("o", FAINT, INK, "dark edge: Pareto front of score, time and size"))
    if any(mark.form.written is None for mark in marks):
        signs.append(("o", "none", FAINT, "hollow: not written"))
    for shape, face, edge, label in signs:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker=shape,
                markersize=7,
                markerfacecolor=face,
                markeredgecolor=edge,
                markeredgewidth=1.4,
            )
        )
        labels.append(label)
    handles.append(Line2D([], [], linestyle="none"))
    labels.append("bold: chosen; area: size of the file")
    axes.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(-0.01, -0.115),
        ncols=4,
        frameon=False,
        fontsize=7.5,
        columnspacing=1.4,
        handletextpad=0.5,
    )


def _plain(text: str) -> str:
    """Return the text without what the font may lack."""
    return "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)
