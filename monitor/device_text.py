"""One device as text for a terminal, made from `monitor.device_data.device_detail`."""

from collections.abc import Callable, Iterator
from typing import Any

from monitor.terminal_text import plain, wrapped
from monitor.text_table import ago, figure, net_width, seconds, share, size, table

Data = dict[str, Any]
COLUMNS = 80
INDENT = "  "
LATEST = 12
DIGEST = 12


def device_lines(
    detail: Data, now: float, when: Callable[[float], str], columns: int = COLUMNS
) -> list[str]:
    """Return everything about a device, a section a question.

    Args:
        detail: of the device.
        now: seconds since the epoch.
        when: how a moment is written for the reader, in their zone.
        columns: width of the terminal.
    """
    labels = ", ".join(f"{key} {value}" for key, value in detail["labels"].items())
    lines = wrapped(f"{plain(detail['device'])}{f' ({plain(labels)})' if labels else ''}", columns)
    for alarm in detail["alarms"]:
        lines.append(f"! {alarm}")
    for title, said in _sections(detail, now):
        lines += ["", title]
        for text in said:
            lines += wrapped(plain(text), columns, INDENT)
    for title, rows in (
        ("Last rounds", _turns(detail, columns)),
        ("Widths", _widths(detail, when)),
    ):
        if rows:
            lines += ["", title, *(row for text in rows for row in _kept(text, columns))]
    for title, moments in (("Last errors", detail["errors"]), ("Timeline", detail["timeline"])):
        if moments:
            lines += ["", f"{title}, the newest first"]
        for one in moments[:LATEST]:
            text = f"{when(one['at'])}  {plain(one['kind'])}: {plain(one['text'])}"
            lines += wrapped(text, columns, INDENT)
    return lines


def _kept(text: str, columns: int) -> list[str]:
    """Return a line that may be one of a table: what fits stays as it is."""
    line = f"{INDENT}{text}"
    return [line] if len(line) <= columns else wrapped(text, columns, INDENT)


def _sections(detail: Data, now: float) -> Iterator[tuple[str, list[str]]]:
    yield "Link", _link(detail, now)
    yield "Work", _work(detail, now)
    yield "Training", _training(detail)
    yield "Model", _model(detail, now)
    yield "Contribution and reward", _reward(detail)
    yield "Machine", _machine(detail, now)
    if detail["notes"]:
        yield "Notes", [f"{one['text']} ({ago(now, one['at'])} ago)" for one in detail["notes"]]


def _link(detail: Data, now: float) -> list[str]:
    cause = f": {detail['link_cause']}" if detail["link_cause"] else ""
    since = detail["link_since"]
    changed = f" (since {_before(now, since)})" if since is not None else ""
    lines = [f"{detail['link']}{cause}{changed}"]
    lines.append(f"last telemetry: {_before(now, detail['telemetry_at'])}")
    born = _before(now, detail["born_at"])
    lines.append(f"first seen: {born}; session {detail['session']}")
    return lines


def _before(now: float, at: float | None) -> str:
    if at is None:
        return "never"
    told = ago(now, at)
    return told if told == "now" or told.startswith("in ") else f"{told} ago"


def _work(detail: Data, now: float) -> list[str]:
    what = f" ({detail['useful']})" if detail["useful"] else ""
    lines = [f"last useful work: {_before(now, detail['useful_at'])}{what}"]
    latency = seconds(detail["latency_p95_s"] or None)
    lines.append(f"{detail['inferences']} answers; 95 % of the calls within {latency}")
    if detail["drift"] is not None:
        lines.append(f"drift {detail['drift']:.3f} ({detail['drift_level']})")
    return lines


def _training(detail: Data) -> list[str]:
    lines = [f"{detail['takes_part']}: {detail['reason'] or 'no reason given'}"]
    if detail["cap"]:
        lines.append(f"capped: {detail['cap']}")
    lines.append(
        f"participation {share(detail['participation'])}: {detail['rounds_taken']} of"
        f" {detail['rounds_eligible']} eligible rounds; straggler index"
        f" {figure(detail['straggler'])}"
    )
    if detail["drops"]:
        missed = ", ".join(f"{count} {reason}" for reason, count in detail["drops"].items())
        lines.append(f"missed: {missed}")
    lines.append(
        f"trains width {net_width(detail['training_width'])}, a round is predicted to take"
        f" {seconds(detail['predicted_s'] or None)}"
    )
    return lines


def _model(detail: Data, now: float) -> list[str]:
    order, report = detail["deployment"], detail["report"]
    if order is None:
        return ["nothing was sent yet"]
    what = f"width {order['width']:g}" if order["digest"] else "no model"
    lines = [
        f"assigned: {what}, order {order['counter']}, {order['digest'][:DIGEST]}",
        f"why: {order['reason']} ({_before(now, order['at'])})",
    ]
    if report is not None:
        running = detail["release"] or "no model"
        lines.append(f"installed: {report['installed'][:DIGEST] or 'none'}")
        detailed = f": {report['detail']}" if report["detail"] else ""
        lines.append(f"runs: {running}, {report['state']}{detailed} ({_before(now, report['at'])})")
    lines.append("confirmed" if detail["confirmed"] else "NOT CONFIRMED")
    return lines


def _reward(detail: Data) -> list[str]:
    reward = detail["reward"]
    if reward is None:
        return [f"not allocated yet; contribution so far {figure(detail['contribution'], '+.4f')}"]
    interval = (
        f" (95 % interval {reward['low']:+.4f} to {reward['high']:+.4f})"
        if reward["low"] < reward["high"]
        else ""
    )
    return [
        f"contribution {reward['contribution']:+.4f}{interval}",
        f"{reward['share']:.2f} times the average; earned width {net_width(reward['width'])}",
        reward["reason"],
    ]


def _machine(detail: Data, now: float) -> list[str]:
    profile = detail["profile"]
    lines = [f"agent {detail['agent'] or 'unknown'}; memory of the agent"]
    lines[0] += f" {size(detail['memory_bytes'] or None)}; outbox {detail['outbox'] or 0}"
    if detail["emulated"]:
        lines.append(f"EMULATED: {detail['emulated']}")
    if profile is None:
        return [*lines, "no profile yet"]
    lines.append(
        f"{profile['cores']} cores, {size(profile['memory_budget'] or None)} for training,"
        f" {profile['samples']} samples, link {size(profile['link_bytes_per_s'] or None)}/s;"
        f" profile {_before(now, detail['profiled_at'])}"
    )
    offset = detail["clock_offset_s"]
    if offset is not None:
        lines.append(f"its clock less the server's: {offset:+.1f} s")
    return lines


def _turns(detail: Data, columns: int) -> list[str]:
    turns = detail["turns"][-LATEST:][::-1]
    if not turns:
        return []
    scores = {one["round"]: one["score"] for one in detail["contributions"]}
    rows = [
        (
            str(turn["round"]),
            figure(scores.get(turn["round"]), "+.4f"),
            turn["outcome"] + (f": {turn['detail']}" if turn["detail"] else ""),
        )
        for turn in turns
    ]
    room = columns - len(INDENT)
    return table(("round", "contribution", "outcome"), rows, room, left=(2,), shrink=(2,))


def _widths(detail: Data, when: Callable[[float], str]) -> list[str]:
    return [
        f"{when(one['at'])}  {net_width(one['width'])}: {plain(one['reason'])}"
        for one in detail["widths"][-LATEST:][::-1]
    ]
