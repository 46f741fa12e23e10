"""Who is there, who takes part, and who does not and why: from retained messages to a table.

Messages are folded into a `StatusView` in whatever order they arrive; the view becomes lines for a
terminal or plain data for a program. Texts come from the network: what is shown is stripped of
control characters.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from broker.messages import (
    Birth,
    Checkpoint,
    DeviceSummary,
    LinkStatus,
    Message,
    Participation,
    Profile,
    ServerState,
    SignedCheckpoint,
    Standing,
    Summary,
    Witness,
)
from broker.topics import (
    ANY,
    DeviceSays,
    DownTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    Topic,
    UpTopic,
    topic_for,
)
from monitor.audit_status import (
    alarms,
    checkpoint_data,
    checkpoint_in,
    contradicted,
    sentences,
    witness_data,
)
from monitor.terminal_text import plain, wrapped

COLUMNS = 80
SHORTEST_NAME = 8  # however much the figures need
NOTHING = "-"
# Participation -> the word in the table, and how the sentence below it begins.
TAKES_PART = {
    Participation.TAKES_PART: ("yes", "takes part"),
    Participation.WAITING: ("waits", "waits"),
    Participation.CANNOT: ("no", "takes no part"),
    Participation.SUSPENDED: ("paused", "paused"),
}
# Field of a standing -> the word in the table: all short, since 80 columns are few.
WIDTHS = {"training": "trains", "entitled": "earned", "deployed": "sent", "running": "runs"}
HEAD = ("device", "link", "takes", *WIDTHS.values(), "rounds", "contri-")
HEAD_2 = ("", "", "part", *("width" for _ in WIDTHS), "in/out", "bution")
UNKNOWN = "unknown"
RETIRED = "retired"
CLOCK_OFF_S = 1.0  # a smaller difference disturbs nobody


@dataclass(frozen=True)
class StatusView:
    """What was heard so far.

    Attributes:
        fleet: name.
        server: its state; None where it never served this fleet.
        summary: the fleet at a glance.
        births, standings, profiles, witnesses: per device, the newest heard.
        checkpoint: of the server's journal, as the server says: its signature is not checked here.
    """

    fleet: str
    server: ServerState | None = None
    summary: Summary | None = None
    births: Mapping[str, Birth] = field(default_factory=dict)
    standings: Mapping[str, Standing] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    witnesses: Mapping[str, Witness] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None

    @property
    def complete(self) -> bool:
        """Whether everybody whom the summary counts has been heard."""
        if self.server is None or self.summary is None:
            return False
        listed = {line.device for line in self.summary.devices}
        known = self.standings.keys() & self.births.keys()
        # A contradiction that comes last must not be missed.
        known = {name for name in known if not self.births[name].witness or name in self.witnesses}
        return listed <= known and len(known) >= len(listed) + self.summary.more

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that anything is known of, sorted."""
        listed = {line.device for line in self.summary.devices} if self.summary else set()
        return tuple(sorted(listed | self.standings.keys() | self.births.keys()))

    def line(self, device: str) -> DeviceSummary | None:
        """Return the summary's line of a device."""
        lines = self.summary.devices if self.summary else ()
        return next((line for line in lines if line.device == device), None)

    def link(self, device: str) -> str:
        """Return whether the device is there, as the server sees it, else as it said itself."""
        if (standing := self.standings.get(device)) and standing.retired:
            return RETIRED
        line, birth = self.line(device), self.births.get(device)
        if line is not None:
            return line.link
        return str(birth.status) if birth is not None else UNKNOWN


def status_filters(fleet: str) -> tuple[str, ...]:
    """Return the topic filters that a status is made of; an operator may read them all."""
    return (
        *(topic_for(fleet, ServerTopic(channel)) for channel in ServerTells),
        topic_for(fleet, UpTopic(ANY, DeviceSays.BIRTH)),
        topic_for(fleet, UpTopic(ANY, DeviceSays.PROFILE)),
        topic_for(fleet, UpTopic(ANY, DeviceSays.WITNESS)),
        topic_for(fleet, DownTopic(ANY, ServerSays.STANDING)),
    )


