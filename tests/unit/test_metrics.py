"""Metrics say what the view says, in words that Prometheus understands."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from broker.messages import (
    DropReason,
    InstallState,
    OperatorAction,
    Profile,
    Report,
    Telemetry,
)
from journal import events as e
from monitor.device_data import Seen
from monitor.exposition import exposition
from monitor.folding import fold
from monitor.histogram import BOUNDS_S, Histogram
from monitor.metric import LABEL_LIMIT, Kind
from monitor.metrics import METRICS, families
from tests.unit.test_fleet_view import accepted, acted, born, closed, dropped, folded, opened

SEEN = Seen(now=100.0, server_online=True)


def fleet():
    """Return a view: a took part, b was late, then offline; the second round is open."""
    return folded(
        started(labels={"a": {"site": "hall-1"}}),
        born("a"),
        born("b"),
        e.PresenceChanged(device="a", state=e.LinkState.ONLINE, cause="heard"),
        opened(1, "a", "b"),
        accepted(1, "a", round_s=4.0),
        dropped(1, "b", DropReason.LATE),
        closed(1, "a"),
        e.PresenceChanged(device="b", state=e.LinkState.OFFLINE, cause="last will"),
        opened(2, "a", not_invited={"b": "offline: heard nothing for 90 s"}),
    )


def started(**settings):
    return e.CampaignStarted(
        fleet="pumps",
        model="cnn1d",
        options={},
        spec_hash="",
        widths=(1.0,),
        ladder=(1.0,),
        seed=0,
        software="slimfleet 1",
        settings={"rounds": {"budget": 9}, **settings},
    )


def values(view, seen=SEEN, **options):
    """Return (name, labels) -> value, of everything that has no histogram."""
    found = {}
    for one in families(view, seen, **options):
        for at, value in one.values.items():
            found[one.metric.name, at] = value
    return found


def series(text):
    """Return (sample's name, sorted labels) -> value, as Prometheus' own parser reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for one in text_string_to_metric_families(text.decode())
        for sample in one.samples
    }


def test_counts_and_shares_are_those_of_the_view():
    found = values(fleet())
    assert found["slimfleet_participation_ratio", ("a",)] == 1
    assert found["slimfleet_participation_ratio", ("b",)] == 0
    assert found["slimfleet_device_eligible_rounds_total", ("b",)] == 2
    assert found["slimfleet_eligible_turns_total", ()] == 3
    assert found["slimfleet_aggregated_turns_total", ()] == 1
    assert found["slimfleet_rounds_total", ("aggregated",)] == 1
    assert found["slimfleet_rounds_total", ("abandoned",)] == 0
    assert found["slimfleet_round_stage_devices", ("aggregated",)] == 1
    assert found["slimfleet_round_stage_devices", ("eligible",)] == 2
    assert found["slimfleet_round_drops_total", ("late",)] == 1
    assert found["slimfleet_devices", ("hall-1", "online")] == 1
    assert found["slimfleet_devices", ("", "offline")] == 1
    assert found["slimfleet_devices", ("hall-1", "offline")] == 0
    assert found["slimfleet_device_up", ("a",)] == 1
    assert found["slimfleet_device_up", ("b",)] == 0
    assert found["slimfleet_rounds_planned", ()] == 9
    assert found["slimfleet_alarmed_devices", ("", "offline")] == 1
    assert sum(v for (name, _), v in found.items() if name == "slimfleet_campaign_phase") == 1


def test_moments_are_told_and_never_how_long_ago_they_were():
    found = values(fleet())
    assert found["slimfleet_round_closed_timestamp_seconds", ()] == 7
    assert found == values(fleet(), Seen(now=1e6, server_online=True))


def test_rounds_that_fail_one_after_the_other_are_counted_until_one_succeeds():
    view = folded(born("a"), opened(1, "a"), closed(1), opened(2, "a"), closed(2))
    assert values(view)["slimfleet_rounds_abandoned_in_a_row", ()] == 2
    fold(view, 9.0, opened(3, "a"))
    fold(view, 10.0, accepted(3, "a"))
    fold(view, 11.0, closed(3, "a"))
    found = values(view)
    assert found["slimfleet_rounds_abandoned_in_a_row", ()] == 0
    assert found["slimfleet_rounds_total", ("abandoned",)] == 2
    assert found["slimfleet_round_aggregated_timestamp_seconds", ()] == 11


