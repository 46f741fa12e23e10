"""The picture of a training: score over width, and loss over steps.

Drawn as the picture of a run is (`monitor.picture`): no screen, the same figures give the same
bytes, and no meaning hangs on colour alone.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from journal.disk import write_atomically
from monitor.picture import FAINT, PAPER, SETTINGS
from slimmable.width_scores import Measurement, WidthScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's, from dark to light; the shapes tell the lines apart without them.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SHAPES = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":")
WIDE_INCHES, NARROW_INCHES = (9.0, 3.9), (5.4, 3.9)


def write_width_picture(
    path: Path,
    curves: Mapping[str, Sequence[WidthScore]],
    score_name: str,
    measurements: Sequence[Measurement] = (),
) -> None:
    """Draw score over width, one line per curve, and beside it the losses of a training.

    Args:
        path: ends with ``.svg`` or ``.png``.
        curves: name -> scores; with one curve the name is left out.
        score_name: of the axis, such as "accuracy".
        measurements: of the training; without them there is no second plot.

    Raises:
        ValueError: another ending, or nothing to draw.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in {"svg", "png"} or not curves:
        raise ValueError(
            f"{path}: a picture of {len(curves)} curves; write .svg or .png, one curve"
        )
    write_atomically(path, _draw(kind, curves, score_name, measurements), mode=0o644)


def _draw(
    kind: str,
    curves: Mapping[str, Sequence[WidthScore]],
    score_name: str,
    measurements: Sequence[Measurement],
) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        plots = 2 if measurements else 1
        figure = Figure(
            figsize=WIDE_INCHES if measurements else NARROW_INCHES, layout="constrained"
        )
        figure.patch.set_facecolor(PAPER)
        axes = figure.subplots(1, plots, squeeze=False)[0]
        _draw_scores(axes[0], curves, score_name)
        if measurements:
            _draw_losses(axes[1], measurements)
        target = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(target, format=kind, dpi=150, metadata=metadata)
    return target.getvalue()


def _draw_scores(axes: "Axes", curves: Mapping[str, Sequence[WidthScore]], score_name: str) -> None:
    for place, (name, scores) in enumerate(curves.items()):
        rows = sorted(scores, key=lambda row: row.width)
        axes.plot(
            [row.width for row in rows],
            [row.score for row in rows],
            color=COLOURS[place % len(COLOURS)],
            marker=SHAPES[place % len(SHAPES)],
            linewidth=1.2,
            label=name,
        )
        if len(curves) == 1:
            for row in rows:
                axes.annotate(
                    f"{row.score:.3f}",
                    (row.width, row.score),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
                )
    axes.set_title(f"{score_name.capitalize()} over width", loc="left", fontsize=11)
    axes.set_xlabel("width of the network (share of its channels)")
    axes.set_xlim(0, 1.06)
    axes.margins(y=0.15)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8)
    _style(axes)


def _draw_losses(axes: "Axes", measurements: Sequence[Measurement]) -> None:
    steps = [one.step for one in measurements]
    axes.plot(
        steps,
        [one.training_loss for one in measurements],
        color=FAINT,
        linewidth=2.2,
        label="training, widths mixed",
    )
    for place, row in enumerate(measurements[0].scores):
        axes.plot(
            steps,
            [one.scores[place].loss for one in measurements],
            color=COLOURS[place % len(COLOURS)],
            marker=SHAPES[place % len(SHAPES)],
            markersize=3.5,
            linestyle=DASHES[place // len(COLOURS) % len(DASHES)],
            linewidth=1,
            label=f"validation, width {row.width:g}",
        )
    axes.set_title("Loss over steps", loc="left", fontsize=11)
    axes.set_xlabel("gradient steps")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7.5)
    _style(axes)


def _style(axes: "Axes") -> None:
    axes.grid(visible=True, axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
