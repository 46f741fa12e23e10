"""The fleet, its rounds and its rewards as text for a terminal, made from `monitor.*_data`."""

from collections.abc import Sequence
from typing import Any

from monitor.round_view import STEPS
from monitor.terminal_text import plain, wrapped
from monitor.text_table import ago, figure, net_width, seconds, share, size, table

Data = dict[str, Any]
COLUMNS = 80
INDENT = "    "
STEP_HEADS = ("elig", "inv", "acc", "start", "upl", "aggr")


def headline(overview: Data, columns: int = COLUMNS) -> list[str]:
    """Return the fleet in a few lines, with what needs attention."""
    links = overview["links"]
    there = links["online"] + links["late"]
    parts = [
        f"fleet {plain(overview['fleet']) or 'of no name yet'}: {overview['phase']}",
        f"round {overview['rounds_opened']} of at most {overview['budget']}",
        f"{there} of {overview['devices']} devices there",
    ]
    if overview["score"] is not None:
        parts.append(f"score {overview['score']:.3f} at the widest width")
    lines = wrapped("; ".join(parts), columns)
    rare = [f"{count} {link}" for link, count in links.items() if count and link != "online"]
    if rare:
        lines += wrapped(f"not online: {', '.join(rare)}", columns)
    notices = [
        overview["damage"] and f"THE JOURNAL IS DAMAGED: {overview['damage']}",
        "no server writes this journal: what follows is its last word"
        if overview["server_online"] is False
        else "",
        overview["paused"] and f"rounds are {overview['paused']}",
        overview["held"] and f"no round opens: {overview['held']}",
        overview["stopped"] and f"training is over: {overview['stopped']}",
        overview["withheld"] and f"release withheld: {overview['withheld']}",
    ]
    for notice in filter(None, notices):
        lines += wrapped(f"! {plain(notice)}", columns)
    return lines


def round_lines(rows: Sequence[Data], now: float, columns: int = COLUMNS) -> list[str]:
    """Return the table of rounds, the newest first; below each who missed it."""
    if not rows:
        return ["no round was opened yet"]
    head = ("round", "closed", *STEP_HEADS, "p50", "p95", "sent", "fetched", "score")
    cells = [
        (
            f"{row['round']}{'*' if row['assessment'] else ''}",
            ago(now, row["closed_at"]) if row["closed_at"] is not None else "open",
            *(str(row["funnel"][step]) for step in STEPS),
            _short(seconds(row["p50_s"])),
            _short(seconds(row["p95_s"])),
            _short(size(row["sent_bytes"])),
            _short(size(row["received_bytes"])),
            figure(row["score"], ".3f"),
        )
        for row in rows
    ]
    first, *lines = table(head, cells, columns, left=())
    shown = [first]
    for row, line in zip(rows, lines, strict=True):
        shown.append(line)
        for sentence in _about_round(row):
            shown += wrapped(plain(sentence), columns, INDENT)
    if any(row["assessment"] for row in rows):
        shown += ["", "* assessment: devices train alone and are measured, no model changes"]
    return shown


def _short(text: str) -> str:
    """Return a figure without the space before its unit: rounds have many columns."""
    return text.replace(" ", "")


def _about_round(row: Data) -> list[str]:
    said = []
    if row["counted"] is False:
        said.append(f"NOT AGGREGATED: {row['closing']}")
    if row["drops"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in row["drops"].items())
        said.append(f"missed: {reasons}")
    if row["late"]:
        names = ", ".join(f"{one['device']} (round {one['round']})" for one in row["late"])
        said.append(f"late updates counted: {names}")
    return said


def reward_lines(rows: Sequence[Data], columns: int = COLUMNS) -> list[str]:
    """Return contributions and rewards, the largest contribution first; below each why."""
    if not rows:
        return ["no rewards yet: they are allocated when training is over"]
    head = ("device", "contribution", "95 % interval", "share", "earned", "sent", "runs")
    cells = [
        (
            row["device"],
            figure(row["contribution"], "+.4f"),
            f"{row['low']:+.4f} {row['high']:+.4f}" if row["low"] < row["high"] else "-",
            figure(row["share"]),
            net_width(row["width"]),
            net_width(row["deployed_width"]),
            net_width(row["running_width"]),
        )
        for row in rows
    ]
    first, *lines = table(head, cells, columns)
    shown = [first]
    for row, line in zip(rows, lines, strict=True):
        shown.append(line)
        sentences = [row["reason"]]
        if row["equals"]:
            sentences.append(f"does not differ significantly from {', '.join(row['equals'])}")
        if row["deployed_width"] and not row["confirmed"]:
            sentences.append("has not confirmed that it runs what it was sent")
        for sentence in filter(None, sentences):
            shown += wrapped(plain(sentence), columns, INDENT)
    return shown


def device_cells(row: Data, now: float) -> tuple[str, ...]:
    """Return one line of the fleet table; see `DEVICE_HEAD`."""
    return (
        row["device"],
        row["site"],
        row["link"],
        ago(now, row["useful_at"]),
        share(row["participation"]),
        figure(row["straggler"]),
        net_width(row["training_width"]),
        net_width(row["entitled_width"]),
        net_width(row["running_width"]),
        figure(row["drift"]),
        ", ".join(row["alarms"]),
    )


DEVICE_HEAD = (
    "device",
    "site",
    "link",
    "worked",
    "part",
    "slow",
    "train",
    "earn",
    "runs",
    "drift",
    "alarms",
)
DEVICE_LEFT = (0, 1, 2, len(DEVICE_HEAD) - 1)
DEVICE_SHRINK = (1, len(DEVICE_HEAD) - 1, 0)
