"""Lying devices, wrong clocks, two agents with one id, files that were cut: said, never hidden."""

import contextlib
import json
import shutil
import sqlite3

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages import Participation, Profile, Stage, Telemetry
from coordinator.presence import Leases
from coordinator.settings import Presence
from journal import events as e
from journal.errors import ChainError, JournalDamagedError
from journal.reader import DATABASE, JournalReader
from journal.store import Journal
from monitor.device_data import Seen, device_detail, device_rows
from monitor.device_view import LONGEST_TEXT, clipped
from monitor.feed import JournalFeed
from monitor.fleet_data import overview, reward_rows, version_shares
from monitor.fleet_view import FleetView
from monitor.folding import fold
from monitor.kpi_counting import kpi_report
from monitor.kpi_page import kpi_page
from monitor.kpi_report import Period
from monitor.kpi_tables import tables
from monitor.round_data import round_detail, round_rows
from tests.unit.test_fleet_view import accepted, born, closed, dropped, folded, opened
from tests.unit.test_kpi_report import reward

YEAR = 365 * 86_400.0
SEEN = Seen(now=100.0, server_online=True)


def everything(view, seen=SEEN):
    """Return all data that is shown of a view."""
    return {
        "overview": overview(view, seen),
        "devices": device_rows(view, seen),
        "details": [device_detail(view, name, seen) for name in view.devices],
        "rounds": round_rows(view),
        "tasks": [round_detail(one) for one in view.rounds.values()],
        "rewards": reward_rows(view),
        "versions": version_shares(view),
    }


# --- text of others


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=600))
def test_whatever_others_write_the_data_of_a_view_is_json_and_comes_back(text):
    view = folded(
        e.DeviceBorn(
            device="a", session=1, agent=text, can_train=True, running=text, emulated=text
        ),
        e.DeviceProfiled(device="a", profile=Profile(machine=text, system=text, emulated=text)),
        opened(1, "a", not_invited={"b": text}),
        e.TaskProgressed(round=1, device="a", stage=Stage.FAILED, detail=text),
        dropped(1, "a", detail=text),
        closed(1),
        e.WorkFailed(job=text, detail=text),
        e.MessageRefused(sender="a", channel=text, reason=text),
        e.PresenceChanged(device="a", state=e.LinkState.OFFLINE, cause=text),
        e.RewardsAllocated(round=1, rule=text, note=text, rewards=(reward("a", 1.0, 1.0, text),)),
    )
    found = everything(view)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    report = kpi_report(view, Period(0.0, 100.0), SEEN)
    assert len(tables(report)) == 9


def test_a_device_cannot_fill_the_memory_with_what_it_says():
    text = "x" * 15_000
    view = FleetView()
    fold(view, 0.0, e.DeviceBorn(device="a", session=1, agent=text, can_train=True, running=""))
    for number in range(30):
        fold(view, 1.0, opened(number, "a"))
        fold(view, 1.0, e.TaskProgressed(round=number, device="a", stage=Stage.FAILED, detail=text))
        fold(view, 1.0, dropped(number, "a", detail=text))
        fold(view, 1.0, closed(number))
        fold(view, 1.0, e.MessageRefused(sender="a", channel="up/report", reason=text))
    assert len(json.dumps(everything(view))) < 30 * 6 * 2 * LONGEST_TEXT


