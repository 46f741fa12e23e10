"""A report over time as one page that opens from disk: no script, no request to anywhere."""

from collections.abc import Iterator
from datetime import tzinfo
from pathlib import Path
from typing import Any

from journal.disk import write_atomically
from monitor.kpi_picture import pictures
from monitor.kpi_report import KpiReport, by_need
from monitor.page import (
    in_page_colours,
    page_environment,
    show_bytes,
    show_contribution,
    show_score,
    show_seconds,
    show_width,
)
from monitor.server_time import show_moment, zone_name

LISTED_DEVICES, LISTED_LINES, LISTED_ROUNDS = 60, 40, 60
"""A page for a meeting is no archive: the tables have everybody and everything."""
STEP_NAMES = {
    "eligible": "could have taken part",
    "invited": "invited",
    "accepted": "accepted the task",
    "started": "began to train",
    "uploaded": "sent an update",
    "aggregated": "in the aggregate",
}


def write_kpi_page(report: KpiReport, path: Path, zone: tzinfo | None = None) -> None:
    """Write the report as one HTML file that needs no other file and no network.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, kpi_page(report, zone).encode(), mode=0o644)


def kpi_page(report: KpiReport, zone: tzinfo | None = None) -> str:
    """Return the page. Every value is escaped: text of devices and operators may hold anything.

    Args:
        report: what happened.
        zone: of the times; None = this machine's.
    """
    from markupsafe import Markup

    environment = page_environment()
    environment.filters.update(
        score=show_score,
        width=show_width,
        size=show_bytes,
        seconds=show_seconds,
        span=show_span,
        contribution=show_contribution,
        percent=show_percent,
        at=lambda at: show_moment(at, zone),
    )
    values: dict[str, Any] = {
        "report": report,
        "zone": zone_name(report.period.until, zone),
        # Ours, drawn from numbers.
        "pictures": {
            name: Markup(in_page_colours(text))  # noqa: S704
            for name, text in pictures(report).items()
        },
        "listed": by_need(report.devices)[:LISTED_DEVICES],
        "attention": report.attention[:LISTED_LINES],
        "rounds": report.rounds[-LISTED_ROUNDS:],
        "incidents": report.incidents[-LISTED_LINES:],
        "actions": report.actions[-LISTED_LINES:],
        "notes": report.notes[-LISTED_LINES:],
        "rewards": report.rewards[:LISTED_DEVICES],
        "steps": STEP_NAMES,
        "headlines": list(headlines(report)),
        "widths": _widths(report),
    }
    return environment.get_template("kpi.html.j2").render(values)


def headlines(report: KpiReport) -> Iterator[str]:
    """Yield what a meeting should know first, a sentence each."""
    if report.participation is not None:
        text = (
            f"Devices took part in {report.taken} of {report.eligible} rounds that counted for"
            f" them ({show_percent(report.participation)})"
        )
        if report.drops:
            why, count = next(iter(report.drops.items()))
            text += f"; the most frequent reason of the others: {why} ({count})"
        yield f"{text}."
    if report.scores:
        last, first = report.scores[-1], report.score_before
        text = f"The full width scores {last.score:.3f} ({last.low:.3f} to {last.high:.3f})"
        if first:
            apart = last.low > first.high or last.high < first.low
            change = f"{last.score - first.score:+.3f} since the period began"
            text += f", {change}{'' if apart else '; the intervals overlap'}"
        yield f"{text}."
    elif report.rounds:
        yield "No round was measured."
    if report.attention:
        wanting = _counted(len(report.attention), "device needs", "devices need")
        yield f"{wanting} a look, of {len(report.devices)}."
    if report.actions:
        refused = sum(not one.done for one in report.actions)
        text = _counted(len(report.actions), "action of an operator", "actions of operators")
        yield f"{text}{f', {refused} refused' if refused else ''}."


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def show_percent(value: float | None) -> str:
    """Return a share as a whole percentage; what is not all of it is never shown as 100 %."""
    if value is None:
        return "\N{EN DASH}"
    shown = round(100 * value)
    return f"{min(shown, 99) if value < 1 else shown} %"


def show_span(seconds: float) -> str:
    """Return a long time in the unit that reads best."""
    for size, unit in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return show_seconds(seconds)


def _widths(report: KpiReport) -> list[tuple[Any, Any]]:
    """Return each measured width at the end, with the same at the beginning or None."""
    before = {point.width: point for point in report.curve_before}
    return [
        (point, before.get(point.width))
        for point in sorted(report.curve, key=lambda point: point.width)
    ]
