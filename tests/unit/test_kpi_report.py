"""A report counts what happened in its period, by hand and against the view's own totals."""

import csv
import io
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages import DropReason, OperatorAction, Stage
from journal import events as e
from monitor.csv_text import csv_cell, csv_text
from monitor.device_data import Seen
from monitor.fleet_view import INCIDENTS, KEPT_ROUNDS, LEAST_ROUNDS, FleetView
from monitor.folding import fold
from monitor.kpi_counting import kpi_report
from monitor.kpi_page import headlines, kpi_page, show_percent, show_span, write_kpi_page
from monitor.kpi_picture import BARS, grouped
from monitor.kpi_report import Period, by_need
from monitor.kpi_tables import tables, write_tables
from monitor.server_time import iso_moment, show_moment, zone_name
from tests.fakes.reports import HOSTILE
from tests.unit.test_fleet_view import (
    accepted,
    acted,
    born,
    closed,
    commanded,
    dropped,
    opened,
)
from tests.unit.test_report_page import FETCHES, read

NOON = 1_764_590_400.0  # 2025-12-01 12:00 UTC
RIGHT_TO_LEFT = "pump\N{RIGHT-TO-LEFT OVERRIDE}1-gnp"


def curve(score):
    return tuple(
        e.CurvePoint(
            width=width, score=found, low=found - 0.1, high=found + 0.1, offered=True, fitted=found
        )
        for width, found in ((1.0, score), (0.5, score / 2))
    )


def scored(number, score, **worth):
    return e.RoundScored(
        round=number,
        digest="d",
        curve=curve(score),
        contributions=tuple(
            e.Contribution(device=name, score=one, update="u") for name, one in worth.items()
        ),
        method="m",
        value_before=0.0,
        value_after=0.0,
        coalitions=1,
        seconds=1.0,
        better=True,
    )


def reward(name, width, contribution=1.0, reason="contributed"):
    return e.Reward(
        device=name,
        contribution=contribution,
        share=1.0,
        value=0.5,
        target=0.5,
        width=width,
        score=0.5,
        reason=reason,
    )


def campaign(**labels):
    return e.CampaignStarted(
        fleet="plant",
        model="mlp",
        options={},
        spec_hash="",
        widths=(0.5, 1.0),
        ladder=(0.5, 1.0),
        seed=0,
        software="1",
        settings={"labels": {name: {"site": site} for name, site in labels.items()}},
    )


PLAYED = [
    (0.0, campaign(a="hall", b="yard")),
    (0.0, born("a")),
    (0.0, born("b")),
    (10.0, opened(1, "a", "b")),
    (11.0, accepted(1, "a")),
    (12.0, dropped(1, "b", DropReason.LATE)),
    (13.0, closed(1, "a")),
    (14.0, scored(1, 0.4, a=0.3)),
    (
        15.0,
        e.EntitlementsRevised(round=1, rule="r", note="", rewards=(reward("a", 0.5),), widths={}),
    ),
    (20.0, opened(2, "a", not_invited={"b": "offline: heard nothing for 90 s"})),
    (21.0, e.TaskProgressed(round=2, device="a", stage=Stage.STARTED, downloaded_bytes=500)),
    (22.0, accepted(2, "a")),
    (30.0, closed(2, "a")),
    (31.0, scored(2, 0.6, a=0.2)),
    (32.0, acted(OperatorAction.PAUSE_ROUNDS)),
    (33.0, e.WorkFailed(job="export", detail="no room")),
    (34.0, e.RewardsAllocated(round=2, rule="equal gain", note="", rewards=(reward("a", 1.0),))),
    (40.0, opened(3, "a", "b")),
]


def reported(since, until=1e6, events=PLAYED, start=NOON, damage=""):
    view = FleetView(keep_from=start + since)
    for at, event in events:
        if at < until:
            fold(view, start + at, event)
    return kpi_report(
        view, Period(start + since, start + until), Seen(now=start + 50.0, damage=damage)
    )


def device(report, name):
    return next(one for one in report.devices if one.device == name)


def test_only_rounds_of_the_period_count():
    whole, second = reported(0), reported(20)
    assert (whole.eligible, whole.taken) == (4, 2)
    assert (second.eligible, second.taken) == (2, 1)
    assert device(second, "b").missed == {"not invited: offline": 1}
    assert device(whole, "b").missed == {"late": 1, "not invited: offline": 1}
    assert [one.number for one in second.rounds] == [2, 3]
    assert second.counted == 1
    assert second.durations == [10.0]


def test_the_end_of_the_period_is_not_in_it_and_what_came_later_is_unknown():
    report = reported(0, until=20)
    assert [one.number for one in report.rounds] == [1]
    assert report.rewards[0].width == 0.5
    assert report.actions == ()
    assert report.scores[-1].score == 0.4


