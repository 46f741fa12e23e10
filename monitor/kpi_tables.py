"""A report as tables for a spreadsheet: one CSV file each."""

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from pathlib import Path

from journal.disk import write_atomically
from monitor.csv_text import csv_text
from monitor.kpi_report import DeviceKpi, KpiReport
from monitor.round_data import round_row
from monitor.round_view import STEPS, RoundView
from monitor.server_time import iso_moment

Row = Mapping[str, object]
Table = tuple[Sequence[str], list[Row]]
REASON = "missed: "


def write_tables(report: KpiReport, folder: Path, zone: tzinfo | None = None) -> list[Path]:
    """Write each table into a folder, which is made, and return the files.

    Args:
        report: what happened.
        folder: files of the same names in it are replaced.
        zone: of the times; None = this machine's.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (columns, rows) in tables(report, zone).items():
        files.append(folder / f"{name}.csv")
        write_atomically(files[-1], csv_text(columns, rows).encode(), mode=0o644)
    return files


def tables(report: KpiReport, zone: tzinfo | None = None) -> dict[str, Table]:
    """Return name -> columns and rows. Seconds, bytes and shares of 1; times in ISO 8601."""
    return {
        "summary": _summary(report, zone),
        "devices": _devices(report),
        "rounds": _rounds(report, zone),
        "tasks": _tasks(report),
        "scores": _scores(report, zone),
        "rewards": _listed(
            report.rewards,
            ["device", "site", "contribution", "low", "high", "share", "before", "width", "reason"],
        ),
        "incidents": _listed(report.incidents, ["at", "kind", "device", "text"], zone),
        "actions": _listed(
            report.actions, ["at", "operator", "action", "device", "reason", "done", "detail"], zone
        ),
        "notes": _listed(report.notes, ["at", "device", "text"], zone),
    }


def _summary(report: KpiReport, zone: tzinfo | None) -> Table:
    values: dict[str, object] = {
        "fleet": report.fleet,
        "since": iso_moment(report.period.since, zone),
        "until": iso_moment(report.period.until, zone),
        "made_at": iso_moment(report.made_at, zone),
        "last_event_at": iso_moment(report.last_event_at, zone),
        "damage": report.damage,
        "devices": len(report.devices),
        "rounds": len(report.rounds),
        "rounds_counted": report.counted,
        "device_rounds_eligible": report.eligible,
        "device_rounds_taken": report.taken,
        "participation": report.participation,
        "score": report.scores[-1].score if report.scores else None,
        "score_before": report.score_before.score if report.score_before else None,
        "sent_bytes": report.sent,
        "received_bytes": report.received,
        "training_s": report.train_s,
        "download_s": report.download_s,
        "round_p50_s": report.duration(0.5),
        "round_p95_s": report.duration(0.95),
    }
    return ("name", "value"), [{"name": name, "value": value} for name, value in values.items()]


def _devices(report: KpiReport) -> Table:
    reasons = [f"{REASON}{why}" for why in report.drops]
    fixed = [
        "device",
        "site",
        "link",
        "eligible",
        "taken",
        "participation",
        "straggler",
        "train_s",
        "download_s",
        "sent",
        "received",
        "samples",
        "width",
        "entitled",
        "deployed",
        "running",
        "release",
        "confirmed",
        "contribution",
        "alarms",
    ]
    return [*fixed, *reasons], [_device(one, fixed) for one in report.devices]


def _device(one: DeviceKpi, fixed: Sequence[str]) -> Row:
    row: dict[str, object] = {name: getattr(one, name) for name in fixed}
    row["alarms"] = "; ".join(one.alarms)
    return row | {f"{REASON}{why}": count for why, count in one.missed.items()}


def _rounds(report: KpiReport, zone: tzinfo | None) -> Table:
    plain = [
        "round",
        "assessment",
        "counted",
        "closing",
        "p50_s",
        "p95_s",
        "sent_bytes",
        "received_bytes",
        "score",
    ]
    columns = [*plain[:2], "opened_at", "closed_at", *STEPS, *plain[2:], "drops"]
    return columns, [_round(one, zone) for one in report.rounds]


def _round(one: RoundView, zone: tzinfo | None) -> Row:
    row = round_row(one)
    return {
        **row,
        **row["funnel"],
        "opened_at": iso_moment(one.opened_at, zone),
        "closed_at": iso_moment(one.closed_at, zone),
        "drops": "; ".join(f"{why}: {count}" for why, count in one.drops.items()),
    }


def _tasks(report: KpiReport) -> Table:
    names = [
        "device",
        "width",
        "step",
        "dropped",
        "detail",
        "late",
        "predicted_s",
        "round_s",
        "train_s",
        "download_s",
        "steps",
        "loss",
        "samples",
        "sent",
        "received",
    ]
    rows: list[Row] = [
        {"round": one.number} | {name: getattr(one.tasks[device], name) for name in names}
        for one in report.rounds
        for device in sorted(one.tasks)
    ]
    return ["round", *names], rows


def _scores(report: KpiReport, zone: tzinfo | None) -> Table:
    rows: list[Row] = [
        {
            "round": one.number,
            "at": iso_moment(one.scored_at, zone),
            "width": point.width,
            "score": point.score,
            "low": point.low,
            "high": point.high,
            "offered": point.offered,
        }
        for one in report.rounds
        for point in one.curve
    ]
    return ["round", "at", "width", "score", "low", "high", "offered"], rows


def _listed(found: Sequence[object], names: list[str], zone: tzinfo | None = None) -> Table:
    rows: list[Row] = [
        {
            name: iso_moment(getattr(one, name), zone) if name == "at" else getattr(one, name)
            for name in names
        }
        for one in found
    ]
    return names, rows