def test_a_long_text_is_cut_and_a_short_one_is_not():
    assert clipped("short") == "short"
    assert len(clipped("x" * (LONGEST_TEXT + 1))) == LONGEST_TEXT
    assert clipped("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT


def test_a_device_that_boasts_of_its_work_is_believed_as_far_as_the_servers_clock_allows():
    boast = msgspec.structs.replace(accepted(1, "a", round_s=4.0), train_s=1e300, download_s=-5.0)
    view = folded(
        born("a"),
        e.WidthChosen(
            device="a",
            width=1.0,
            participation=Participation.TAKES_PART,
            reason="",
            forecasts=(e.RoundForecast(width=1.0, predicted_s=1.0, step_s=0.1, size=1000),),
        ),
        opened(1, "a"),
        e.TaskProgressed(round=1, device="a", stage=Stage.STARTED, downloaded_bytes=10**18),
        boast,
        closed(1, "a"),
    )
    (row,) = kpi_report(view, Period(0.0, 100.0), SEEN).devices
    assert (row.train_s, row.download_s, row.received) == (4.0, 0.0, 4000)
    assert view.received == 4000


# --- clocks


def test_a_server_clock_that_was_put_back_is_an_incident_with_its_size():
    view = FleetView()
    fold(view, YEAR, born("a"))
    fold(view, YEAR + 1, opened(1, "a"))
    fold(view, 10.0, accepted(1, "a"))
    fold(view, 11.0, closed(1, "a"))
    assert [one.text for one in view.incidents] == ["the server's clock went back by 31535991 s"]
    assert view.devices["a"].participation_ratio == 1
    assert (view.at, view.last_at) == (YEAR + 1, 11.0)


def test_a_few_seconds_back_are_no_incident():
    view = FleetView()
    fold(view, 100.0, born("a"))
    fold(view, 70.0, born("b"))
    assert not view.incidents


def test_what_was_recorded_by_a_clock_that_was_ahead_is_not_in_the_report_and_that_is_said():
    view = FleetView(keep_from=0.0)
    fold(view, YEAR, born("a"))
    fold(view, YEAR, opened(1, "a"))
    fold(view, YEAR, closed(1, "a"))
    for number in (2, 3):
        fold(view, 10.0, opened(number, "a"))
        fold(view, 20.0, closed(number, "a"))
    report = kpi_report(view, Period(0.0, 50.0), Seen(now=50.0))
    assert [one.number for one in report.rounds] == [2, 3]
    assert "dated later than this report" in report.ahead
    assert "dated later than this report" in kpi_page(report)
    assert kpi_report(view, Period(0.0, 50.0), Seen(now=2 * YEAR)).ahead == ""


@pytest.mark.parametrize("offset", [YEAR, -YEAR, 1e300, 60.0])
def test_a_device_whose_clock_is_wrong_is_warned_of_and_goes_on_taking_part(offset):
    view = folded(
        born("a"),
        e.DeviceProfiled(device="a", profile=Profile(can_train=True, clock_offset_s=offset)),
        opened(1, "a"),
        accepted(1, "a"),
        closed(1, "a"),
    )
    (row,) = device_rows(view, SEEN)
    assert row["alarms"] == ["clock is wrong"]
    assert row["participation"] == 1
    assert json.loads(json.dumps(row, allow_nan=False))["clock_offset_s"] == offset


def test_a_small_or_unknown_offset_is_no_alarm():
    for profile in (Profile(clock_offset_s=-59.0), Profile()):
        view = folded(born("a"), e.DeviceProfiled(device="a", profile=profile))
        assert device_rows(view, SEEN)[0]["alarms"] == []


def test_telemetry_that_claims_any_time_is_placed_by_the_servers_clock():
    view = FleetView()
    view.hear("a", 5.0, Telemetry(inferences=3, sent_at=-1e300))
    assert device_rows(view, SEEN)[0]["telemetry_at"] == 5.0


# --- two agents with one id


def profiled(name, machine):
    return e.DeviceProfiled(device=name, profile=Profile(machine=machine, cores=4))


def test_profiles_of_two_machines_in_turn_are_shown_as_two_agents_with_one_id():
    view = folded(born("a"), profiled("a", "Pi 4"), profiled("a", "Xeon"), profiled("a", "Pi 4"))
    assert device_rows(view, SEEN)[0]["alarms"] == ["two agents with one id?"]
    assert [one.kind for one in view.incidents] == ["clone"]
    assert view.devices["a"].errors[-1].kind == "clone"
    later = Seen(now=100.0 + 86_400.0)
    assert device_rows(view, later)[0]["alarms"] == []


def test_a_device_that_was_moved_to_a_new_machine_is_no_suspect():
    view = folded(
        born("a"), profiled("a", "Pi 3"), profiled("a", "Pi 4"), profiled("a", "Pi 4"), born("a")
    )
    assert device_rows(view, SEEN)[0]["alarms"] == []


@pytest.fixture
def leases():
    return Leases(Presence(heartbeat_s=10.0, offline_after=3), {}, 0.0)


def test_an_older_session_that_goes_on_speaking_is_told_once(leases):
    leases.heard("a", 7, 0.0)
    said = [leases.outdated("a", 3, float(now)) for now in range(0, 200, 10)]
    (text,) = [one for one in said if one]
    assert said.index(text) == 3  # a whole lease after it was first heard
    assert "session 3 goes on beside session 7" in text


def test_what_was_on_its_way_when_an_agent_started_anew_is_nothing_to_tell(leases):
    leases.heard("a", 8, 0.0)
    assert not any(leases.outdated("a", 7, now) for now in (0.1, 0.2, 5.0))
    leases.heard("a", 9, 40.0)
    assert not any(leases.outdated("a", 8, now) for now in (40.1, 41.0))


def test_the_newest_session_is_never_outdated(leases):
    leases.heard("a", 3, 0.0)
    assert not any(leases.outdated("a", 3, float(now)) for now in range(100))
    assert leases.outdated("nobody", 1, 0.0) == ""


# --- files that were cut


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "journal"
    with Journal.open(folder) as journal:
        journal.append([born("a"), born("b")], 0.0)
        for number in range(1, 60):
            journal.append([opened(number, "a", "b"), accepted(number, "a")], float(number))
            journal.append([dropped(number, "b"), closed(number, "a")], float(number))
            journal.add_telemetry("a", float(number), Telemetry(inferences=1))
    return folder


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1))
def test_of_a_file_cut_at_any_byte_what_is_intact_is_shown_and_the_loss_is_said(
    tmp_path_factory, whole, share
):
    records = list(JournalReader(whole).records())
    folder = tmp_path_factory.mktemp("cut")
    shutil.copy(whole / DATABASE, folder / DATABASE)
    size = (folder / DATABASE).stat().st_size
    cut = int(share * (size - 1))
    with (folder / DATABASE).open("r+b") as file:
        file.truncate(cut)
    feed = JournalFeed(folder)
    with contextlib.suppress(JournalDamagedError):  # of an empty file
        feed.refresh()
        assert feed.damage
    shown = feed.head.count
    assert feed.view.events == shown < len(records)
    expected = FleetView()
    for record in records[:shown]:
        fold(expected, record.at, record.event)
    assert round_rows(feed.view) == round_rows(expected)


def test_of_a_file_cut_in_the_middle_something_is_shown(tmp_path, whole):
    records = list(JournalReader(whole).records())
    shutil.copy(whole / DATABASE, tmp_path / DATABASE)
    with (tmp_path / DATABASE).open("r+b") as file:
        file.truncate((tmp_path / DATABASE).stat().st_size * 3 // 4)
    feed = JournalFeed(tmp_path)
    feed.refresh()
    assert 0 < feed.head.count < len(records)
    assert f"what is shown ends with record {feed.head.index}" in feed.damage
    assert feed.view.opened > 0
    report = kpi_report(feed.view, Period(0.0, 100.0), Seen(100.0, damage=feed.damage))
    assert "this report is not complete" in kpi_page(report)


def test_the_records_of_a_batch_before_its_damage_are_read(tmp_path, whole):
    shutil.copy(whole / DATABASE, tmp_path / DATABASE)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET at = 'noon' WHERE idx = 100")
    connection.close()
    found = []
    with pytest.raises(ChainError, match="record 100"):
        found.extend(JournalReader(tmp_path).records())
    reading = JournalReader(tmp_path).records()
    assert [next(reading).index for _ in range(100)] == list(range(100))
    with pytest.raises(JournalDamagedError):
        next(reading)
