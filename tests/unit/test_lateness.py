"""Updates that come after their round: what they count for, and that nobody gains by being late."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import DropReason, Stage, Verdict
from coordinator import inputs as i
from coordinator.admission import admit
from coordinator.duties import Export, Score, SharedWeights, job, needed_blobs, shared
from coordinator.fleet import Phase
from coordinator.fleet_summary import summary
from coordinator.job_orders import score_job
from coordinator.lateness import staleness_weight
from coordinator.publications import publications
from coordinator.settings import (
    Aggregation,
    Contributions,
    Rewards,
    Rounds,
    Settings,
    Training,
)
from coordinator.settings_checks import SettingsError
from journal import events as e
from tests.fakes.office import (
    LIMIT,
    OFFLINE,
    ONLINE,
    Office,
    blob,
    digest,
    risen,
    settings,
    share_of,
)

A, B, C, D = "press", "lathe", "mill", "fan"
FOUR = (D, B, C, A)
USE = {"late": "use", "budget": 20, "minimum": 20, "patience": 20, "min_devices": 4}
BUFFERED = USE | {"mode": "buffered", "late": "drop", "buffer": 2}


def office(*devices, rounds=None, **changes):
    chosen = USE | {"min_devices": len(devices)} | (rounds or {})
    return Office(settings(rounds=chosen, **changes)).begin(*devices)


def buffered(*devices, **rounds):
    return office(*devices, rounds=BUFFERED | {"min_devices": len(devices)} | rounds)


def kinds(events):
    return [type(event).__name__ for event in events]


def dropped(events):
    return {event.device: event.reason for event in events if isinstance(event, e.DeviceDropped)}


def answered(desk, *devices):
    return [event for device in devices for event in desk.fetched(device)]


def task_of(desk, device):
    shares = {wanted: share_of(wanted) for wanted in shared(desk.state)}
    said = publications(desk.state, shares, lambda document, kind: None)
    [task] = [
        message for topic, message in said.items() if str(topic) == str(_down(device)) and message
    ] or [None]
    return task


def _down(device):
    from broker.topics import DownTopic, ServerSays

    return DownTopic(device, ServerSays.TASK)


# --- the weight ---------------------------------------------------------------------------------


def test_the_weight_is_the_polynomial_of_fedasync():
    assert staleness_weight(0, 0.5) == 1.0
    assert staleness_weight(3, 0.5) == 0.5
    assert staleness_weight(3, 1.0) == 0.25
    assert staleness_weight(7, 0.0) == 1.0


@given(st.integers(0, 1000), st.floats(0, 10))
def test_what_is_later_never_counts_more(staleness, exponent):
    weight = staleness_weight(staleness, exponent)
    assert 0 <= staleness_weight(staleness + 1, exponent) <= weight <= 1


# --- a synchronous round ------------------------------------------------------------------------


def late_fan(**changes):
    """Round 1 is closed without the fan, which is still at it."""
    desk = office(*FOUR, **changes)
    answered(desk, A, B, C)
    desk.progress(D, Stage.STARTED)
    desk.wait(10.0)
    return desk


def test_who_is_late_is_not_absent_and_owes_its_update():
    desk = late_fan()
    [closed] = desk.of(e.RoundClosed)
    assert (closed.aggregated, closed.owed) == ((B, C, A), (D,))
    assert not desk.of(e.DeviceDropped)
    assert (desk.device(D).rounds_missed, desk.device(D).last_drop) == (0, "")


def test_a_late_update_counts_in_the_next_aggregate_and_its_device_is_told_so():
    desk = late_fan()
    desk.scored()
    assert set(desk.state.round.tasks) == {A, B, C}
    assert desk.state.round.opened.not_invited == {D: "still at round 1"}
    assert desk.state.round.opened.not_drawn == (), "it is not excused"
    [accepted] = desk.fetched(D)
    assert (accepted.round, accepted.round_s) == (1, 10.0)
    record = desk.device(D).receipt
    assert (record.round, record.verdict) == (1, Verdict.ACCEPTED)
    answered(desk, A, B, C)
    closed = desk.of(e.RoundClosed)[-1]
    assert closed.late == (e.LateStep(device=D, round=1, staleness=1, weight=2**-0.5),)
    assert closed.reason == "3 of 3 updates in 0.0 s and 1 of earlier rounds"
    assert desk.device(D).rounds_taken == 1
    desk.scored()
    assert desk.state.contribution(D) == 0.1
    assert desk.replayed() == desk.state


def test_the_job_takes_it_as_a_change_against_the_weights_it_was_trained_on():
    desk = late_fan()
    desk.scored()
    answered(desk, D, A, B, C)
    order = score_job(desk.state)
    assert (order.base, order.round) == (digest("round 1"), 2)
    assert [one.player for one in order.updates] == [B, C, A, f"{D}@1"]
    late = order.updates[-1]
    assert (late.base, late.staleness, late.factor) == (digest("round 0"), 1, 2**-0.5)
    assert late.weight == 1.0, "it is its change that is scaled: a mean would undo a weight"


def test_a_round_waits_for_those_who_are_still_at_an_earlier_one_but_not_beyond_its_deadline():
    desk = late_fan()
    desk.scored()
    assert "RoundClosed" not in kinds(answered(desk, A, B, C))
    assert kinds(desk.fetched(D)) == ["UpdateAccepted", "RoundClosed"]
    desk = late_fan()
    desk.scored()
    answered(desk, A, B, C)
    assert desk.wait(9.9) == []
    assert "RoundClosed" in kinds(desk.wait(0.2))
    assert set(desk.state.owed) == {D}, "it still counts in the one after that"


def test_nobody_waits_for_a_device_that_is_away_but_what_it_brings_later_counts():
    desk = late_fan()
    desk.lease(D, OFFLINE)
    desk.scored()
    assert kinds(answered(desk, A, B, C))[-1] == "RoundClosed"
    desk.scored()
    desk.lease(D, ONLINE)
    answered(desk, D, A, B, C)
    assert desk.of(e.RoundClosed)[-1].late[0].staleness == 2


def test_a_device_that_sent_its_late_update_while_a_round_was_measured_may_be_in_the_next_twice():
    desk = late_fan()
    desk.fetched(D)
    assert desk.state.phase is Phase.SCORING
    desk.scored()
    assert set(desk.state.round.tasks) == set(FOUR)
    answered(desk, *FOUR)
    order = score_job(desk.state)
    assert [one.player for one in order.updates] == [D, B, C, A, f"{D}@1"]
    assert desk.device(D).rounds_taken == 2, "it worked in both"
    [closed] = [one for one in desk.of(e.RoundClosed) if one.late]
    assert D in closed.aggregated
    desk.scored()
    assert desk.state.late == ()
    assert desk.replayed() == desk.state


@pytest.mark.parametrize("rule", ["trimmed-mean", "median"])
def test_where_voices_are_compared_a_device_has_one_and_the_newer_speaks(rule):
    desk = late_fan(aggregation=Aggregation(rule=rule))
    desk.fetched(D)
    desk.scored()
    events = answered(desk, *FOUR)
    assert dropped(events) == {D: DropReason.SURPLUS}
    assert [one.player for one in score_job(desk.state).updates] == [D, B, C, A]
    assert desk.device(D).rounds_missed == 0
    assert desk.state.late == ()


def test_an_update_that_is_too_stale_is_given_up_and_refused_with_a_reason():
    desk = buffered(*FOUR, buffer=3, staleness_limit=1)
    desk.progress(D, Stage.STARTED)
    answered(desk, A, B, C)
    desk.scored()
    events = answered(desk, A, B, C)
    assert dropped(events) == {D: DropReason.LATE}
    assert desk.device(D).last_drop == (
        "round 1: late (the weights have moved 2 times since, rounds.staleness_limit is 1,"
        " last stage: started)"
    )
    assert desk.device(D).rounds_missed == 1
    refused = desk.say(i.UpdateAnnounced(D, desk.update_of(D, round=1), LIMIT))
    assert [event.reason for event in refused] == [DropReason.LATE]
    desk.scored()
    assert D in desk.state.round.tasks, "it is invited again"


def test_a_round_below_the_quorum_moves_no_weights_so_its_late_updates_are_not_stale():
    desk = office(A, B)
    desk.fetched(A)
    events = desk.wait(10.0)
    assert kinds(events)[-1] == "RoundClosed"
    desk.fetched(B)
    desk.wait(5.0)
    assert set(desk.state.round.tasks) == {A, B}
    desk.fetched(A)
    desk.wait(10.0)
    closed = desk.of(e.RoundClosed)[-1]
    assert (closed.aggregated, closed.owed) == ((A,), (B,))
    assert closed.late == (e.LateStep(device=B, round=1, staleness=0, weight=1.0),)


def test_where_everybody_is_late_rounds_go_on_by_what_comes():
    desk = office(A, B)
    desk.wait(10.0)
    assert (desk.state.failures, set(desk.state.owed)) == (1, {A, B})
    assert kinds(answered(desk, A, B)) == ["UpdateAccepted"] * 2
    desk.wait(5.0)
    assert set(desk.state.round.tasks) == {A, B}
    desk.wait(10.0)
    closed = desk.of(e.RoundClosed)[-1]
    assert (closed.aggregated, len(closed.late)) == ((), 2)
    assert job(desk.state) == Score(2)
    assert desk.state.failures == 0
    desk.scored()
    assert desk.state.trained_rounds == 1


def test_two_late_updates_of_one_device_never_make_a_quorum():
    desk = office(A, B, rounds={"cohort": 2, "quorum": 2})
    answered(desk, B)
    desk.wait(10.0)
    desk.lease(B, OFFLINE)
    desk.fetched(A)
    assert desk.wait(5.0) == [], "one device in two roles is one device"
    assert desk.state.phase is Phase.GATHERING


def test_an_update_counts_once_however_often_it_comes():
    desk = late_fan()
    desk.scored()
    update = desk.update_of(D)
    stored = digest("stored")
    assert kinds(desk.say(i.UpdateFetched(D, update, LIMIT, stored))) == ["UpdateAccepted"]
    before = desk.state
    for again in (i.UpdateAnnounced(D, update, LIMIT), i.UpdateFetched(D, update, LIMIT, stored)):
        assert desk.say(again) == []
    assert desk.state == before
    other = desk.update_of(D, round=1, blob=blob("other"))
    refused = desk.say(i.UpdateFetched(D, other, LIMIT, digest("other")))
    assert [event.reason for event in refused] == [DropReason.LATE]
    assert len(desk.state.late) == 1
    answered(desk, A, B, C)
    desk.scored()
    assert desk.say(i.UpdateFetched(D, update, LIMIT, stored)) == [], "a replay rounds later"
    assert desk.state.late == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 0.5}, DropReason.WRONG_WIDTH),
        ({"spec_hash": "6" * 64}, DropReason.WRONG_SPEC),
        ({"loss": math.inf}, DropReason.NOT_FINITE),
        ({"blob": blob("x", size=LIMIT + 1)}, DropReason.BAD_BYTES),
    ],
)
def test_a_late_update_must_be_as_sound_as_any_other(changes, reason):
    desk = late_fan()
    desk.scored()
    events = desk.announced(D, **changes)
    assert dropped(events) == {D: reason}
    assert not desk.state.owed


def test_an_update_of_a_round_that_a_device_was_not_in_is_late_for_everybody():
    desk = late_fan()
    desk.scored()
    update = desk.update_of(A, round=1, blob=blob("again"))
    found = admit(desk.state, A, update, LIMIT)
    assert found is not None
    assert found[0] is DropReason.LATE


def test_its_task_and_weights_stand_on_the_broker_until_it_has_answered():
    desk = late_fan()
    before = task_of(desk, D)
    assert (before.round, before.budget_s) == (1, 110.0)
    desk.scored()
    assert task_of(desk, D) == before
    assert task_of(desk, A).round == 2
    assert SharedWeights(1, 1.0, digest("round 0")) in shared(desk.state)
    desk.fetched(D)
    assert task_of(desk, D) is None
    assert SharedWeights(1, 1.0, digest("round 0")) not in shared(desk.state)


def test_its_weights_and_its_update_are_kept_until_they_are_measured():
    desk = late_fan()
    desk.scored()
    answered(desk, A, B, C)
    desk.wait(10.0)
    desk.scored()
    assert digest("round 0") in needed_blobs(desk.state)
    [late] = [e_ for e_ in desk.fetched(D) if isinstance(e_, e.UpdateAccepted)]
    assert {late.digest, digest("round 0")} <= needed_blobs(desk.state)
    answered(desk, A, B, C)
    assert job(desk.state) == Score(3)
    assert {late.digest, digest("round 0")} <= needed_blobs(desk.state)
    desk.scored()
    assert not {late.digest, digest("round 0")} & needed_blobs(desk.state)


def test_what_the_model_did_since_its_weights_is_no_news_of_a_late_device():
    desk = late_fan()
    desk.scored()
    for _ in range(2):
        answered(desk, A, B, C)
        desk.wait(10.0)
        desk.scored()
    assert desk.state.earlier == tuple(digest(f"round {n}") for n in (2, 1, 0))
    answered(desk, D, A, B, C)
    order = score_job(desk.state)
    assert (order.known, order.known_to_late) == (
        (digest("round 2"),),
        (digest("round 1"), digest("round 0")),
    )
    assert order.updates[-1].staleness == 3
    desk.scored()
    assert desk.state.earlier == (digest("round 3"),)


def test_a_late_device_that_gives_up_or_is_suspended_owes_nothing_any_more():
    desk = late_fan()
    desk.scored()
    events = desk.progress(D, Stage.FAILED, 1, reason=DropReason.OUT_OF_MEMORY)
    assert dropped(events) == {D: DropReason.OUT_OF_MEMORY}
    assert (desk.state.owed, desk.device(D).rounds_missed) == ({}, 1)
    desk = late_fan()
    desk.scored()
    events = desk.command("suspend", D)
    assert dropped(events) == {D: DropReason.SUSPENDED}
    assert desk.of(e.DeviceDropped)[-1].round == 1
    assert not desk.state.owed


def test_who_never_answers_is_given_up_and_invited_again():
    desk = late_fan(rounds={"staleness_limit": 3})
    desk.command("pause-rounds", "")
    desk.scored()
    assert desk.wait(29.9) == []
    assert dropped(desk.wait(0.2)) == {D: DropReason.LATE}
    assert "no update within 40.0 s" in desk.device(D).last_drop
    desk.command("resume-rounds", "", "c2")
    assert D in desk.state.round.tasks


def test_who_was_away_all_the_time_is_given_up_as_offline():
    desk = late_fan(rounds={"staleness_limit": 1})
    desk.lease(D, OFFLINE)
    desk.scored()
    assert dropped(answered(desk, A, B, C)) == {D: DropReason.OFFLINE}


def test_the_pace_of_a_late_device_is_what_it_really_took():
    desk = late_fan()
    predicted = desk.state.owed[D].task.task.predicted_s
    before = desk.device(D).pace
    desk.scored()
    assert desk.device(D).pace == before
    desk.wait(3.0)
    desk.fetched(D)
    assert desk.device(D).pace > before
    assert desk.device(D).observed_s == (13.0,)
    assert predicted < 13.0


def test_training_ends_without_those_who_are_late_and_that_is_no_missed_round():
    desk = office(*FOUR, rounds={"budget": 2, "minimum": 2})
    answered(desk, A, B, C)
    desk.wait(10.0)
    desk.scored()
    answered(desk, A, B)
    desk.wait(10.0)
    desk.fetched(C)
    events = desk.scored()
    assert dropped(events) == {C: DropReason.SURPLUS, D: DropReason.SURPLUS}
    assert (desk.state.owed, desk.state.late) == ({}, ())
    assert isinstance(job(desk.state), Export)
    assert [desk.device(name).rounds_missed for name in (C, D)] == [0, 0]
    assert task_of(desk, D) is None
    assert [one.reason for one in desk.announced(D, round=1)] == [DropReason.LATE]


def test_an_assessment_has_no_late_updates():
    desk = office(*FOUR, contributions=Contributions(alone_rounds=2))
    answered(desk, A, B, C)
    events = desk.wait(20.0)
    assert dropped(events) == {D: DropReason.LATE}
    assert desk.of(e.RoundClosed)[0].owed == ()
    assert not desk.state.owed
    desk.assessed()
    assert task_of(desk, D).round == 2


def test_a_width_that_it_is_no_longer_entitled_to_is_not_handed_out_late():
    desk = office(*FOUR, rewards=Rewards(mode="training-time", ladder=(0.25, 0.5, 0.75, 1.0)))
    answered(desk, *FOUR)
    desk.scored(dict.fromkeys(FOUR, 0.2), points=risen(0.3))
    assert desk.state.round.tasks[D].task.width == 1.0
    answered(desk, A, B, C)
    begun = replace(desk.state)
    desk.wait(10.0)
    assert set(desk.state.owed) == {D}
    events = desk.scored(dict.fromkeys((A, B, C), 9.0), points=risen(0.9))
    assert desk.state.entitled[D] < 1.0
    assert dropped(events) == {D: DropReason.LATE}
    assert "was not begun, and it is entitled to no more than" in desk.device(D).last_drop
    desk.state = begun
    desk.progress(D, Stage.STARTED)
    desk.wait(10.0)
    desk.scored(dict.fromkeys((A, B, C), 9.0), points=risen(0.9))
    assert desk.state.entitled[D] < 1.0
    assert set(desk.state.owed) == {D}, "what it holds stays with it"


def test_the_server_dies_and_a_late_update_is_neither_lost_nor_doubled():
    desk = late_fan()
    desk.scored()
    desk.fetched(D)
    for step in ("open", "closed"):
        desk.state = desk.replayed()
        desk.start()
        assert [one.key for one in desk.state.late] == ([(D, 1)] if step == "open" else [])
        answered(desk, A, B, C)
    assert len(score_job(desk.state).updates) == 4
    desk.scored()
    assert desk.state.contribution(D) == 0.1


def test_by_default_late_updates_are_dropped_as_ever():
    assert (Rounds().late, Rounds().mode, Rounds().uses_late) == ("drop", "synchronous", False)
    desk = Office(settings(rounds={"min_devices": 3})).begin(A, B, C)
    answered(desk, A, B)
    assert dropped(desk.wait(10.0)) == {C: DropReason.LATE}
    assert desk.state.owed == {}
    assert desk.state.round.opened.late_s == 0


# --- buffered rounds ----------------------------------------------------------------------------


def test_a_buffered_round_closes_with_its_first_updates_and_the_others_train_on():
    desk = buffered(*FOUR)
    assert desk.state.round.opened.enough == 2
    assert kinds(answered(desk, A, C))[-1] == "RoundClosed"
    [closed] = desk.of(e.RoundClosed)
    assert (closed.aggregated, closed.owed) == ((C, A), (D, B))
    assert not desk.of(e.DeviceDropped)
    desk.scored()
    assert set(desk.state.round.tasks) == {A, C}, "the busy are not invited"
    assert kinds(answered(desk, B, A))[-1] == "RoundClosed", "late ones fill the buffer too"
    closed = desk.of(e.RoundClosed)[-1]
    assert (closed.aggregated, closed.owed) == ((A,), (C,))
    assert [(step.device, step.staleness) for step in closed.late] == [(B, 1)]
    desk.scored()
    assert set(desk.state.round.tasks) == {A, B}
    assert set(desk.state.owed) == {C, D}


def test_what_comes_while_a_round_is_measured_fills_the_buffer_of_the_next_one():
    desk = buffered(*FOUR)
    answered(desk, A, C)
    answered(desk, B, D)
    events = desk.scored()
    assert kinds(events) == ["RoundScored", "RoundOpened", "RoundClosed"]
    closed = desk.of(e.RoundClosed)[-1]
    assert (closed.aggregated, len(closed.late), closed.owed) == ((), 2, ())
    assert not desk.state.round.tasks, "the weights move at once: nobody is sent the old ones"
    desk.scored()
    assert set(desk.state.round.tasks) == set(FOUR)


def test_where_everybody_has_work_the_next_round_opens_with_the_first_that_is_free():
    desk = office(A, B)
    desk.wait(10.0)
    desk.wait(5.0)
    assert desk.state.phase is Phase.GATHERING
    assert summary(desk.state, desk.settings).detail == (
        "round 1 missed its quorum; no round opens: 0 of the 2 devices of the quorum can train and"
        " are there; lathe: still at round 1; press: still at round 1"
    )
    assert kinds(desk.fetched(A)) == ["UpdateAccepted", "RoundOpened"]
    assert set(desk.state.round.tasks) == {A}
    assert kinds(desk.fetched(B)) == ["UpdateAccepted"]
    assert kinds(desk.fetched(A)) == ["UpdateAccepted", "RoundClosed"]
    assert len(desk.state.round.late) == 2


def test_a_device_of_a_buffered_round_is_given_up_at_the_deadline_of_its_own_round():
    desk = buffered(*FOUR)
    desk.now += 4.0
    answered(desk, A, C)
    desk.scored()
    assert task_of(desk, B).budget_s == 10.0
    answered(desk, A)
    events = desk.wait(6.0)
    assert dropped(events) == {B: DropReason.LATE, D: DropReason.LATE}
    assert "no update within 10.0 s" in desk.device(B).last_drop


def test_a_buffered_round_that_nobody_can_fill_closes_with_its_quorum_at_the_deadline():
    desk = buffered(*FOUR, buffer=4)
    answered(desk, A, C)
    assert desk.wait(9.9) == []
    events = desk.wait(0.2)
    assert desk.of(e.RoundClosed)[-1].aggregated == (C, A)
    assert dropped(events) == {B: DropReason.LATE, D: DropReason.LATE}


def test_with_a_cohort_so_many_train_at_a_time():
    desk = buffered(*FOUR, cohort=3, buffer=2)
    for _ in range(4):
        assert len(desk.state.round.tasks) + len(desk.state.owed) == 3
        answered(desk, *sorted({*desk.state.round.tasks, *desk.state.owed})[:2])
        desk.scored()
    desk = buffered(*FOUR, cohort=3, buffer=1, quorum=1)
    for _ in range(4):
        assert len(desk.state.round.tasks) + len(desk.state.owed) == 3
        answered(desk, min(desk.state.round.tasks))
        desk.scored()


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ({"mode": "buffered"}, 'mode = "buffered" needs one'),
        ({"buffer": 3}, 'rounds.buffer = 3 with rounds.mode = "synchronous"'),
        ({"mode": "buffered", "buffer": 1}, "rounds.buffer = 1 is below rounds.quorum = 2"),
        ({"mode": "buffered", "buffer": 5, "cohort": 4}, "more than the 4 devices that train"),
        ({"staleness": -0.1}, "rounds.staleness"),
        ({"staleness": math.nan}, "rounds.staleness"),
        ({"staleness_limit": 0}, "rounds.staleness_limit"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rounds, said):
    with pytest.raises(SettingsError, match=said):
        Settings(fleet="plant", model="mlp", rounds=Rounds(**rounds)).check()


@pytest.mark.parametrize("rounds", [{"late": "use"}, {"mode": "buffered", "buffer": 2}])
def test_control_variates_and_late_updates_exclude_each_other(rounds):
    training = Training(control="scaffold", momentum=0.0)
    chosen = Settings(fleet="plant", model="mlp", training=training, rounds=Rounds(**rounds))
    with pytest.raises(SettingsError, match="a late update is of an earlier one"):
        chosen.check()


def test_the_summary_says_who_is_still_at_an_earlier_round():
    desk = late_fan()
    desk.scored()
    assert summary(desk.state, desk.settings).detail == (
        "round 2: 0 of 3 devices answered, 1 still at an earlier round"
    )
    desk.fetched(D)
    assert summary(desk.state, desk.settings).detail == (
        "round 2: 0 of 3 devices answered, 1 late update will count"
    )
