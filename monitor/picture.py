"""The picture of a run: measured score over width, with each device where it was placed.

Drawn with matplotlib's object-oriented interface, which needs no screen and keeps no global figure.
The same report gives the same bytes. Colours are those of Okabe and Ito, told apart by people who
do not see all colours, and no meaning hangs on colour alone: shapes and fillings repeat it.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from journal.disk import write_atomically
from journal.events import CurvePoint
from monitor.run_report import DeviceRow, RunReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from monitor.kpi_report import ScorePoint

# What the page replaces by its own colours, so that the drawing follows light and dark.
INK = "#22262b"
FAINT = "#8a929b"
PAPER = "#fefefe"
CURVE = "#0072b2"
DEVICE = "#d55e00"

SIZE_INCHES = (9.0, 4.8)
BUBBLES = 4  # of one width, above each other; the others are counted
LISTED = 26  # lines beside the plot; the table has everybody
NAME_LENGTH = 26
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "slimfleet",  # ids that do not change from run to run
    "svg.fonttype": "path",  # the reader's machine needs no font of ours
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9.0,
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def write_picture(report: RunReport, path: Path) -> None:
    """Draw the report's curve and devices into a file.

    Args:
        report: of a run; without a curve the picture says so.
        path: ends with ``.svg`` or ``.png``.

    Raises:
        ValueError: another ending.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in {"svg", "png"}:
        raise ValueError(f"{path}: a picture is written as .svg or .png; change the ending")
    write_atomically(path, _draw(report, kind, background=PAPER), mode=0o644)


def svg_picture(report: RunReport) -> str:
    """Return the picture as an ``<svg>`` element without title and background, for a page."""
    text = _draw(report, "svg", background="none").decode()
    return text[text.index("<svg") :]


def numbered(devices: Sequence[DeviceRow]) -> tuple[tuple[int, DeviceRow], ...]:
    """Return the devices with the numbers that stand for them in the picture."""
    return tuple(enumerate(devices, start=1))


def _draw(report: RunReport, kind: str, *, background: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=SIZE_INCHES)
        figure.patch.set_facecolor(background)
        axes = figure.add_axes((0.075, 0.125, 0.60, 0.785), facecolor="none")
        if report.curve:
            _draw_curve(axes, report)
            _style(axes, report)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "No round was aggregated: there is no curve.", ha="center")
        if background != "none":
            title = f"{_plain(report.score_name.capitalize())} over width"
            axes.set_title(title, loc="left", fontsize=11)
        devices = numbered(report.devices)
        _place_devices(axes, report.curve, devices)
        _list_devices(figure, report, devices)
        target = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(target, format=kind, dpi=150, metadata=metadata)
    return target.getvalue()


def draw_interval(
    axes: "Axes", at: Sequence[float], points: "Sequence[ScorePoint | CurvePoint]"
) -> None:
    """Draw the band between the low and the high end of each point's interval."""
    axes.fill_between(
        at,
        [point.low for point in points],
        [point.high for point in points],
        color=CURVE,
        alpha=0.18,
        linewidth=0,
        label="95 % interval",
    )


def _draw_curve(axes: "Axes", report: RunReport) -> None:
    points = sorted(report.curve, key=lambda point: point.width)
    widths = [point.width for point in points]
    draw_interval(axes, widths, points)
    line = [point for point in points if point.offered]
    axes.plot(
        [point.width for point in line],
        [point.fitted for point in line],
        color=CURVE,
        linewidth=1.2,
        zorder=2,
        label="fit that rewards count with",
    )
    for shape, size, on_grid, what in (
        ("s", 7.5, True, "trained and rewarded width"),
        ("o", 6.0, False, "reward width between them"),
    ):
        chosen = [point for point in points if (point.width in report.grid) == on_grid]
        for offered, note in ((True, what), (False, "worse than a narrower width: not offered")):
            some = [point for point in chosen if point.offered == offered]
            if some:
                axes.plot(
                    [point.width for point in some],
                    [point.score for point in some],
                    shape,
                    markersize=size,
                    color=CURVE,
                    markerfacecolor=CURVE if offered else PAPER,
                    markeredgewidth=1.4,
                    zorder=3,
                    label=note,
                )
    axes.axhline(
        report.untrained, color=FAINT, linestyle=(0, (4, 3)), linewidth=1, label="untrained network"
    )


