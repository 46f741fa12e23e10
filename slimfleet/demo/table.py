"""The table that the demonstration ends with."""

from rich.console import Console
from rich.table import Table

from monitor.run_report import DeviceRow, RunReport


def print_report(report: RunReport, console: Console) -> None:
    """Print one row per device, then one sentence per device why."""
    for notice in report.notices:
        console.print(notice, highlight=False, markup=False)
    table = Table(title="What each device gave, earned and runs", title_justify="left")
    for name, justify in (
        ("device", "left"),
        ("emulated", "left"),
        ("round s\npred/obs", "right"),
        ("trains\nwidth", "right"),
        ("rounds\ntaken/missed", "right"),
        ("contri-\nbution", "right"),
        ("reward\nwidth", "right"),
        ("unseen\nperson", "right"),
        ("alone", "right"),
        ("ONNX\nkB", "right"),
        ("latency ms\np50/p95", "right"),
        ("confirmed", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in report.devices:
        table.add_row(*_cells(row))
    console.print(table)
    for row in report.devices:
        line = f"{row.device}: trains {row.training_reason}; earns {row.reward_reason}"
        if row.rounds_missed:
            line += f"; missed {row.rounds_missed} rounds, last {row.missed_why}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"Contributions: {report.method}. Rewards: {report.rule}. {report.rule_note}".strip(),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _cells(row: DeviceRow) -> tuple[str, ...]:
    return (
        row.device,
        row.machine.removesuffix(" (emulated)"),
        f"{row.predicted_s:.1f}/" + (f"{row.observed_s:.1f}" if row.observed_s else "-"),
        f"{row.training_width:g}" if row.training_width else "-",
        f"{row.rounds_taken}/{row.rounds_missed}",
        f"{row.contribution:.3f}" if row.contribution is not None else "-",
        f"{row.reward_width:g}" if row.reward_width else "none",
        f"{row.unseen_score:.3f}" if row.unseen_score is not None else "-",
        f"{row.alone_score:.3f}" if row.alone_score is not None else "-",
        f"{row.onnx_bytes / 1000:.0f}" if row.onnx_bytes else "-",
        f"{row.latency_p50_s * 1e3:.2f}/{row.latency_p95_s * 1e3:.2f}" if row.confirmed else "-",
        row.confirmed[:12] or "-",
    )
