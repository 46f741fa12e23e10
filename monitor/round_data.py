"""Rounds as plain data: what the page, the terminal and ``--json`` show of each. Pure.

Times and text are as in `monitor.fleet_data`.
"""

from collections import Counter

from monitor.device_data import Data
from monitor.fleet_view import FleetView
from monitor.round_view import RoundView, TaskView


def round_row(found: RoundView) -> Data:
    """Return one line of the table of rounds."""
    durations = found.durations
    return {
        "round": found.number,
        "assessment": found.assessment,
        "opened_at": found.opened_at,
        "closed_at": found.closed_at,
        "scored_at": found.scored_at,
        "budget_s": found.budget_s,
        "quorum": found.quorum,
        "funnel": found.funnel,
        "drops": found.drops,
        "counted": found.counted,
        "closing": found.closing,
        "late": [{"device": one.device, "round": one.round} for one in found.late],
        "p50_s": quantile(durations, 0.5),
        "p95_s": quantile(durations, 0.95),
        "sent_bytes": found.sent,
        "received_bytes": found.received,
        "score": found.score,
        "better": found.better,
        "curve": [
            {"width": one.width, "score": one.score, "low": one.low, "high": one.high}
            for one in found.curve
        ],
        "widths": dict(sorted(Counter(f"{t.width:g}" for t in found.tasks.values()).items())),
    }


def round_detail(found: RoundView) -> Data:
    """Return one round, device by device."""
    return {
        **round_row(found),
        "tasks": [_task(found.tasks[name], found) for name in sorted(found.tasks)],
        "not_invited": dict(sorted(found.not_invited.items())),
    }


def _task(task: TaskView, found: RoundView) -> Data:
    return {
        "device": task.device,
        "width": task.width,
        "step": task.step,
        "dropped": task.dropped,
        "detail": task.detail,
        "late": task.late,
        "predicted_s": task.predicted_s,
        "round_s": task.round_s,
        "train_s": task.train_s,
        "download_s": task.download_s,
        "steps": task.steps,
        "loss": task.loss,
        "samples": task.samples,
        "sent_bytes": task.sent,
        "received_bytes": task.received,
        "contribution": found.contributions.get(task.device),
    }


def round_rows(view: FleetView) -> list[Data]:
    """Return the rounds that are kept, the newest first."""
    return [round_row(view.rounds[number]) for number in sorted(view.rounds, reverse=True)]


def quantile(values: list[float], share: float) -> float | None:
    """Return a quantile of ascending values, None where there are none."""
    if not values:
        return None
    return values[min(len(values) - 1, int(share * len(values)))]