def test_scores_of_the_period_stand_beside_the_last_one_before_it():
    report = reported(20)
    assert [point.round for point in report.scores] == [2]
    assert report.score_before.score == 0.4
    assert report.scores[0].score == 0.6  # of the widest, whatever the order of the curve
    text = " ".join(headlines(report))
    assert "+0.200 since the period began; the intervals overlap" in text


def test_traffic_time_and_contributions_are_summed_over_the_rounds_of_the_period():
    a = device(reported(20), "a")
    assert (a.sent, a.received, a.train_s, a.download_s) == (100, 500, 1.0, 0.1)
    assert a.contribution == 0.2
    assert device(reported(0), "a").contribution == pytest.approx(0.5)
    assert device(reported(20), "b").contribution is None


def test_a_reward_is_shown_beside_what_was_earned_before_the_period():
    report = reported(20)
    assert [(one.before, one.width) for one in report.rewards] == [(0.5, 1.0)]
    assert [text for _, text in report.changes] == ["after round 2, by the rule equal gain"]


def test_incidents_and_actions_of_the_period_are_listed():
    report = reported(20)
    assert [(one.kind, one.text) for one in report.incidents] == [
        ("work", "export failed: no room")
    ]
    assert [(one.operator, one.action, one.done) for one in report.actions] == [
        ("anna", "pause-rounds", True)
    ]
    assert reported(35).incidents == ()


def test_notes_caps_and_for_whom_a_tool_asked_stand_in_the_report():
    events = [
        (0.0, born("a")),
        (1.0, commanded(OperatorAction.NOTE, reason="new belt")),
        (2.0, commanded(OperatorAction.NOTE, device="", reason="night shift")),
        (3.0, commanded(OperatorAction.CAP_WIDTH, width=0.5)),
        (4.0, commanded(OperatorAction.CAP_WIDTH)),
    ]
    report = reported(0, events=events)
    assert [(one.device, one.text) for one in report.notes] == [
        ("a", "anna via monitor: new belt"),
        ("", "anna via monitor: night shift"),
    ]
    assert [one.action for one in report.actions[2:]] == ["cap-width 0.5", "cap-width off"]
    text = read(kpi_page(report, UTC)).text
    assert "new belt" in text
    assert "cap-width off" in text
    assert "anna via monitor" in text


def test_sites_are_summed_and_left_out_where_no_device_has_one():
    assert [(one.site, one.eligible, one.taken) for one in reported(0).sites] == [
        ("hall", 2, 2),
        ("yard", 2, 0),
    ]
    without = [(at, event) for at, event in PLAYED if not isinstance(event, e.CampaignStarted)]
    assert reported(0, events=without).sites == ()


def test_rounds_of_a_long_period_are_all_kept_and_of_the_time_before_only_the_last():
    many = [(0.0, born("a"))]
    for number in range(1, KEPT_ROUNDS + 101):
        many += [(number, opened(number, "a")), (number, closed(number, "a"))]
    assert reported(1, events=many).eligible == KEPT_ROUNDS + 100
    assert reported(51, events=many).eligible == KEPT_ROUNDS + 50
    view = FleetView()
    for at, event in many:
        fold(view, at, event)
    assert len(view.rounds) == KEPT_ROUNDS


def test_of_a_large_fleet_fewer_rounds_are_kept(monkeypatch):
    monkeypatch.setattr("monitor.fleet_view.KEPT_TASKS", 60)
    view, wide = FleetView(), FleetView(keep_from=0.0)
    for number in range(1, 51):
        for one in (view, wide):
            fold(one, float(number), opened(number, "a", "b"))
    assert sorted(view.rounds) == list(range(21, 51))
    assert len(wide.rounds) == 50
    monkeypatch.setattr("monitor.fleet_view.KEPT_TASKS", 2)
    fold(view, 51.0, opened(51, "a", "b"))
    assert len(view.rounds) == LEAST_ROUNDS


