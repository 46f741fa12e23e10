"""What holds a device back for the moment: time of the day, heat, traffic, and being late again."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import InstallState, Participation, Report, Stage, WidthCost
from broker.topics import DownTopic, ServerSays
from coordinator import inputs as i
from coordinator.fleet import Phase
from coordinator.fleet_summary import summary
from coordinator.pace import LATE_IN_A_ROW, LATEST, after_late
from coordinator.publications import publications
from coordinator.settings import Rewards, WidthPolicy
from coordinator.traffic import HOUR_S, moved, with_traffic
from journal import events as e
from tests.fakes.office import WIDTHS, Office, profile, settings

A, B, C = "press", "lathe", "mill"
LONG = {"deadline_s": 1e5}
MORNING = dt.datetime(2026, 12, 1, 9, 0, tzinfo=dt.UTC).timestamp()


def desk_of(*devices, rounds=None, now=MORNING, changes=None, **policy):
    known = {"min_devices": len(devices), "budget": 30, "minimum": 30}
    chosen = settings(
        rounds=known | (rounds or {}), width_policy=WidthPolicy(**policy), **(changes or {})
    )
    desk = Office(chosen)
    desk.now = now
    return desk.begin(*devices)


def standing(desk, device):
    said = publications(desk.state, {}, lambda *_: None)
    return said[DownTopic(device, ServerSays.STANDING)]


def invited(desk):
    return set(desk.state.round.opened.tasks and desk.state.round.tasks)


def work(desk, device, down=1000):
    """Let a device download, and count in the open round."""
    desk.progress(device, Stage.STARTED, downloaded_bytes=down)
    desk.fetched(device)


# --- hours --------------------------------------------------------------------------------------


def test_outside_its_hours_a_device_rests_and_is_told_when_they_begin():
    desk = desk_of(A, B, C, rounds=LONG, hours={C: "22:00-06:00"})
    assert invited(desk) == {A, B}
    opened = desk.state.round.opened
    assert (opened.resting, opened.excused) == ((C,), (C,))
    said = standing(desk, C)
    assert said.participation is Participation.WAITING
    assert said.reason == (
        "rests in round 1: outside its hours 22:00-06:00 UTC: they begin at 22:00 UTC"
    )
    assert standing(desk, A).participation is Participation.TAKES_PART
    desk.now += 13 * 3600
    desk.round_()
    assert invited(desk) == {A, B, C}


def test_a_round_that_would_not_be_over_in_time_is_not_begun():
    desk = desk_of(A, B, C, now=MORNING - 0.2, hours={C: "08:00-09:00"})
    assert invited(desk) == {A, B}
    assert (
        "end before a round of 0.4 s would be over: they begin again at 08:00 UTC"
        in (desk.state.round.opened.not_invited[C])
    )
    assert invited(desk_of(A, B, C, now=MORNING - 0.5, hours={C: "08:00-09:00"})) == {A, B, C}


def test_while_all_are_outside_their_hours_rounds_wait_and_say_so_once():
    nights = {A: "22:00-06:00", B: "22:00-06:00 +01:00"}
    desk = desk_of(A, B, hours=nights)
    assert desk.state.phase is Phase.GATHERING
    for _ in range(100):
        desk.wait(60.0)
    (held,) = desk.of(e.RoundsHeld)
    assert held.reason == "no round opens: 0 of the 2 devices of the quorum can take part now"
    assert set(held.resting) == {A, B}
    said = summary(desk.state, desk.settings).detail
    assert said.startswith(held.reason)
    assert "lathe: outside its hours 22:00-06:00 UTC+01:00: they begin at 22:00 UTC+01:00" in said
    assert standing(desk, A).reason.startswith("rests: outside its hours")
    desk.now = MORNING + 12.5 * 3600  # it is half past nine in UTC, and B is within its hours
    assert desk.say(i.Tick())[0].reason.startswith("no round opens: 1 of the 2 devices")
    desk.wait(0.5 * 3600)
    assert invited(desk) == {A, B}
    assert desk.state.held is None
    assert desk.replayed() == desk.state


def test_who_rests_by_its_hours_loses_no_contribution():
    desk = desk_of(A, B, C, rounds=LONG, hours={C: "22:00-06:00"})
    desk.round_({A: 1.0, B: 1.0})
    desk.now += 13 * 3600
    desk.round_({A: 1.0, B: 1.0})
    desk.round_({A: 1.0, B: 1.0, C: 1.0})
    # In one round of three, and excused for the others: it would have been worth as much there.
    assert desk.state.contribution(C) == pytest.approx(desk.state.contribution(A), rel=0.01)


# --- heat ---------------------------------------------------------------------------------------


def told(desk, device, **condition):
    return desk.profiled(device, profile(**condition))


def next_task(desk, device):
    desk.round_()
    return desk.state.round.tasks[device].task if device in desk.state.round.tasks else None


def test_a_hot_device_trains_one_width_narrower_until_it_tells_that_it_is_cooler():
    desk = desk_of(A, B, hottest_c=80.0)
    told(desk, B, temperature_c=86.4)
    task = next_task(desk, B)
    assert task.width == 0.75
    assert task.reason == (
        "width 0.75 of the 1 that it could: it has 86 degrees Celsius, of 80 allowed"
    )
    assert task.predicted_s < desk.device(B).predicted_s
    assert desk.device(B).width == 1.0, "what it can is another matter"
    said = standing(desk, B)
    assert (said.training_width, said.width_reasons["training"]) == (0.75, task.reason)
    told(desk, B, temperature_c=79.0)
    assert next_task(desk, B).width == 1.0


def test_a_hot_device_that_has_nothing_narrower_rests():
    desk = desk_of(A, B, C, hottest_c=80.0)
    desk.profiled(C, profile(0.25, temperature_c=95.0))
    assert next_task(desk, C) is None
    opened = desk.state.round.opened
    assert opened.not_invited[C] == (
        "rests until it tells that it has cooled down: it has 95 degrees Celsius, of 80 allowed"
    )
    assert (opened.resting, opened.excused) == ((C,), ())


@pytest.mark.parametrize(
    ("throttled", "width"),
    [
        ("throttled", 0.75),
        ("under-voltage since the start; slowed down to cool", 0.75),
        ("throttled since the start", 1.0),
        ("", 1.0),
    ],
)
def test_a_device_that_is_held_back_now_trains_narrower(throttled, width):
    desk = desk_of(A, B, hottest_c=80.0)
    told(desk, B, throttled=throttled)
    task = next_task(desk, B)
    assert task.width == width
    if width < 1:
        assert "its processor is held back (" in task.reason


@pytest.mark.parametrize("heat", [None, float("nan"), float("inf"), -400.0, 20.0])
def test_a_thermometer_that_says_nothing_or_nonsense_holds_nobody_back(heat):
    desk = desk_of(A, B, hottest_c=80.0)
    told(desk, B, temperature_c=heat)
    assert next_task(desk, B).width == 1.0


def test_nobody_looks_at_heat_unless_asked_and_an_old_temperature_is_forgotten():
    desk = desk_of(A, B)
    told(desk, B, temperature_c=120.0)
    assert next_task(desk, B).width == 1.0
    desk = desk_of(A, B, hottest_c=80.0)
    told(desk, B, temperature_c=120.0)
    desk.now += 3601
    assert next_task(desk, B).width == 1.0


# --- traffic ------------------------------------------------------------------------------------


def test_traffic_of_a_day_is_limited_and_comes_back_after_a_day():
    # A round at full width moves 1000 bytes down and 1000 up; at 0.25 it is 500.
    desk = desk_of(A, B, C, rounds=LONG, traffic={C: 4300.0})
    widths = []
    for _ in range(5):
        task = desk.state.round.tasks.get(C)
        widths.append(task.task.width if task else 0.0)
        if task:
            size = int(1000 * task.task.width)
            desk.progress(C, Stage.STARTED, downloaded_bytes=size)
            desk.fetched(C, blob=desk.update_of(C).blob.__class__(**_sized(desk, C, size)))
        work(desk, A), work(desk, B)
        desk.scored()
    assert widths == [1.0, 1.0, 0.0, 0.0, 0.0]
    why = desk.state.round.opened.not_invited[C]
    assert why == (
        "traffic: a round moves 500 bytes at least: 300 of the 4300 bytes a day are left; those of"
        " an hour count for a day"
    )
    assert C in desk.state.round.opened.excused
    desk.now += 25 * 3600
    desk.round_()
    assert desk.state.round.tasks[C].task.width == 1.0
    assert desk.replayed() == desk.state


def _sized(desk, device, size):
    known = desk.update_of(device).blob
    return {
        "blob": known.blob,
        "size": size,
        "block_size": known.block_size,
        "plaintext": known.plaintext,
    }


def test_the_widest_width_that_the_bytes_allow_is_trained():
    desk = desk_of(A, B, traffic_per_day=1200.0)
    tasks = {name: task.task for name, task in desk.state.round.tasks.items()}
    assert {task.width for task in tasks.values()} == {0.5}
    assert tasks[A].reason == (
        "traffic: width 0.5 of the 1 that it could, whose round moves 2000 bytes: 1200 of the 1200"
        " bytes a day are left"
    )
    free = desk_of(A, B, traffic_per_day=1200.0, traffic={A: 0.0})
    assert free.state.round.tasks[A].task.width == 1.0


def test_a_release_and_a_refused_update_are_traffic_too():
    desk = desk_of(A, B, traffic_per_day=1e9, changes={"rewards": Rewards(ladder=WIDTHS)})
    desk.progress(A, Stage.STARTED, downloaded_bytes=7)
    desk.fetched(A, width=0.5)  # refused: another width than the task's
    assert moved(desk.device(A).traffic, desk.now) == 1007
    desk.progress(B, Stage.STARTED, downloaded_bytes=-(10**15))
    assert moved(desk.device(B).traffic, desk.now) == 0
    desk = desk_of(A, B, traffic_per_day=1e9, rounds={"budget": 1, "minimum": 1})
    desk.finish_training({A: 1.0, B: 1.0})
    desk.exported()
    before = moved(desk.device(A).traffic, desk.now)
    for state in (InstallState.INSTALLED, InstallState.CONFIRMED):
        deployed = desk.device(A).deployed
        report = Report(counter=deployed.counter, state=state, running=deployed.digest)
        desk.say(i.ReportReceived(A, report))
    size = desk.state.releases[deployed.digest][1].size
    assert moved(desk.device(A).traffic, desk.now) - before == size


@given(st.lists(st.tuples(st.floats(0, 40 * HOUR_S), st.integers(-5, 1000)), max_size=30))
def test_what_counts_is_all_of_the_last_day_and_at_most_an_hour_more(given_bytes):
    given_bytes.sort()
    traffic, now = (), 40 * HOUR_S
    for at, size in given_bytes:
        traffic = with_traffic(traffic, size, at)
    assert len(traffic) <= 26

    def since(hours):
        return sum(max(0, size) for at, size in given_bytes if at > now - hours * HOUR_S)

    assert since(24) <= moved(traffic, now) <= since(25.0001)


# --- profiles that lie --------------------------------------------------------------------------


def liar_desk(true_factor, rounds=20):
    """Play rounds with a device that claims to be so many times as fast as it is."""
    desk = desk_of(A, B, C, rounds={"deadline_s": 100.0, "budget": 99, "minimum": 99})
    costs = tuple(WidthCost(width=width, step_s=width / 4, peak_bytes=1) for width in WIDTHS)
    desk.profiled(C, profile(costs=costs))
    outcomes = []
    for number in range(rounds):
        desk.fetched(A), desk.fetched(B)
        task = desk.state.round.tasks.get(C)
        if task is None:
            outcomes.append("rests")
        else:
            opened_at, pace = desk.state.round.opened_at, desk.device(C).pace
            needs_s = true_factor * task.task.predicted_s / pace
            if needs_s < 100.0:
                desk.wait(max(0.0, opened_at + needs_s - desk.now))
                desk.fetched(C)
                outcomes.append("in time")
            else:
                desk.wait(100.0)
                outcomes.append("late")
        desk.scored()
        assert desk.state.round.number == number + 2
    assert desk.replayed() == desk.state
    return desk, outcomes


@pytest.mark.parametrize("factor", [200.0, 400.0, 500.0])
def test_a_device_that_boasts_a_hundredfold_is_found_out_and_given_what_it_can(factor):
    desk, outcomes = liar_desk(factor)
    assert outcomes.count("late") <= 12
    assert outcomes[-4:] == ["in time"] * 4
    assert desk.device(C).late_in_a_row == 0
    assert desk.device(C).width < 1 or desk.device(C).steps


def test_a_device_that_is_late_whatever_it_is_given_rests_longer_each_time():
    desk, outcomes = liar_desk(1e6, rounds=60)
    assert "in time" not in outcomes
    # The rests double up to sixteen rounds, so that the fleet waits for it ever more rarely.
    assert outcomes[25:].count("late") <= 3
    rests = desk.state.round.opened.not_invited[C]
    assert "of them with as little to do as there is: it is tried again in round" in rests
    assert standing(desk, C).participation is Participation.WAITING


def test_a_late_device_with_a_new_profile_has_to_be_in_time_before_it_is_believed():
    desk = desk_of(A, B, C, rounds={"deadline_s": 100.0})
    for boast in range(1, 9):
        costs = tuple(
            WidthCost(width=width, step_s=width / (4 + boast), peak_bytes=1) for width in WIDTHS
        )
        desk.profiled(C, profile(costs=costs))
        desk.fetched(A), desk.fetched(B)
        desk.wait(100.0)
        desk.scored()
        if boast >= LATE_IN_A_ROW:
            assert desk.device(C).pace > 1.9
    assert desk.device(C).width < 1.0, "another profile for each round does not hide it"


@given(st.floats(0.25, LATEST), st.floats(1e-3, 1e3), st.floats(1, 1e3), st.integers(1, 50))
def test_lateness_in_a_row_at_least_doubles_the_pace_within_its_bounds(ratio, asked, had, row):
    pace = after_late(ratio, asked, had, row)
    assert 0.25 <= pace <= LATEST
    if row >= LATE_IN_A_ROW:
        assert pace >= min(LATEST, 2 * ratio)


# --- fleets that can do nothing -----------------------------------------------------------------


def test_a_fleet_of_devices_that_are_all_too_weak_says_so_in_its_status():
    desk = desk_of(rounds={"min_devices": 2})
    for device in (A, B):
        desk.join(device, memory_budget=1)
    desk.wait(1e5)
    said = summary(desk.state, desk.settings).detail
    assert said.startswith("no round opens: 0 of the 2 devices of the quorum can train and are")
    assert "lathe: no width fits: 0.25 would need 1 of the 0 MiB allowed" in said
    assert standing(desk, A).participation is Participation.CANNOT


def test_a_deadline_that_nobody_can_meet_is_told_before_any_round():
    desk = desk_of(rounds={"min_devices": 2, "deadline_s": 0.001})
    desk.join(A), desk.join(B)
    desk.wait(1e5)
    said = summary(desk.state, desk.settings).detail
    assert "press: no width fits: 0.25 would take 0.4 s of the 0.0 s allowed" in said
    desk.profiled(A, profile(costs=(WidthCost(width=0.25, step_s=1e-5, peak_bytes=1),)))
    assert "1 of the 2 devices of the quorum can train" in (
        summary(desk.state, desk.settings).detail
    )


def test_between_rounds_the_status_says_who_is_missing():
    desk = desk_of(A, B)
    desk.lease(B, e.LinkState.OFFLINE)
    desk.round_()
    said = summary(desk.state, desk.settings).detail
    assert said == (
        "no round opens: 1 of the 2 devices of the quorum can train and are there;"
        " lathe: link is offline"
    )
