"""The deadline that gives the best expected progress a second, under a floor."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import WidthCost
from coordinator.deadline import Option, best_deadline
from coordinator.settings import Rewards, Training, WidthPolicy
from journal import events as e
from tests.fakes.office import WIDTHS, Office, settings


def progress(devices, deadline_s):
    """Return what all devices train by a deadline, without any cleverness."""
    return sum(
        max((one.work for one in options if one.deadline_s <= deadline_s), default=0.0)
        for options in devices
    )


def taking_part(devices, deadline_s):
    return sum(any(one.deadline_s <= deadline_s for one in options) for options in devices)


def by_brute_force(devices, longest_s, needed, between_s):
    """Try every deadline in hundredths of a second."""
    best = 0.0
    for deadline_s in (hundredth / 100 for hundredth in range(1, int(longest_s * 100) + 1)):
        if taking_part(devices, deadline_s) >= needed:
            best = max(best, progress(devices, deadline_s) / (deadline_s + between_s))
    return best


options = st.lists(
    st.builds(
        Option,
        st.integers(1, 2000).map(lambda hundredth: hundredth / 100),
        st.integers(1, 1000).map(float),
    ),
    max_size=4,
)


@given(
    st.lists(options, min_size=1, max_size=5),
    st.floats(0, 1),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.5, 10.0]),
)
def test_no_deadline_at_all_gives_more_progress_a_second(devices, floor, least, between_s):
    longest_s = 15.0
    found = best_deadline(
        devices, longest_s=longest_s, floor=floor, least_devices=least, between_s=between_s
    )
    capable = taking_part(devices, longest_s)
    if not capable:
        assert found is None
        return
    needed = max(1, math.ceil(floor * capable - 1e-9), min(least, capable))
    assert found.capable == capable
    assert found.taking_part == taking_part(devices, found.deadline_s) >= needed
    assert found.rate == pytest.approx(by_brute_force(devices, longest_s, needed, between_s))
    assert found.rate == pytest.approx(
        progress(devices, found.deadline_s) / (found.deadline_s + between_s)
    )
    assert found.longest_rate == pytest.approx(
        progress(devices, longest_s) / (longest_s + between_s)
    )


FAST = [Option(1.0, 10.0), Option(2.0, 30.0)]
SLOW = [Option(20.0, 1.0), Option(100.0, 10.0)]


def test_the_floor_decides_whether_a_fleet_waits_for_its_slowest():
    devices = [FAST, FAST, SLOW]
    everybody = best_deadline(devices, longest_s=60.0)
    assert (everybody.deadline_s, everybody.taking_part) == (20.0, 3)
    most = best_deadline(devices, longest_s=60.0, floor=0.6)
    assert (most.deadline_s, most.taking_part, most.rate) == (2.0, 2, 30.0)


def test_the_quorum_must_be_able_to_take_part_whatever_the_floor():
    devices = [FAST, SLOW, SLOW]
    assert best_deadline(devices, longest_s=60.0, floor=0.0).taking_part == 1
    assert best_deadline(devices, longest_s=60.0, floor=0.0, least_devices=2).taking_part == 3


def test_who_cannot_make_it_in_the_longest_round_is_not_waited_for():
    found = best_deadline([FAST, SLOW], longest_s=10.0, least_devices=2)
    assert (found.deadline_s, found.capable) == (2.0, 1)
    assert best_deadline([SLOW], longest_s=10.0) is None
    assert best_deadline([[]], longest_s=10.0) is None


def test_time_between_rounds_makes_longer_rounds_worth_it():
    device = [Option(1.0, 10.0), Option(10.0, 50.0)]
    assert best_deadline([device], longest_s=60.0).deadline_s == 1.0
    assert best_deadline([device], longest_s=60.0, between_s=10.0).deadline_s == 10.0


def test_a_deadline_stays_until_another_is_better_by_more_than_the_hysteresis():
    def chosen(work, held_s):
        device = [Option(2.0, 10.0), Option(4.0, work)]
        return best_deadline([device], longest_s=60.0, held_s=held_s, hysteresis=0.1).deadline_s

    assert chosen(21.0, 0.0) == 4.0
    assert chosen(21.0, 2.0) == 2.0
    assert chosen(23.0, 2.0) == 4.0
    assert chosen(19.0, 4.0) == 4.0
    assert chosen(21.0, 100.0) == 4.0, "longer than the longest is not kept"
    assert chosen(21.0, 1.0) == 4.0, "nobody could take part in that"


def test_no_deadline_is_shorter_than_what_messages_take():
    assert best_deadline([[Option(0.01, 1.0)]], longest_s=60.0, shortest_s=2.0).deadline_s == 2.0
    assert best_deadline([[Option(0.01, 1.0)]], longest_s=1.0, shortest_s=2.0).deadline_s == 1.0


# --- a campaign ---------------------------------------------------------------------------------


def costs(full):
    return tuple(WidthCost(width=width, step_s=full * width, peak_bytes=1) for width in WIDTHS)


def desk_of(*seconds, floor=1.0, rounds=None, **changes):
    known = {"min_devices": len(seconds), "budget": 8, "minimum": 8, "deadline_s": 100.0}
    chosen = settings(
        rounds=known | {"deadline": "chosen"} | (rounds or {}),
        width_policy=WidthPolicy(participation_floor=floor),
        **changes,
    )
    desk = Office(chosen).begin()
    for place, full in enumerate(seconds):
        desk.join(f"device-{place}", costs=costs(full))
    return desk


def test_a_round_opens_with_the_chosen_deadline_and_says_why():
    desk = desk_of(1.0, 1.0, 1.0)
    opened = desk.state.round.opened
    # Two steps, two to set up, each 0.625 s on average at full width, and half as much again while
    # nothing is known of how much rounds differ.
    assert opened.budget_s == pytest.approx(1.5 * 4 * 0.625, abs=0.01)
    assert {task.width for task in opened.tasks} == {1.0}
    assert opened.reason.startswith(
        "deadline 3.75 s: 3 of 3 devices can take part, and 400 parameters are trained a second;"
        " 100 s, the longest, would give 15"
    )
    assert desk.replayed() == desk.state


def test_widths_and_steps_follow_from_the_deadline_with_their_reasons():
    desk = desk_of(0.1, 0.1, 20.0)
    opened = desk.state.round.opened
    tasks = {task.device: task for task in opened.tasks}
    assert len(tasks) == 3, "the floor is everybody"
    slow = desk.device("device-2")
    assert (slow.width, slow.steps) == (0.25, 1)
    assert slow.reason == (
        "width 0.25 with 1 of 2 steps: 0.25 takes 24.0 s of the 18.0 s allowed; there must be room"
        " for rounds 1.50 times as long as predicted"
    )
    assert opened.budget_s == pytest.approx(3 * 5.0 * 1.5, abs=0.01)
    assert tasks["device-0"].width == 1.0
    for task in opened.tasks:
        assert task.predicted_s <= 0.8 * opened.budget_s + 1e-6


def test_below_the_floor_the_slowest_rest_and_are_told_why():
    desk = desk_of(0.1, 0.1, 20.0, floor=0.6)
    opened = desk.state.round.opened
    assert {task.device for task in opened.tasks} == {"device-0", "device-1"}
    assert opened.budget_s < 5
    assert opened.resting == ("device-2",)
    assert opened.excused == (), "that it is slow is no limit of the operator's"
    why = opened.not_invited["device-2"]
    assert "its shortest round takes 15.0 s" in why
    assert "that was chosen for this round" in why


def test_a_device_that_turns_out_slower_trains_narrower_and_the_deadline_does_not_flap():
    desk = desk_of(1.0, 1.0)
    first = desk.state.round.opened.budget_s
    for _ in range(4):
        desk.fetched("device-0")
        desk.wait(0.99 * desk.state.round.opened.budget_s)
        desk.fetched("device-1")
        desk.scored()
    assert desk.device("device-1").pace > 1.1
    slower = desk.device("device-1")
    assert slower.width < 1.0
    assert "of the 3.0 s allowed; its rounds take" in slower.reason
    assert {event.budget_s for event in desk.of(e.RoundOpened)} == {first}
    assert desk.replayed() == desk.state


def test_a_fixed_deadline_has_nothing_to_explain():
    desk = desk_of(1.0, 1.0, rounds={"deadline": "fixed"})
    assert (desk.state.round.opened.budget_s, desk.state.round.opened.reason) == (100.0, "")


def test_an_entitlement_caps_what_a_longer_round_would_give():
    rewards = Rewards(mode="training-time", ladder=(0.125, *WIDTHS))
    free, capped = desk_of(1.0, 1.0), desk_of(1.0, 1.0, rewards=rewards)
    assert capped.state.round.opened.budget_s < free.state.round.opened.budget_s
    assert {task.width for task in capped.state.round.opened.tasks} == {0.25}


@given(st.lists(st.floats(0.01, 30), min_size=2, max_size=6), st.floats(0, 1))
def test_whoever_is_invited_is_predicted_to_be_in_time(seconds, floor):
    desk = desk_of(*seconds, floor=floor)
    opened = desk.state.round.opened
    assert 0 < opened.budget_s <= 100
    for task in opened.tasks:
        assert task.predicted_s <= 0.8 * opened.budget_s * 1.1 + 1e-3
    capable = sum(0.25 * full * 3 <= 80 for full in seconds)
    assert len(opened.tasks) >= max(2, math.ceil(floor * capable - 1e-9))
    named = [task.device for task in opened.tasks]
    assert sorted(itertools.chain(named, opened.not_invited)) == sorted(desk.state.devices)


@pytest.mark.parametrize("samples", [-(2**63), -1, 0, 2**63 - 1])
@pytest.mark.parametrize("step_s", [1e-300, 1e300])
def test_numbers_without_measure_leave_a_deadline_and_a_reason(samples, step_s):
    desk = desk_of(1.0, 1.0, training=Training(steps=2, epochs=1.0), rounds={"min_devices": 3})
    odd = (WidthCost(width=0.25, step_s=step_s, peak_bytes=1),)
    desk.join("odd", costs=odd, samples=samples, link_bytes_per_s=1e-300)
    desk.wait(30.0)
    opened = desk.state.round.opened
    assert 0 < opened.budget_s <= 100
    assert {"device-0", "device-1"} <= {task.device for task in opened.tasks}
    assert "no width fits" in desk.device("odd").reason
    assert desk.replayed() == desk.state