def test_lists_that_are_cut_say_so():
    many = [(float(n), e.WorkFailed(job="j", detail=str(n))) for n in range(INCIDENTS + 5)]
    assert "Of incidents only the last 500 are listed" in reported(0, events=many).cut
    assert reported(100, events=many).cut == ""
    assert reported(0).cut == ""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abcd"),
            st.sampled_from(["taken", "late", "surplus", "away", "undrawn", "owed"]),
            min_size=1,
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_over_all_rounds_the_counts_are_those_of_the_devices(rounds, assessed):
    played = [(0.0, born(name)) for name in "abcd"]
    for number, fates in enumerate(rounds, start=1):
        of = {fate: [n for n, f in fates.items() if f == fate] for fate in set(fates.values())}
        tasks = [name for name, fate in fates.items() if fate not in ("away", "undrawn")]
        taken = of.get("taken", [])
        played.append(
            (
                float(number),
                opened(
                    number,
                    *tasks,
                    not_invited=dict.fromkeys(of.get("away", []), "offline: since 9"),
                    not_drawn=tuple(of.get("undrawn", [])),
                    assessment=assessed and number == 1,
                ),
            )
        )
        for fate, reason in (("late", DropReason.LATE), ("surplus", DropReason.SURPLUS)):
            played += [(float(number), dropped(number, n, reason)) for n in of.get(fate, [])]
        played.append((float(number), closed(number, *taken, owed=tuple(of.get("owed", [])))))
    view = FleetView(keep_from=0.0)
    for at, event in played:
        fold(view, at, event)
    report = kpi_report(view, Period(0.0, 1e9), Seen(0.0))
    for one in report.devices:
        assert (one.eligible, one.taken) == (
            view.devices[one.device].eligible,
            view.devices[one.device].taken,
        )
        assert sum(one.missed.values()) == one.eligible - one.taken
    assert report.participation == (report.taken / report.eligible if report.eligible else None)


def test_who_took_part_least_stands_first_and_who_could_not_stands_last():
    events = [
        *((0.0, born(name)) for name in ("idle", "good", "bad")),
        (1.0, opened(1, "good", "bad")),
        (2.0, dropped(1, "bad")),
        (3.0, closed(1, "good")),
    ]
    report = reported(0, events=events)
    assert [one.device for one in by_need(report.devices)] == ["bad", "good", "idle"]


def test_low_participation_is_that_of_the_period():
    events = [(0.0, born("a"))]
    for number in range(1, 21):
        took = ("a",) if number <= 10 else ()
        events += [(float(number), opened(number, "a")), (float(number), closed(number, *took))]
    assert "low participation" in device(reported(11, events=events), "a").alarms
    assert "low participation" not in device(reported(1, until=11, events=events), "a").alarms
    assert device(reported(17, events=events), "a").alarms == ()  # too few rounds to say


# --- the page


def test_the_page_shows_each_section_and_names_the_zone():
    text = read(kpi_page(reported(0), ZoneInfo("Europe/Berlin"))).text
    for shown in (
        "Fleet report: plant",
        "From 2025-12-01 13:00 to",
        "All times are the server's, CET (UTC+01:00)",
        "50 % participation: 2 of 4 device rounds",
        "2 of 3 rounds counted",
        "export failed: no room",
        "pause-rounds",
        "bearing",
        "by the rule equal gain",
        "hall",
    ):
        assert shown in text, shown


def test_a_period_without_events_says_so_and_when_the_last_one_was():
    text = read(kpi_page(reported(1000), UTC)).text
    assert "Nothing happened in this time" in text
    assert "last event before its end is of 2025-12-01 12:00" in text
    assert not {"NaN", "nan", "None"} & set(text.split())


def test_an_empty_journal_gives_a_page_too():
    text = read(kpi_page(reported(0, events=[]), UTC)).text
    assert "The journal has no event before its end" in text
    assert "No device is known" in text


def test_damage_stands_on_top_of_the_page():
    text = read(kpi_page(reported(0, damage="record 7: missing"), UTC)).text
    assert "this report is not complete. record 7: missing" in text


@pytest.fixture
def hostile():
    text = HOSTILE + RIGHT_TO_LEFT + "\x1b[2J"
    events = [
        (0.0, campaign(a=text)),
        (0.0, born("a")),
        (1.0, opened(1, "a", not_invited={text: f"{text}: {text}"})),
        (2.0, dropped(1, "a", DropReason.OFFLINE, text)),
        (3.0, closed(1)),
        (4.0, e.WorkFailed(job=text, detail=text)),
        (4.0, e.MessageRefused(sender="a", channel=text, reason=text)),
        (
            5.0,
            e.OperatorActed(
                operator=text,
                command_id="1",
                action=OperatorAction.SUSPEND,
                device="a",
                reason=text,
                done=False,
                detail=text,
            ),
        ),
        (
            6.0,
            e.RewardsAllocated(
                round=1, rule=text, note=text, rewards=(reward("a", 1.0, 1.0, text),)
            ),
        ),
    ]
    return reported(0, events=events, damage=text)


def test_text_of_others_is_text_in_the_page_and_turns_nothing_around(hostile):
    page = kpi_page(hostile, UTC)
    assert "<script" not in page.lower()
    assert RIGHT_TO_LEFT not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert "\x1b" not in page
    found = read(page)
    assert "script" not in found.tags
    assert not {name for name, _ in found.attributes} & FETCHES
    assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_the_page_fetches_nothing_and_its_ids_are_there_once():
    found = read(kpi_page(reported(0), UTC))
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    assert not {name for name, _ in found.attributes} & FETCHES
    links = [value for name, value in found.attributes if name in ("href", "xlink:href")]
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_the_same_report_gives_the_same_page(tmp_path):
    write_kpi_page(reported(0), tmp_path / "one.html", UTC)
    write_kpi_page(reported(0), tmp_path / "two.html", UTC)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_many_rounds_share_a_bar_and_none_is_left_out():
    rounds = list(range(2 * BARS + 1))
    groups = grouped(rounds)
    assert len(groups) <= BARS
    assert [one for group in groups for one in group] == rounds
    assert grouped([1]) == [[1]]