def test_while_the_server_is_away_nobody_is_up():
    found = values(fleet(), Seen(now=1.0, server_online=False))
    assert found["slimfleet_device_up", ("a",)] == 0
    assert found["slimfleet_devices", ("hall-1", "stale")] == 1
    assert found["slimfleet_server_up", ()] == 0


def test_where_nobody_asked_for_the_server_nothing_is_said_of_it():
    assert ("slimfleet_server_up", ()) not in values(fleet(), Seen(now=1.0))


def test_a_damaged_journal_shows():
    assert values(fleet())["slimfleet_journal_intact", ()] == 1
    assert values(fleet(), Seen(now=1.0, damage="cut"))["slimfleet_journal_intact", ()] == 0


def test_a_suspended_device_that_is_there_is_up_and_suspended():
    view = fleet()
    fold(view, 20.0, acted(OperatorAction.SUSPEND, "a"))
    found = values(view)
    assert found["slimfleet_device_up", ("a",)] == found["slimfleet_device_suspended", ("a",)] == 1
    assert found["slimfleet_devices", ("hall-1", "suspended")] == 1


def test_series_of_retired_devices_vanish_and_the_fleet_still_counts_them():
    view = fleet()
    fold(view, 20.0, acted(OperatorAction.RETIRE, "b"))
    found = values(view)
    assert not [key for key in found if "b" in key[1]]
    assert found["slimfleet_devices", ("", "retired")] == 1


@pytest.mark.parametrize(("limit", "omitted"), [(1, 2), (2, 0), (0, 2)])
def test_above_the_limit_there_are_aggregates_alone_and_a_metric_says_so(limit, omitted):
    found = values(fleet(), device_limit=limit)
    assert found["slimfleet_device_series_omitted", ()] == omitted
    of_devices = {name for name, at in found if at and at[0] in ("a", "b")}
    assert bool(of_devices) == (not omitted)
    assert found["slimfleet_devices", ("hall-1", "online")] == 1


def test_a_thousand_devices_above_the_limit_make_no_more_series_than_ten():
    def count(devices):
        view = folded(*(born(f"pump-{at}") for at in range(devices)))
        return len(exposition(view, SEEN, device_limit=5).splitlines())

    assert count(1000) == count(10)


def test_no_label_holds_a_round_or_an_order():
    assert {label for one in METRICS for label in one.labels} == {
        "version", "fleet", "model", "software", "phase", "site", "link", "participation", "alarm",
        "level", "state", "outcome", "stage", "reason", "width", "direction", "to", "cause", "kind",
        "device", "agent", "runtime", "arch", "signal",
    }  # fmt: skip


def test_reasons_in_sentences_do_not_become_labels():
    names = [f"d{at}" for at in range(50)]
    away = {name: f"{name} would take {name} s, too long" for name in names}
    view = folded(*map(born, names), born("z"), opened(1, "z", not_invited=away), closed(1))
    found = values(view)
    assert found["slimfleet_round_drops_total", ("not-invited",)] == 50
    assert len([1 for name, _ in found if name == "slimfleet_round_drops_total"]) < 25


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(lie):
    view = fleet()
    profile = Profile(clock_offset_s=lie, temperature_c=lie)
    fold(view, 20.0, e.DeviceProfiled(device="a", profile=profile))
    view.hear("a", 21.0, Telemetry(latency_p95_s=lie))
    text = exposition(view, SEEN)
    assert all(math.isfinite(value) for value in series(text).values())
    assert b"slimfleet_device_clock_offset_seconds{" not in text


def test_names_keep_the_conventions():
    for one in METRICS:
        assert one.name.startswith("slimfleet_")
        assert one.help.endswith((".", "1."))
        assert one.name.endswith("_total") == (one.kind is Kind.COUNTER), one.name
        assert one.name.endswith("_info") == (one.kind is Kind.INFO), one.name
        assert not one.name.endswith(("_ago", "_age", "_ms", "_mb", "_percent"))
        if one.kind is Kind.HISTOGRAM:
            assert one.name.endswith("_seconds")
    assert len({one.name for one in METRICS}) == len(METRICS)


