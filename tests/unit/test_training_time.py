"""Rewards that bind while training: no task is wider than its device is entitled to by then."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codec import encode
from broker.messages import WidthCost
from broker.topics import DownTopic, ServerSays, ServerTells, ServerTopic
from coordinator.duties import SharedWeights, shared
from coordinator.entitlement import entitlements
from coordinator.publications import publications
from coordinator.settings import Rewards
from journal import events as e
from tests.fakes.office import MIB, Office, curve, profile, risen, settings, share_of

A, B, C = "press", "lathe", "mill"
LADDER = (0.125, 0.25, 0.5, 0.75, 1.0)
GRID = (0.25, 0.5, 0.75, 1.0)


def office(*devices, first=0.0, rounds=None, **widest):
    waits = {"min_devices": max(2, len(devices)), "budget": 6, "minimum": 6} | (rounds or {})
    rewards = Rewards(mode="training-time", ladder=LADDER, first_entitlement=first)
    return Office(settings(rounds=waits, rewards=rewards)).begin(*devices, **widest)


def widths(desk):
    return {task.device: task.width for task in desk.state.round.opened.tasks}


def said(desk, key=lambda wanted: share_of(wanted).key):
    shares = {wanted: replace(share_of(wanted), key=key(wanted)) for wanted in shared(desk.state)}
    return publications(desk.state, shares, lambda *_: None)


def reward(device, width, contribution, equals=()):
    return e.Reward(
        device=device,
        contribution=contribution,
        share=1.0,
        value=0.5,
        target=0.5,
        width=width,
        score=0.5,
        reason="",
        equals=equals,
    )


# --- the caps -----------------------------------------------------------------------------------


def test_a_cap_is_the_widest_training_width_within_the_reward():
    found = entitlements([reward(A, 1.0, 3.0), reward(B, 0.7, 2.0), reward(C, 0.125, 1.0)], GRID)
    assert found == {A: 1.0, B: 0.5, C: 0.25}


def test_the_largest_contributor_may_always_train_the_full_width():
    assert entitlements([reward(A, 0.5, 3.0), reward(B, 0.5, 2.0)], GRID) == {A: 1.0, B: 0.5}


def test_whoever_does_not_differ_from_the_largest_contributor_has_its_cap():
    rewards = [reward(A, 0.5, 3.0, (B,)), reward(B, 0.5, 2.9, (A,)), reward(C, 0.25, 1.0)]
    assert entitlements(rewards, GRID) == {A: 1.0, B: 1.0, C: 0.25}


def test_below_the_cut_off_a_device_keeps_the_narrowest_width():
    assert entitlements([reward(A, 1.0, 3.0), reward(B, 0.0, 0.0)], GRID)[B] == 0.25


def test_where_nobody_contributed_there_is_no_largest_contributor():
    assert entitlements([reward(A, 0.0, 0.0), reward(B, 0.0, -1.0)], GRID) == {A: 0.25, B: 0.25}
    assert entitlements([], GRID) == {}


@given(
    st.lists(st.tuples(st.sampled_from((0.0, *LADDER)), st.floats(-1, 1)), min_size=1, max_size=8)
)
def test_every_cap_is_of_the_grid_and_only_the_best_may_exceed_its_reward(pairs):
    rewards = [reward(str(n), width, score) for n, (width, score) in enumerate(pairs)]
    found = entitlements(rewards, GRID)
    best = max((one.contribution for one in rewards if one.width), default=None)
    for one in rewards:
        assert found[one.device] in GRID
        if one.contribution != best:
            assert found[one.device] <= max(one.width, 0.25)


# --- rounds -------------------------------------------------------------------------------------


def test_before_anything_is_known_everybody_trains_the_first_entitlement():
    assert set(widths(office(A, B, C)).values()) == {0.25}
    assert set(widths(office(A, B, C, first=0.5)).values()) == {0.5}


def test_a_device_trains_no_more_than_it_can_whatever_it_is_entitled_to():
    desk = office(A, B, C, first=1.0, mill=0.5)
    assert widths(desk) == {A: 1.0, B: 1.0, C: 0.5}


def test_after_each_scored_round_one_revision_caps_the_next():
    desk = office(A, B, C)
    events = desk.round_({A: 0.6, B: 0.3, C: 0.0})
    assert [type(one).__name__ for one in events] == [
        "RoundScored",
        "EntitlementsRevised",
        "RoundOpened",
    ]
    revised = events[1]
    assert revised.round == 1
    assert {one.device for one in revised.rewards} == {A, B, C}
    assert widths(desk) == revised.widths
    assert widths(desk)[A] == 1.0
    assert 0.25 <= widths(desk)[B] < 1.0
    assert widths(desk)[C] == 0.25


def test_a_cap_falls_with_the_contributions_and_rises_with_them():
    desk = office(A, B)
    seen = []
    for number, scores in enumerate(({A: 0.5, B: 0.02}, {A: 0.5, B: 3.0}, {A: 9.0, B: 0.1}), 1):
        desk._answer()
        desk.scored(scores, points=risen(number / 3))
        seen.append((widths(desk)[A], widths(desk)[B]))
    assert [a for a, _ in seen] == [1.0, pytest.approx(seen[1][0]), 1.0]
    assert seen[0][1] == 0.25
    assert seen[1][1] == 1.0
    assert seen[1][0] < 1.0
    assert seen[2][1] < 1.0


def test_equal_devices_all_train_the_full_width():
    desk = office(A, B, C)
    desk.round_({A: 0.2, B: 0.2, C: 0.2})
    assert widths(desk) == {A: 1.0, B: 1.0, C: 1.0}


def test_one_device_is_its_own_best_contributor():
    desk = office(A, rounds={"quorum": 1, "min_devices": 1})
    desk.round_({A: 0.2})
    assert widths(desk) == {A: 1.0}


def test_where_nobody_helps_everybody_stays_at_the_narrowest():
    desk = office(A, B)
    desk.round_({A: 0.0, B: -0.1})
    assert set(widths(desk).values()) == {0.25}


def test_a_device_that_comes_later_starts_at_the_first_entitlement():
    desk = office(A, B)
    desk.join(C)
    desk.round_({A: 0.2, B: 0.2})
    assert widths(desk) == {A: 1.0, B: 1.0, C: 0.25}


def test_a_missed_round_revises_nothing():
    desk = office(A, B, rounds={"quorum": 2})
    desk.round_({A: 0.6, B: 0.01})
    before = widths(desk)
    desk.wait(10.0)
    desk.wait(5.0)
    assert desk.state.round.number == 3
    assert widths(desk) == before
    assert len(desk.of(e.EntitlementsRevised)) == 1


def test_the_revision_is_made_after_a_crash_that_came_before_it():
    desk = office(A, B)
    desk.round_({A: 0.6, B: 0.01})
    caps = dict(desk.state.entitled)
    cut = next(n for n, (event, _) in enumerate(desk.log) if isinstance(event, e.RoundScored))
    desk.log = desk.log[: cut + 1]
    desk.state = desk.replayed()
    assert desk.state.entitled == {}
    desk.start()
    assert desk.state.entitled == caps
    assert desk.state.round.number == 2
    assert desk.replayed() == desk.state


def test_in_post_training_mode_nothing_is_revised():
    desk = Office(settings()).begin(A, B)
    desk.round_({A: 0.6, B: 0.01})
    assert desk.of(e.EntitlementsRevised) == []
    assert set(widths(desk).values()) == {1.0}


def test_the_final_rewards_follow_the_same_rule_as_the_last_revision():
    desk = office(A, B, C).finish_training({A: 0.6, B: 0.3, C: 0.0})
    assert desk.state.revision.rewards == desk.state.allocation.rewards
    assert desk.state.revision.round == desk.state.allocation.round


def test_predicted_times_are_those_of_the_width_that_is_trained():
    costs = tuple(WidthCost(width=w, step_s=w, peak_bytes=MIB) for w in GRID)
    desk = Office(
        settings(rewards=Rewards(mode="training-time", ladder=LADDER), rounds={"min_devices": 2})
    ).begin()
    for device in (A, B):
        desk.lease(device)
        desk.profiled(device, profile(costs=costs))
    narrow = desk.state.round.opened.tasks[0]
    assert (narrow.width, narrow.predicted_s) == (0.25, pytest.approx(4 * 0.25, rel=0.01))
    desk.round_({A: 0.2, B: 0.2})
    wide = desk.state.round.opened.tasks[0]
    assert wide.width == 1.0
    # Two steps and two for setting up; each draws one of the four widths.
    assert wide.predicted_s == pytest.approx(4 * sum(GRID) / 4, rel=0.01)


# --- what is said -------------------------------------------------------------------------------


def test_the_server_says_which_mode_it_trains_in():
    state = said(office(A, B))[ServerTopic(ServerTells.STATE)]
    assert "training-time" in state.notice
    assert "entitled" in state.notice


def test_a_standing_says_what_holds_the_training_width_down():
    desk = office(A, B, C)
    found = said(desk)[DownTopic(A, ServerSays.STANDING)]
    assert found.training_width == 0.25
    assert found.width_reasons["training"] == (
        "width 0.25 of the 1 that it could: entitled to no more before its contribution is known"
    )
    desk.round_({A: 0.6, B: 0.3, C: 0.0})
    top, rider = (said(desk)[DownTopic(name, ServerSays.STANDING)] for name in (A, C))
    assert top.training_width == 1.0
    assert "full width fits" in top.width_reasons["training"]
    assert "by its contribution so far" in rider.width_reasons["training"]
    assert "when training is over" in rider.width_reasons["entitled"]


def test_no_device_ever_gets_the_key_of_a_width_above_its_entitlement():
    def key_of(wanted):
        return f"{wanted.width:032.4f}".encode() if isinstance(wanted, SharedWeights) else b"-" * 32

    desk = office(A, B, C)
    for scores in ({A: 0.6, B: 0.3, C: 0.0}, {A: 0.1, B: 2.0, C: 0.0}, {C: 5.0}):
        caps = {name: desk.state.entitled.get(name, 0.25) for name in (A, B, C)}
        for topic, body in said(desk, key_of).items():
            if body is None:
                continue
            sent = encode(body)
            for width in GRID:
                key = key_of(SharedWeights(1, width, ""))
                allowed = (
                    isinstance(topic, DownTopic)
                    and topic.channel is ServerSays.TASK
                    and width <= caps[topic.device]
                )
                assert key not in sent or allowed, (topic, width)
        desk.round_(scores)


def test_a_ladder_with_nothing_worth_offering_gives_its_best_width_and_says_so():
    desk = office(A, B)
    for device in (A, B):
        desk.fetched(device)
    points = [replace_offer(point) for point in curve()]
    desk.scored({A: 0.5, B: 0.5}, points=tuple(points))
    revised = desk.state.revision
    assert {one.width for one in revised.rewards} == {1.0}
    assert "no width is worth offering" in revised.note


def replace_offer(point):
    return e.CurvePoint(
        width=point.width,
        score=point.score,
        low=point.low,
        high=point.high,
        offered=False,
        fitted=point.score,
        why="scores no better than the untrained model",
    )
