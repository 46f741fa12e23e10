"""The results of an experiment as pictures and as one page: no script, no font, no request.

Drawn as the picture of a run is (`monitor.picture`): no screen, the same results give the same
bytes, and no meaning hangs on colour alone.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from journal.disk import write_atomically
from monitor.page import PAGE_COLOURS, show_contribution, show_score, show_width
from monitor.picture import DEVICE, FAINT, PAPER, SETTINGS
from monitor.width_picture import COLOURS, DASHES, SHAPES
from slimfleet.simulation.tables import Group, Results, groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES = (9.0, 3.9)


def write_page(results: Results, title: str, path: Path) -> None:
    """Write the page and, beside it, its picture as ``.png``."""
    found = groups(results)
    write_atomically(path, page_text(results, title).encode(), mode=0o644)
    write_atomically(path.with_suffix(".png"), draw(found, "png", background=PAPER), mode=0o644)


def page_text(results: Results, title: str) -> str:
    """Return the page. Every value is escaped: a file's name may hold anything."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("slimfleet.simulation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=show_score, width=show_width, contribution=show_contribution, spread=show_spread
    )
    found = groups(results)
    picture = draw(found, "svg", background="none").decode()
    picture = picture[picture.index("<svg") :]
    for drawn, shown in PAGE_COLOURS.items():
        picture = picture.replace(drawn, shown)
    first = next(iter(results.values()))
    values: dict[str, Any] = {
        "title": title,
        "groups": found,
        "results": results,
        "score_name": first.score_name,
        "picture": Markup(picture),  # noqa: S704 - ours, drawn from numbers
        "riders": any(device.rider for device in first.devices),
        "alone": any(device.alone is not None for device in first.devices),
    }
    return environment.get_template("report.html.j2").render(values)


def show_spread(values: Sequence[float]) -> str:
    """Return the mean of some scores, and their standard deviation where there are several."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return f"{mean:.3f} \N{PLUS-MINUS SIGN} {spread:.3f}"


def draw(found: Sequence[Group], kind: str, *, background: str) -> bytes:
    """Return the picture: test score over width, and earned score over contribution.

    Args:
        found: one line and one shape for each.
        kind: "svg" or "png".
        background: a colour, or "none".
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        figure.patch.set_facecolor(background)
        left, right = figure.subplots(1, 2)
        for place, group in enumerate(found):
            style = {
                "color": COLOURS[place % len(COLOURS)],
                "marker": SHAPES[place % len(SHAPES)],
            }
            _draw_curve(left, group, DASHES[place // len(COLOURS) % len(DASHES)], style)
            _draw_rewards(right, group, style)
        name = found[0].results[0].score_name.capitalize()
        left.set_title(f"{name} over width, on the test data", loc="left", fontsize=11)
        left.set_xlabel("width of the network (share of its channels)")
        left.set_xlim(0, 1.06)
        left.legend(frameon=False, fontsize=7.5)
        right.set_title(f"{name} earned, over contribution", loc="left", fontsize=11)
        right.set_xlabel("contribution (1 = that of the average device)")
        for axes in (left, right):
            axes.set_facecolor("none")
            axes.grid(visible=True, axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        target = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(target, format=kind, dpi=150, metadata=metadata)
    return target.getvalue()


def _draw_curve(axes: "Axes", group: Group, dashes: str, style: dict[str, Any]) -> None:
    widths, means, spreads = zip(*group.curve(), strict=True)
    label = f"{group.partition}, {group.devices} devices"
    axes.plot(widths, means, linewidth=1.2, linestyle=dashes, label=label, markersize=5, **style)
    if len(group.results) > 1:
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(widths, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _draw_rewards(axes: "Axes", group: Group, style: dict[str, Any]) -> None:
    devices = [device for result in group.results for device in result.devices]
    for rides in (False, True):
        chosen = [d for d in devices if bool(d.rider) is rides]
        axes.scatter(
            [device.share for device in chosen],
            [device.test_score or 0.0 for device in chosen],
            s=26,
            marker=style["marker"],
            facecolors="none" if rides else style["color"],
            edgecolors=DEVICE if rides else style["color"],
            linewidths=1.2,
        )
