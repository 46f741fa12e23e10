"""The metrics of a whole fleet: few series, however many devices there are. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping

from broker.messages import DropReason
from monitor.device_data import Seen, alarms, drift_level, site_of
from monitor.device_view import Link
from monitor.drift import ALARM
from monitor.fleet_view import FleetView
from monitor.metric import Family, Kind, Labels, Metric, Values, family, tidy
from monitor.round_view import STEPS, RoundView

PHASES = (
    "empty",
    "initialising",
    "gathering",
    "training",
    "scoring",
    "allocating",
    "exporting",
    "delivering",
    "finished",
)
INCIDENTS = ("server", "work", "message", "release", "journal", "clock", "clone")
MISSED = "quorum missed"
OWED = "owed"
NOT_INVITED = "not-invited"
# Why an eligible device was not invited is a sentence with figures in it: all of them are one.
REASONS = (*map(str, DropReason), MISSED, OWED, NOT_INVITED)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"slimfleet_{name}", Kind.GAUGE, text, labels)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"slimfleet_{name}", Kind.COUNTER, text, labels)


def _devices(view: FleetView, seen: Seen) -> Values:
    links = Counter(
        (tidy(site_of(device)), str(device.link(server_online=seen.trusts_presence)))
        for device in view.devices.values()
    )
    sites = {site for site, _ in links} or {""}
    return {(site, str(link)): links[site, str(link)] for site in sorted(sites) for link in Link}


def _taking_part(view: FleetView, seen: Seen) -> Values:
    present = [device for device in view.devices.values() if not device.retired]
    online = seen.trusts_presence
    return Counter((device.takes_part(server_online=online)[0],) for device in present)


def _alarmed(view: FleetView, seen: Seen) -> Values:
    return Counter(
        (tidy(site_of(device)), alarm)
        for device in view.devices.values()
        for alarm in alarms(device, seen)
    )


def _drifting(view: FleetView, seen: Seen) -> Values:
    levels = {
        device.name: (tidy(site_of(device)), drift_level(device.drift_index))
        for device in view.devices.values()
        if not device.retired
    }
    return Counter(at for at in levels.values() if at[1] in ("warn", "alarm"))


def _release_states(view: FleetView, seen: Seen) -> Values:
    counts = dict.fromkeys(("assigned", "installed", "confirmed"), 0)
    for device in view.devices.values():
        order, report = device.deployed, device.report
        if device.retired or order is None or not order.digest:
            continue
        counts["assigned"] += 1
        counts["installed"] += report is not None and report.installed == order.digest
        counts["confirmed"] += device.confirmed
    return {(state,): count for state, count in counts.items()}


def _last_closed(view: FleetView) -> RoundView | None:
    closed = [number for number, found in view.rounds.items() if found.closed_at is not None]
    return view.rounds[max(closed)] if closed else None


def _stages(view: FleetView, seen: Seen) -> Values:
    found = _last_closed(view)
    return {(step,): found.funnel[step] for step in STEPS} if found else {}


def _drops(view: FleetView, seen: Seen) -> Values:
    counts: Counter[Labels] = Counter({(reason.replace(" ", "-"),): 0 for reason in REASONS})
    for reason, count in view.drops.items():
        counts[(reason if reason in REASONS else NOT_INVITED).replace(" ", "-"),] += count
    return counts


def _score(view: FleetView, seen: Seen) -> Values:
    curve = view.scores[-1][2] if view.scores else ()
    return {(f"{point.width:g}",): point.score for point in curve}


def _phases(view: FleetView, seen: Seen) -> Values:
    return {(phase,): phase == view.phase for phase in PHASES}


def _rounds(view: FleetView, seen: Seen) -> Values:
    return {("aggregated",): view.counted, ("abandoned",): view.closed - view.counted}


def _transfers(view: FleetView, seen: Seen) -> Values:
    return {("up",): view.sent, ("down",): view.received}


def _presence(view: FleetView, seen: Seen) -> Values:
    return {(to, tidy(cause)): count for (to, cause), count in view.presence_changes.items()}


def _incidents(view: FleetView, seen: Seen) -> Values:
    # A counter that begins at 1 has not risen: alarms would not see the first incident.
    return {(kind,): view.troubles[kind] for kind in {**dict.fromkeys(INCIDENTS), **view.troubles}}


def _campaign(view: FleetView, seen: Seen) -> Values:
    return {(tidy(view.fleet), tidy(view.model), tidy(view.software)): 1}


SERVER_UP = _gauge("server_up", "1 while the server is there; absent where that is not known.")
INTACT = _gauge("journal_intact", "0 if the journal was edited, cut off or damaged.")
ROUND_DURATION = Metric(
    "slimfleet_round_duration_seconds",
    Kind.HISTOGRAM,
    "From the opening of a round to its closing.",
)
UPDATE_DURATION = Metric(
    "slimfleet_update_duration_seconds",
    Kind.HISTOGRAM,
    "From the opening of a round to an accepted update, one a device.",
)
# Metrics of one value; None = not known.
SINGLE: Mapping[Metric, Callable[[FleetView], float | None]] = {
    _counter("server_starts_total", "How often the server started."): lambda v: v.epoch,
    _counter("journal_events_total", "Events in the journal."): lambda v: v.events,
    _gauge("journal_last_event_timestamp_seconds", "When the last event happened."): (
        lambda v: v.at or None
    ),
    _gauge("telemetry_last_timestamp_seconds", "When the last telemetry of any device came."): (
        lambda v: max((d.telemetry_at for d in v.devices.values() if d.telemetry_at), default=None)
    ),
    _gauge("audit_contradictions", "Devices whose kept checkpoint denies the journal."): (
        lambda v: sum(bool(d.contradiction) for d in v.devices.values())
    ),
    _counter("releases_total", "Releases that were made."): lambda v: len(v.releases),
    _gauge("release_withheld", "1 while the newest weights are held back from release."): (
        lambda v: bool(v.withheld)
    ),
    _counter("eligible_turns_total", "Eligible rounds of all devices together."): (
        lambda v: sum(device.eligible for device in v.devices.values())
    ),
    _counter("aggregated_turns_total", "Of those, the ones whose aggregate holds the update."): (
        lambda v: sum(device.taken for device in v.devices.values())
    ),
    _counter("inferences_total", "Answers of all devices, as far as telemetry is kept."): (
        lambda v: sum(device.inferences for device in v.devices.values())
    ),
    _gauge("score_widest", "Score of the newest weights at their widest width."): (
        lambda v: v.score
    ),
    _gauge("rounds_planned", "Rounds that the campaign may take at most."): (
        lambda v: v.settings.get("rounds", {}).get("budget")
    ),
    _gauge("rounds_abandoned_in_a_row", "Rounds without an aggregate since the last with one."): (
        lambda v: v.missed
    ),
    _gauge("rounds_paused", "1 while an operator has paused rounds."): lambda v: bool(v.paused),
    _gauge("rounds_held", "1 while too few devices can train just now."): lambda v: bool(v.held),
    _gauge("training_stopped", "1 once training is over."): lambda v: bool(v.stopped),
    _gauge("round_budget_seconds", "Deadline of the newest round."): (
        lambda v: v.current.budget_s if v.current else None
    ),
    _gauge("round_closed_timestamp_seconds", "When the last round closed."): lambda v: v.closed_at,
    _gauge("round_aggregated_timestamp_seconds", "When the last aggregated round closed."): (
        lambda v: v.counted_at
    ),
}
LABELLED: Mapping[Metric, Callable[[FleetView, Seen], Values]] = {
    Metric(
        "slimfleet_campaign_info",
        Kind.INFO,
        "The campaign that is shown; the value is 1.",
        ("fleet", "model", "software"),
    ): _campaign,
    _gauge("campaign_phase", "1 for what the server does, 0 for all else.", "phase"): _phases,
    _gauge("devices", "Devices by link.", "site", "link"): _devices,
    _gauge(
        "participation_devices", "Devices by whether they take part in training.", "participation"
    ): _taking_part,
    _gauge("alarmed_devices", "Devices with something wrong.", "site", "alarm"): _alarmed,
    _gauge(
        "drifting_devices",
        f"Devices whose model drifts; the level is warn, or alarm from {ALARM:g} on.",
        "site",
        "level",
    ): _drifting,
    _gauge(
        "release_devices",
        "Devices that were sent a model, installed that one, and confirmed that they run it.",
        "state",
    ): _release_states,
    _counter("rounds_total", "Rounds that are over.", "outcome"): _rounds,
    _gauge(
        "round_stage_devices",
        "Devices that came at least so far in the last closed round.",
        "stage",
    ): _stages,
    _counter(
        "round_drops_total", "Eligible devices that missed an aggregate, by reason.", "reason"
    ): _drops,
    _gauge("score", "Score of the newest weights over width.", "width"): _score,
    _counter(
        "transfer_bytes_total", "Model bytes, up from and down to devices.", "direction"
    ): _transfers,
    _counter("presence_transitions_total", "Changes of presence.", "to", "cause"): _presence,
    _counter(
        "incidents_total", "What went wrong with no device to blame, by kind.", "kind"
    ): _incidents,
}
FLEET_METRICS = (SERVER_UP, INTACT, *SINGLE, *LABELLED, ROUND_DURATION, UPDATE_DURATION)


def fleet_families(view: FleetView, seen: Seen) -> list[Family]:
    """Return the metrics that have no device in their labels."""
    up: Values = {} if seen.server_online is None else {(): float(seen.server_online)}
    found = [family(SERVER_UP, up), family(INTACT, {(): float(not seen.damage)})]
    for metric, find_one in SINGLE.items():
        value = find_one(view)
        found.append(family(metric, {} if value is None else {(): value}))
    found += [family(metric, find(view, seen)) for metric, find in LABELLED.items()]
    return [
        *found,
        Family(ROUND_DURATION, {}, view.round_s),
        Family(UPDATE_DURATION, {}, view.update_s),
    ]
