"""Counts a report's figures out of a fleet view. Pure.

::

    view = FleetView(keep_from=period.since)
    ...  # fold the journal up to period.until
    report = kpi_report(view, period, seen)
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.messages import OperatorAction
from journal.events import CurvePoint, OperatorActed
from monitor.device_data import LOW_PARTICIPATION, Seen, alarms, release_name, site_of
from monitor.device_view import DeviceView, Moment
from monitor.fleet_view import INCIDENTS, FleetView
from monitor.folding import CLOCK_SLACK_S
from monitor.kpi_report import (
    ActionKpi,
    DeviceKpi,
    Incident,
    KpiReport,
    Period,
    RewardKpi,
    ScorePoint,
    SiteKpi,
)
from monitor.round_view import AGGREGATED, STEPS, RoundView

ENOUGH_ROUNDS = 5
"""Below so many eligible rounds nobody is called low in participation."""


def kpi_report(view: FleetView, period: Period, seen: Seen) -> KpiReport:
    """Return what happened in a period.

    Args:
        view: folded up to the period's end, with all rounds since its beginning kept.
        period: from when to when.
        seen: by whom, and what is wrong with the journal.
    """
    rounds = tuple(
        view.rounds[number]
        for number in sorted(view.rounds)
        if period.holds(view.rounds[number].opened_at)
    )
    sums = _sums(rounds)
    devices = tuple(
        _device(view, view.devices[name], sums.get(name, _Sum()), period, seen)
        for name in sorted(view.devices)
        if not view.devices[name].retired or name in sums
    )
    training = [one for one in rounds if not one.assessment]
    before = [one for one in view.scores if one[1] < period.since]
    during = [one for one in view.scores if period.holds(one[1])]
    return KpiReport(
        fleet=view.fleet,
        model=view.model,
        software=view.software,
        phase=view.phase,
        period=period,
        made_at=seen.now,
        last_event_at=view.at,
        damage=seen.damage,
        devices=devices,
        sites=_sites(devices),
        rounds=rounds,
        links=Counter(one.link for one in devices),
        funnel={step: sum(one.funnel[step] for one in training) for step in STEPS},
        drops=_most(one.missed for one in devices),
        scores=tuple(_points(during)),
        score_before=next(iter(_points(before[-1:])), None),
        curve=during[-1][2] if during else (),
        curve_before=before[-1][2] if before else (),
        rewards=_rewards(view, period),
        changes=tuple(
            (at, f"after round {one.round}, by the rule {one.rule}{one.note and ': ' + one.note}")
            for at, one in view.allocations
            if period.holds(at)
        ),
        incidents=_incidents(view, period),
        actions=_actions(view, period),
        notes=_notes(view, period),
        cut=_cut(view, period),
        ahead=(
            "The journal has events that are dated later than this report: the server's clock was"
            " ahead, or is behind now. What happened then is not in it."
            if view.at > max(seen.now, period.until) + CLOCK_SLACK_S
            else ""
        ),
    )


@dataclass
class _Sum:
    """What one device did in the rounds of a period."""

    eligible: int = 0
    taken: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    train_s: float = 0.0
    download_s: float = 0.0
    sent: int = 0
    received: int = 0
    samples: int = 0
    contributions: list[float] = field(default_factory=list)


def _sums(rounds: Sequence[RoundView]) -> dict[str, _Sum]:
    found: dict[str, _Sum] = {}
    for one in rounds:
        for name, turn in one.turns.items():
            total = found.setdefault(name, _Sum())
            total.eligible += 1
            if turn.outcome == AGGREGATED:
                total.taken += 1
            else:
                total.missed[_why(turn.outcome, turn.detail)] += 1
        for task in one.tasks.values():
            total = found.setdefault(task.device, _Sum())
            longest = task.round_s or (one.closed_at or one.opened_at) - one.opened_at
            total.train_s += _believed(task.train_s, longest)
            total.download_s += _believed(task.download_s, longest)
            total.sent += task.sent
            total.received += task.received
            total.samples = max(total.samples, task.samples)
        for name, score in one.contributions.items():
            found.setdefault(name, _Sum()).contributions.append(score)
    return found


def _believed(claimed_s: float, longest_s: float) -> float:
    """Return a device's claim of how long it worked, as far as the server's clock allows it."""
    return min(max(0.0, claimed_s), max(0.0, longest_s))


def _why(outcome: str, detail: str) -> str:
    """Return a reason that can be counted: of who was not asked, the short form of why."""
    if outcome != "not invited":
        return outcome
    return f"not invited: {detail.partition(':')[0][:60]}"


def _device(
    view: FleetView, device: DeviceView, total: _Sum, period: Period, seen: Seen
) -> DeviceKpi:
    reward = device.reward
    low = total.eligible >= ENOUGH_ROUNDS and total.taken < LOW_PARTICIPATION * total.eligible
    found = [what for what in alarms(device, seen) if what != "low participation"]
    return DeviceKpi(
        device=device.name,
        site=site_of(device),
        link=str(device.link(server_online=seen.trusts_presence)),
        eligible=total.eligible,
        taken=total.taken,
        missed=dict(total.missed.most_common()),
        straggler=device.straggler_index,
        train_s=total.train_s,
        download_s=total.download_s,
        sent=total.sent,
        received=total.received,
        samples=total.samples,
        width=device.width,
        entitled=reward.width if reward else 0.0,
        entitled_before=_width_before(device, period.since),
        deployed=device.deployed.width if device.deployed else 0.0,
        running=device.report.width if device.report else 0.0,
        release=release_name(view, device.running),
        confirmed=device.confirmed,
        contribution=sum(total.contributions) if total.contributions else None,
        alarms=("low participation", *found) if low else tuple(found),
    )


def _width_before(device: DeviceView, since: float) -> float:
    earlier = [reward.width for at, reward in device.rewards if at < since]
    return earlier[-1] if earlier else 0.0


def _sites(devices: Sequence[DeviceKpi]) -> tuple[SiteKpi, ...]:
    """Return the sums of each site, none where no device has a site."""
    names = sorted({one.site for one in devices})
    if names in ([], [""]):
        return ()
    of = {name: [one for one in devices if one.site == name] for name in names}
    return tuple(
        SiteKpi(
            site=name,
            devices=len(some),
            eligible=sum(one.eligible for one in some),
            taken=sum(one.taken for one in some),
            train_s=sum(one.train_s for one in some),
            sent=sum(one.sent for one in some),
            received=sum(one.received for one in some),
        )
        for name, some in of.items()
    )


def _most(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total.most_common())


def _points(
    scores: Iterable[tuple[int, float, tuple[CurvePoint, ...]]],
) -> Iterable[ScorePoint]:
    for number, at, curve in scores:
        if curve:
            widest = max(curve, key=lambda point: point.width)
            yield ScorePoint(number, at, widest.score, widest.low, widest.high)


def _rewards(view: FleetView, period: Period) -> tuple[RewardKpi, ...]:
    found = [
        RewardKpi(
            device=device.name,
            site=site_of(device),
            contribution=reward.contribution,
            share=reward.share,
            low=reward.low,
            high=reward.high,
            before=_width_before(device, period.since),
            width=reward.width,
            reason=reward.reason,
        )
        for device in view.devices.values()
        if (reward := device.reward)
    ]
    return tuple(sorted(found, key=lambda one: (-one.contribution, one.device)))


def _incidents(view: FleetView, period: Period) -> tuple[Incident, ...]:
    found = [_incident(one, "") for one in view.incidents]
    for device in view.devices.values():
        # What a device was refused stands among the fleet's as well.
        found += [_incident(one, device.name) for one in device.errors if one.kind != "refused"]
    return tuple(sorted((one for one in found if period.holds(one.at)), key=lambda one: one.at))


def _incident(moment: Moment, device: str) -> Incident:
    return Incident(moment.at, moment.kind, device, moment.text)


def _actions(view: FleetView, period: Period) -> tuple[ActionKpi, ...]:
    return tuple(
        ActionKpi(at, one.author, _asked(one), one.device, one.reason, one.done, one.detail)
        for at, one in view.actions
        if period.holds(at)
    )


def _asked(event: OperatorActed) -> str:
    """Return what an operator asked for, with the width where it is about one."""
    if event.action is not OperatorAction.CAP_WIDTH:
        return str(event.action)
    return f"{event.action} {event.width:g}" if event.width else f"{event.action} off"


def _notes(view: FleetView, period: Period) -> tuple[Incident, ...]:
    found = [_incident(one, "") for one in view.notes]
    for device in view.devices.values():
        found += [_incident(one, device.name) for one in device.notes]
    return tuple(sorted((one for one in found if period.holds(one.at)), key=lambda one: one.at))


def _cut(view: FleetView, period: Period) -> str:
    """Return which lists are longer than what is kept of them."""
    lists = {
        "incidents": [one.at for one in view.incidents],
        "actions": [at for at, _ in view.actions],
    }
    full = [
        name
        for name, times in lists.items()
        if len(times) >= INCIDENTS and times[0] >= period.since
    ]
    if not full:
        return ""
    return f"Of {' and '.join(full)} only the last {INCIDENTS} are listed; the journal has all."