def test_what_is_not_all_is_never_shown_as_all():
    assert show_percent(0.999) == "99 %"
    assert show_percent(1.0) == "100 %"
    assert show_percent(None) == "\N{EN DASH}"
    assert show_span(5400.0) == "90.0 min"
    assert show_span(172_800.0) == "2.0 days"


# --- times


def test_moments_are_shown_in_the_zone_that_is_named():
    berlin = ZoneInfo("Europe/Berlin")
    assert show_moment(NOON, berlin) == "2025-12-01 13:00"
    assert iso_moment(NOON, berlin) == "2025-12-01T13:00:00+01:00"
    assert zone_name(NOON, berlin) == "CET (UTC+01:00)"
    assert zone_name(NOON + 180 * 86_400, berlin) == "CEST (UTC+02:00)"
    assert zone_name(NOON, UTC) == "UTC"
    assert show_moment(None) == "\N{EN DASH}"


@pytest.mark.parametrize("at", [1e300, -1e300, 1e12, float("inf"), float("nan")])
def test_a_clock_that_is_far_off_gives_a_number_and_no_error(at):
    assert "after 1970" in show_moment(at, UTC)
    assert iso_moment(at, UTC)
    assert zone_name(at, UTC) == "UTC"


# --- tables


def parsed(report, name):
    columns, rows = tables(report, UTC)[name]
    return list(csv.DictReader(io.StringIO(csv_text(columns, rows))))


def test_the_tables_hold_the_numbers_of_the_page():
    report = reported(0)
    summary = {row["name"]: row["value"] for row in parsed(report, "summary")}
    assert summary["since"] == "2025-12-01T12:00:00+00:00"
    assert float(summary["participation"]) == 0.5
    devices = {row["device"]: row for row in parsed(report, "devices")}
    assert devices["b"]["missed: late"] == "1"
    assert devices["a"]["missed: late"] == ""
    assert [row["aggregated"] for row in parsed(report, "rounds")] == ["1", "1", "0"]
    assert [row["width"] for row in parsed(report, "scores")] == ["1.0", "0.5"] * 2
    assert parsed(report, "rewards")[0]["width"] == "1.0"
    assert parsed(report, "actions")[0]["reason"] == "bearing"
    assert {(row["round"], row["device"]) for row in parsed(report, "tasks")} == {
        ("1", "a"),
        ("1", "b"),
        ("2", "a"),
        ("3", "a"),
        ("3", "b"),
    }


def test_every_table_is_written_even_without_rows(tmp_path):
    files = write_tables(reported(1000), tmp_path / "week", UTC)
    assert sorted(file.name for file in files) == sorted(f"{n}.csv" for n in tables(reported(0)))
    assert all(file.read_text().strip() for file in files)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\uff1d"])
def test_text_that_a_spreadsheet_would_run_is_marked_as_text(start):
    assert csv_cell(f"{start}cmd|' /C calc'!A0").startswith("'")


def test_control_characters_and_directions_do_not_reach_a_table():
    assert csv_cell("\t=1") == "?=1"
    assert csv_cell(RIGHT_TO_LEFT) == "pump?1-gnp"
    assert csv_cell("a\r\nb") == "a??b"


def test_numbers_stay_numbers_also_below_zero():
    assert csv_cell(-1.5) == -1.5
    assert csv_cell(True) == "yes"
    assert csv_cell(None) is None


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.text()), max_size=4))
def test_whatever_the_text_each_cell_comes_back_and_begins_no_formula(rows):
    found = list(csv.reader(io.StringIO(csv_text(["a", "b"], rows))))
    assert len(found) == len(rows) + 1
    for row, cells in zip(rows, found[1:], strict=True):
        assert len(cells) == 2
        for name, cell in zip("ab", cells, strict=True):
            assert not cell.lstrip().startswith(("=", "+", "-", "@"))
            assert cell in (csv_cell(row.get(name, "")), "")


def test_hostile_text_begins_no_formula_in_any_table(hostile):
    for columns, rows in tables(hostile, UTC).values():
        for row in csv.reader(io.StringIO(csv_text(columns, rows))):
            assert not [cell for cell in row if cell.startswith(("=", "@", "\t"))]
            assert "\x1b" not in "".join(row)