def fold(view: StatusView, topic: Topic, message: Message) -> StatusView:
    """Return the view with one more message; what does not belong in it changes nothing."""
    match topic, message:
        case ServerTopic(), ServerState():
            return dataclasses.replace(view, server=message)
        case ServerTopic(), Summary():
            return dataclasses.replace(view, summary=message)
        case ServerTopic(), SignedCheckpoint():
            return dataclasses.replace(view, checkpoint=checkpoint_in(message))
        case UpTopic(device=device), Witness():
            return dataclasses.replace(view, witnesses={**view.witnesses, device: message})
        case UpTopic(device=device), Birth():
            return dataclasses.replace(view, births={**view.births, device: message})
        case UpTopic(device=device), Profile():
            return dataclasses.replace(view, profiles={**view.profiles, device: message})
        case DownTopic(device=device), Standing():
            return dataclasses.replace(view, standings={**view.standings, device: message})
    return view


def status_lines(view: StatusView, columns: int = COLUMNS) -> list[str]:
    """Return the status as lines of at most ``columns`` characters."""
    lines = wrapped(_headline(view), columns)
    for notice in _notices(view):
        lines += wrapped(f"! {notice}", columns)
    devices = view.devices
    if not devices:
        return [*lines, "", "no device has appeared yet"]
    rows = [HEAD, HEAD_2, *(_row(view, device) for device in devices)]
    spans = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    room = columns - sum(spans[1:]) - len(spans[1:])
    spans[0] = min(spans[0], max(SHORTEST_NAME, room))
    lines += ["", *(_cells(row, spans) for row in rows[:2])]
    for device, row in zip(devices, rows[2:], strict=True):
        lines.append(_cells(row, spans))
        if len(row[0]) > spans[0]:
            lines += wrapped(f"full name: {row[0]}", columns, "    ")
        for sentence in _why(view, device):
            lines += wrapped(sentence, columns, "    ")
    return lines


def status_data(view: StatusView) -> dict[str, Any]:
    """Return the status as plain data, one object per device, widths 0 where there is none."""
    return {
        "fleet": view.fleet,
        "complete": view.complete,
        "server": msgspec.to_builtins(view.server) if view.server else None,
        "summary": _summary_data(view.summary) if view.summary else None,
        "checkpoint": checkpoint_data(view.checkpoint),
        "contradicted": list(contradicted(view.witnesses)),
        "devices": [_device_data(view, device) for device in view.devices],
    }


def _summary_data(summary: Summary) -> dict[str, Any]:
    return {
        "phase": summary.phase,
        "detail": summary.detail,
        "round": summary.round,
        "rounds": summary.rounds,
        "score": summary.score,
        "online": summary.online,
        "devices": len(summary.devices) + summary.more,
    }


def _device_data(view: StatusView, device: str) -> dict[str, Any]:
    birth, standing = view.births.get(device), view.standings.get(device)
    data: dict[str, Any] = {
        "device": device,
        "link": view.link(device),
        "agent": birth.agent if birth else "",
        "can_train": birth.can_train if birth else False,
        "emulated": birth.emulated if birth else "",
        "known": standing is not None,
        "clock_offset_s": _clock_offset(view, device),
        "witness": witness_data(view.witnesses.get(device)),
    }
    shown = standing or Standing(participation=Participation.WAITING, reason=_unheard())
    return data | {
        "participation": str(shown.participation),
        "reason": shown.reason,
        **{f"{name}_width": getattr(shown, f"{name}_width") for name in WIDTHS},
        "width_reasons": dict(shown.width_reasons),
        "rounds_taken": shown.rounds_taken,
        "rounds_missed": shown.rounds_missed,
        "last_drop": shown.last_drop,
        "contribution": shown.contribution,
        "method": shown.method,
        "confirmed": shown.confirmed,
        "local_score": shown.local_score,
        "local_samples": shown.local_samples,
        "training_cap": shown.training_cap,
        "retired": shown.retired,
    }


def _unheard() -> str:
    return "the server has not said where this device stands"


def _headline(view: StatusView) -> str:
    summary = view.summary
    if summary is None:
        return f"fleet {plain(view.fleet)}: no server has served it on this broker"
    parts = [f"fleet {plain(view.fleet)}: {plain(summary.phase)}"]
    if summary.detail:
        parts[0] += f", {plain(summary.detail)}"
    devices = len(summary.devices) + summary.more
    parts.append(f"round {summary.round} of at most {summary.rounds}")
    parts.append(f"{summary.online} of {devices} devices there")
    if summary.score is not None:
        parts.append(f"score {summary.score:.3f} at full width")
    return "; ".join(parts)


