"""A report of a small run, to draw and to show."""

from journal.events import CurvePoint
from monitor.run_report import DeviceRow, RoundRow, RunReport

HOSTILE = "<script>alert(1)</script>--><img src=https://evil.example/x>$\\frac{"


def device_row(device="pump-1", **changed):
    values = {
        "device": device,
        "machine": "raspberry-pi-4 (emulated)",
        "predicted_s": 1.25,
        "observed_s": 1.5,
        "training_width": 0.5,
        "training_reason": "width 0.5: predicted 1.2 s of 3 s",
        "rounds_taken": 11,
        "rounds_missed": 1,
        "missed_why": "late: 0.4 s after the deadline",
        "contribution": 0.125,
        "share": 1.4,
        "reward_width": 0.25,
        "reward_reason": "1.40 times the average contribution",
        "unseen_score": 0.712,
        "own_score": 0.934,
        "alone_score": 0.561,
        "onnx_bytes": 45_100,
        "latency_p50_s": 0.00021,
        "latency_p95_s": 0.00034,
        "confirmed": "ab" * 32,
    }
    return DeviceRow(**(values | changed))


def free_rider(device="rider"):
    return device_row(
        device,
        contribution=0.0,
        share=0.0,
        rounds_missed=0,
        missed_why="",
        reward_width=0.0,
        reward_reason="no release: below the cut-off",
        unseen_score=None,
        own_score=None,
        onnx_bytes=0,
        latency_p50_s=0.0,
        latency_p95_s=0.0,
        confirmed="",
    )


def curve():
    scores = {0.125: 0.5, 0.25: 0.6, 0.375: 0.4, 0.5: 0.7, 0.75: 0.72, 1.0: 0.75}
    return tuple(
        CurvePoint(
            width=width,
            score=score,
            low=score - 0.05,
            high=score + 0.05,
            offered=width != 0.375,
            fitted=score + 0.001,
        )
        for width, score in scores.items()
    )


def run_report(**changed):
    values = {
        "title": "A run",
        "fleet": "pumps",
        "notices": ("All machines are EMULATED.",),
        "score_name": "accuracy",
        "devices": (device_row(), device_row("pump-2", reward_width=1.0), free_rider()),
        "rounds": (
            RoundRow(1, 3, 3, 2.5, 0.55, (), 410_000, 1_900_000),
            RoundRow(2, 3, 2, 3.0, 0.75, ("pump-1: late",), 410_000, 1_300_000),
            RoundRow(3, 3, 0, 3.0, None, ("pump-1: offline", "pump-2: offline")),
        ),
        "curve": curve(),
        "untrained": 0.142,
        "stopped": "budget of 3 rounds used up",
        "rule": "equal-gain",
        "rule_note": "",
        "method": "permutation-shapley",
        "seconds": 93.4,
        "grid": (0.125, 0.25, 0.5, 1.0),
    }
    return RunReport(**(values | changed))


def empty_report():
    return run_report(devices=(), rounds=(), curve=(), stopped="", rule="", method="")