@given(
    agent=st.text(max_size=200),
    site=st.text(max_size=200),
    cause=st.text(max_size=50),
)
def test_whatever_text_a_device_sends_the_exposition_is_read_back_with_one_info_each(
    agent, site, cause
):
    view = folded(started(labels={"a": {"site": site}}))
    born_a = e.DeviceBorn(device="a", session=1, agent=agent, can_train=True, running="")
    fold(view, 1.0, born_a)
    fold(view, 2.0, e.PresenceChanged(device="a", state=e.LinkState.ONLINE, cause=cause))
    text = exposition(view, SEEN, version="1")
    found = series(text)
    (labels,) = [dict(at) for name, at in found if name == "slimfleet_device_info"]
    assert all(len(value) <= LABEL_LIMIT and value.isprintable() for value in labels.values())
    if agent.isprintable() and len(agent) <= LABEL_LIMIT:
        assert labels["agent"] == agent
    assert len({line for line in text.decode().split("\n") if line.startswith("#")}) == 2 * len(
        METRICS
    )


def test_the_exposition_has_the_values_of_the_families():
    view = fleet()
    view.hear("a", 21.0, Telemetry(inferences=7, memory_bytes=1 << 30, outbox=2, running="x"))
    found = series(exposition(view, SEEN, version="1.2"))
    assert found["slimfleet_build_info", (("version", "1.2"),)] == 1
    assert found["slimfleet_device_inferences_total", (("device", "a"),)] == 7
    assert found["slimfleet_device_memory_bytes", (("device", "a"),)] == 2**30
    assert found["slimfleet_device_last_inference_timestamp_seconds", (("device", "a"),)] == 21
    assert found["slimfleet_round_duration_seconds_count", ()] == 1
    assert found["slimfleet_round_duration_seconds_sum", ()] == 3
    assert found["slimfleet_update_duration_seconds_bucket", (("le", "2.5"),)] == 0
    assert found["slimfleet_update_duration_seconds_bucket", (("le", "5"),)] == 1
    assert found["slimfleet_update_duration_seconds_bucket", (("le", "+Inf"),)] == 1


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)))
def test_a_histogram_counts_what_a_naive_count_counts(durations):
    found = Histogram()
    for one in durations:
        found.add(one)
    sound = [one for one in durations if math.isfinite(one) and one >= 0]
    assert found.cumulative == [
        (end, sum(one <= end for one in sound)) for end in (*BOUNDS_S, math.inf)
    ]
    assert found.count == len(sound)
    assert found.total == pytest.approx(sum(sound))


def order(counter, digest="d"):
    return e.DeploymentIssued(
        device="a", counter=counter, digest=digest, width=1.0, reason="", expires_at=0.0
    )


def report(counter, running="d"):
    said = Report(counter=counter, state=InstallState.CONFIRMED, running=running, installed=running)
    return e.InstallReported(device="a", state=said.state, report=said)


def test_the_lag_counts_the_orders_since_the_confirmed_one():
    name, one = "slimfleet_device_generation_lag", ("a",)
    assert values(folded(born("a")))[name, one] == 0
    assert values(folded(born("a"), order(3)))[name, one] == 3
    assert values(folded(born("a"), order(3), report(3)))[name, one] == 0
    found = values(folded(born("a"), order(3), report(3), order(5, "e")))
    assert found[name, one] == 2
    assert found["slimfleet_device_model_confirmed", one] == 0
    assert found["slimfleet_release_devices", ("assigned",)] == 1
    assert found["slimfleet_release_devices", ("confirmed",)] == 0


def test_a_model_that_was_taken_away_needs_no_confirmation():
    found = values(folded(born("a"), order(3, digest="")))
    assert ("slimfleet_device_model_confirmed", ("a",)) not in found
    assert found["slimfleet_release_devices", ("assigned",)] == 0


def test_a_device_was_last_seen_when_it_last_did_anything_and_one_that_never_came_never():
    view = folded(started(labels={"z": {"site": "h"}}), born("a"))
    view.hear("a", 40.0, Telemetry())
    found = values(view)
    assert found["slimfleet_device_last_seen_timestamp_seconds", ("a",)] == 40
    assert ("slimfleet_device_last_seen_timestamp_seconds", ("z",)) not in found
    assert ("slimfleet_device_last_inference_timestamp_seconds", ("a",)) not in found
    fold(view, 50.0, e.PresenceChanged(device="a", state=e.LinkState.OFFLINE, cause="will"))
    assert values(view)["slimfleet_device_last_seen_timestamp_seconds", ("a",)] == 40


def test_every_kind_of_incident_has_a_series_before_the_first_one():
    assert values(folded())["slimfleet_incidents_total", ("work",)] == 0
    view = folded(e.WorkFailed(job="aggregate", detail="no memory"))
    assert values(view)["slimfleet_incidents_total", ("work",)] == 1
