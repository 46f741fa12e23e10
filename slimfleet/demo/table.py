"""The table that the demonstration ends with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from monitor.run_report import DeviceRow, RunReport

WIDE = 146  # characters that the whole table needs; below, it comes in two parts


def _or_dash(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _latency(row: DeviceRow) -> str:
    if not row.confirmed:
        return "-"
    return f"{row.latency_p50_s * 1e3:.2f}/{row.latency_p95_s * 1e3:.2f}"


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[DeviceRow], str]
    justify: Literal["left", "right"] = "right"


DEVICE = _Column("device", lambda row: row.device, "left")
GAVE = (
    _Column("emulated", lambda row: row.machine.removesuffix(" (emulated)"), "left"),
    _Column("round s\npred/obs", lambda row: f"{row.predicted_s:.1f}/{_or_dash(row.observed_s)}"),
    _Column("trains\nwidth", lambda row: f"{row.training_width:g}" if row.training_width else "-"),
    _Column("rounds\ntaken/missed", lambda row: f"{row.rounds_taken}/{row.rounds_missed}"),
    _Column("contri-\nbution", lambda row: _or_dash(row.contribution, 3)),
)
GOT = (
    _Column("reward\nwidth", lambda row: f"{row.reward_width:g}" if row.reward_width else "none"),
    _Column("unseen\nperson", lambda row: _or_dash(row.unseen_score, 3)),
    _Column("alone", lambda row: _or_dash(row.alone_score, 3)),
    _Column("ONNX\nkB", lambda row: f"{row.onnx_bytes / 1000:.0f}" if row.onnx_bytes else "-"),
    _Column("latency ms\np50/p95", _latency),
    _Column("confirmed", lambda row: row.confirmed[:12] or "-", "left"),
)


def print_report(report: RunReport, console: Console) -> None:
    """Print one row per device, then one sentence per device why."""
    for notice in report.notices:
        console.print(notice, highlight=False, markup=False)
    if console.width >= WIDE:
        console.print(_table("What each device gave, earned and runs", (*GAVE, *GOT), report))
    else:
        console.print(_table("What each device gave", GAVE, report))
        console.print(_table("What each device earned and runs", GOT, report))
    for row in report.devices:
        line = f"{row.device}: trains {row.training_reason}; earns {row.reward_reason}"
        if row.rounds_missed:
            line += f"; missed {row.rounds_missed} rounds, last {row.missed_why}"
        console.print(line, highlight=False, markup=False)
    console.print(
        f"Contributions: {report.method}. Rewards: {report.rule}. {report.rule_note}".strip(),
        highlight=False,
        markup=False,
    )


def _table(title: str, columns: tuple[_Column, ...], report: RunReport) -> Table:
    table = Table(title=title, title_justify="left")
    chosen = (DEVICE, *columns)
    for column in chosen:
        table.add_column(column.title, justify=column.justify)
    for row in report.devices:
        table.add_row(*(column.cell(row) for column in chosen))
    return table