def _notices(view: StatusView) -> list[str]:
    notices = alarms(view.witnesses)
    if view.server is None:
        notices.append(f"nothing retained from a server of fleet {plain(view.fleet)} was delivered")
    elif view.server.status is not LinkStatus.ONLINE:
        notices.append("the server is OFFLINE: what follows is its last word")
    if view.server is not None and view.server.notice:
        notices.append(plain(view.server.notice))
    emulated = sum(bool(birth.emulated) for birth in view.births.values())
    if emulated:
        notices.append(f"{emulated} of {len(view.devices)} machines are EMULATED")
    if view.server is not None and not view.complete:
        notices.append("not every device was heard in time: try again with a longer --timeout")
    return notices


def _row(view: StatusView, device: str) -> tuple[str, ...]:
    name, link = plain(device), plain(view.link(device))
    standing = view.standings.get(device)
    if standing is None:
        return (name, link, "?", *(NOTHING for _ in WIDTHS), NOTHING, NOTHING)
    contribution = standing.contribution
    return (
        name,
        link,
        _takes_part(standing)[0],
        *(_width(getattr(standing, f"{kind}_width")) for kind in WIDTHS),
        f"{standing.rounds_taken}/{standing.rounds_missed}",
        NOTHING if contribution is None else f"{contribution:+.3f}",
    )


def _takes_part(standing: Standing) -> tuple[str, str]:
    """Return the word in the table, and how the sentence below it begins."""
    if standing.retired:  # which older devices know as a kind of suspended
        return TAKES_PART[Participation.CANNOT]
    return TAKES_PART[standing.participation]


def _why(view: StatusView, device: str) -> list[str]:
    """Return the sentences below a device's row: what its figures do not say by themselves."""
    birth, standing = view.births.get(device), view.standings.get(device)
    said = []
    if birth is not None and birth.emulated:
        said.append(f"EMULATED machine: {plain(birth.emulated)}")
    said += sentences(view.witnesses.get(device))
    if standing is None:
        return [*said, _unheard()]
    said.append(f"{_takes_part(standing)[1]}: {plain(standing.reason) or 'no reason'}")
    cap = standing.width_reasons.get("cap", "")
    if standing.training_cap and not (cap and cap in standing.reason):
        said.append(f"cap: {plain(cap) or f'trains {standing.training_cap:g} at most'}")
    if standing.local_score is not None:
        said.append(
            f"keeps its own network: scores {standing.local_score:.3f} there, on"
            f" {standing.local_samples} samples that it holds back"
        )
    delivered = standing.deployed_width or standing.running_width
    for kind, word in WIDTHS.items():
        reason = standing.width_reasons.get(kind, "")
        # Before anything is delivered there is nothing to say about it.
        if reason and reason != standing.reason and (delivered or kind in {"training", "entitled"}):
            said.append(f"{word}: {plain(reason)}")
    offset = _clock_offset(view, device)
    if offset is not None and abs(offset) >= CLOCK_OFF_S:
        side = "ahead of" if offset > 0 else "behind"
        said.append(f"clock: {abs(offset):.0f} s {side} the server's; set it, times shown are off")
    if standing.rounds_missed:
        said.append(f"last missed: {plain(standing.last_drop) or 'no reason'}")
    return said


def _clock_offset(view: StatusView, device: str) -> float | None:
    """Return how far a device says that its clock is ahead, None where it does not."""
    profile = view.profiles.get(device)
    offset = profile.clock_offset_s if profile else None
    return offset if offset is not None and math.isfinite(offset) else None


def _width(width: float) -> str:
    return f"{width:g}" if width else NOTHING


def _cells(row: tuple[str, ...], spans: list[int]) -> str:
    name = row[0] if len(row[0]) <= spans[0] else row[0][: spans[0] - 1] + "…"
    words = [c.ljust(s) for c, s in zip((name, *row[1:3]), spans[:3], strict=True)]
    figures = [cell.rjust(span) for cell, span in zip(row[3:], spans[3:], strict=True)]
    return " ".join([*words, *figures]).rstrip()
