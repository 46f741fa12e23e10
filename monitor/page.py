"""The report as one page that opens from disk: no script, no font, no request to anywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from journal.disk import write_atomically
from monitor.picture import CURVE, DEVICE, FAINT, INK, PAPER, numbered, svg_picture
from monitor.run_report import DeviceRow, RunReport
from monitor.terminal_text import plain

if TYPE_CHECKING:
    import jinja2

NOTHING = "\N{EN DASH}"
# Colours of the drawing -> colours of the page, which follow light and dark.
PAGE_COLOURS = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
    CURVE: "var(--blue)",
    DEVICE: "var(--orange)",
}


def write_page(report: RunReport, path: Path) -> None:
    """Write the report as one HTML file that needs no other file and no network."""
    write_atomically(path, page_text(report).encode(), mode=0o644)


def page_text(report: RunReport) -> str:
    """Return the page. Every value is escaped: a device's name may hold anything."""
    from markupsafe import Markup

    environment = page_environment()
    environment.filters.update(
        score=show_score,
        width=show_width,
        size=show_bytes,
        seconds=show_seconds,
        latencies=show_latencies,
        times=show_times,
        contribution=show_contribution,
    )
    values: dict[str, Any] = {
        "report": report,
        "devices": numbered(report.devices),
        # Ours, drawn from numbers; names in it are outlines, and escaped in its comments.
        "picture": Markup(in_page_colours(svg_picture(report))),  # noqa: S704
        "best": max(
            (row.unseen_score for row in report.devices if row.unseen_score is not None),
            default=None,
        ),
        "alone": max(
            (row.alone_score for row in report.devices if row.alone_score is not None),
            default=None,
        ),
        "released": sum(row.reward_width > 0 for row in report.devices),
        "counted": sum(row.aggregated > 0 for row in report.rounds),
        "shared": sum(row.shared_bytes for row in report.rounds),
        "uploaded": sum(row.uploaded_bytes for row in report.rounds),
    }
    return environment.get_template("report.html.j2").render(values)


def in_page_colours(picture: str) -> str:
    """Return a drawing whose colours are those of the page."""
    for drawn, shown in PAGE_COLOURS.items():
        picture = picture.replace(drawn, shown)
    return picture


def page_environment() -> "jinja2.Environment":
    """Return the templates of this room; what they show is escaped, and steers no reader's eye."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("monitor"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # Marks that turn the direction of writing would let a name rewrite the line around it.
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def show_score(value: float | None) -> str:
    """Return a score with three digits."""
    return NOTHING if value is None else f"{value:.3f}"


def show_width(value: float, nothing: str = NOTHING) -> str:
    """Return a width multiplier; ``nothing`` for 0."""
    return f"{value:g}" if value else nothing


def show_contribution(value: float | None) -> str:
    """Return a contribution with its sign."""
    return NOTHING if value is None else f"{value:+.3f}"


def show_seconds(value: float | None) -> str:
    """Return a duration."""
    if not value:
        return NOTHING
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def show_times(row: DeviceRow) -> str:
    """Return predicted and observed round time."""
    predicted, observed = (
        f"{value:.1f}" if value else NOTHING for value in (row.predicted_s, row.observed_s)
    )
    return f"{predicted} / {observed}{' s' if row.predicted_s or row.observed_s else ''}"


def show_latencies(row: DeviceRow) -> str:
    """Return p50 and p95 in milliseconds."""
    if not row.latency_p50_s:
        return NOTHING
    return f"{1e3 * row.latency_p50_s:.2f} / {1e3 * row.latency_p95_s:.2f} ms"


def show_bytes(value: int) -> str:
    """Return a size in the unit that reads best."""
    if not value:
        return NOTHING
    if value < 1000:
        return f"{value} B"
    if value < 1_000_000:
        return f"{value / 1e3:.0f} kB"
    return f"{value / 1e6:.1f} MB" if value < 1_000_000_000 else f"{value / 1e9:.1f} GB"