def _style(axes: "Axes", report: RunReport) -> None:
    axes.set_xlabel("width of the network (share of its channels)")
    axes.set_ylabel(f"{_plain(report.score_name)} on the validation data")
    axes.set_xlim(0, 1.06)
    values = [v for point in report.curve for v in (point.low, point.high)] + [report.untrained]
    low, high = min(values), max(values)
    room = max(high - low, 0.05)
    # Above the curve stand the devices' numbers, below it the legend.
    axes.set_ylim(low - 0.28 * room, high + 0.30 * room)
    axes.grid(visible=True, axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))  # two shapes share a sentence
    axes.legend(
        once.values(),
        once.keys(),
        loc="lower right",
        frameon=False,
        fontsize=7.5,
        ncols=2,
        borderaxespad=0.2,
    )


def _place_devices(
    axes: "Axes", curve: Sequence[CurvePoint], devices: Sequence[tuple[int, DeviceRow]]
) -> None:
    """Stack the numbers of the devices above the point of their reward width."""
    points = {point.width: point for point in curve}
    for width, numbers in _by_width(devices).items():
        if width not in points:
            continue
        shown = numbers if len(numbers) <= BUBBLES else numbers[: BUBBLES - 1]
        labels = [str(number) for number in shown]
        if len(numbers) > len(shown):
            labels.append(f"+{len(numbers) - len(shown)}")
        for place, label in enumerate(labels):
            axes.annotate(
                label,
                (width, points[width].score),
                xytext=(0, 13 + 15 * place),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=7.5,
                fontweight="bold",
                color=PAPER,
                bbox={"boxstyle": _bubble(label), "facecolor": DEVICE, "edgecolor": PAPER},
                zorder=5,
            )


def _by_width(devices: Sequence[tuple[int, DeviceRow]]) -> Mapping[float, list[int]]:
    found: dict[float, list[int]] = {}
    for number, row in devices:
        if row.reward_width > 0:
            found.setdefault(row.reward_width, []).append(number)
    return found


def _list_devices(
    figure: "Figure", report: RunReport, devices: Sequence[tuple[int, DeviceRow]]
) -> None:
    """Write who is who beside the plot."""
    pitch = min(0.085, 0.8 / max(1, min(len(devices), LISTED)))
    compact = pitch < 0.06
    head = "Devices, and what each earned" if devices else "No device appeared."
    figure.text(0.715, 0.933, head, fontsize=9)
    for place, (number, row) in enumerate(devices[:LISTED]):
        height = 0.875 - place * pitch
        released = row.reward_width > 0
        figure.text(
            0.722,
            height,
            str(number),
            ha="center",
            va="center",
            fontsize=5.5 if compact else 7.5,
            fontweight="bold",
            color=PAPER if released else INK,
            bbox={
                "boxstyle": _bubble(str(number)),
                "facecolor": DEVICE if released else "none",
                "edgecolor": PAPER if released else FAINT,
            },
        )
        figure.text(
            0.745,
            height,
            _line(row, report.curve, compact=compact),
            va="center",
            fontsize=6.5 if compact else 8,
            linespacing=1.25,
        )
    if len(devices) > LISTED:
        figure.text(0.715, 0.04, f"and {len(devices) - LISTED} more: see the table", fontsize=7)


def _line(row: DeviceRow, curve: Sequence[CurvePoint], *, compact: bool) -> str:
    """Return a device with what it earned, on one line or on two."""
    earned = f"width {row.reward_width:g}" if row.reward_width > 0 else "no release"
    if compact:
        return f"{_short(row.device)}: {earned}"
    scores = [point.fitted for point in curve if point.width == row.reward_width]
    return "\n".join([_short(row.device), ", ".join([earned, *(f"{s:.3f}" for s in scores[:1])])])


def _bubble(label: str) -> str:
    """Return the shape round a number: a circle, or what a longer text needs."""
    return "circle,pad=0.28" if len(label) <= 2 else "round,pad=0.28,rounding_size=0.7"


def _short(name: str) -> str:
    plain = _plain(name)
    return plain if len(plain) <= NAME_LENGTH else plain[: NAME_LENGTH - 1] + "…"


def _plain(text: str) -> str:
    """Return the text without what the font may lack."""
    return "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)
