"""The assessment round: each device trains alone first, and nothing of it enters the model."""

import pytest

from broker.messages import Stage
from coordinator import inputs as i
from coordinator.duties import Assess, Score, SharedWeights, job, needed_blobs, shared
from coordinator.fleet import Phase
from coordinator.fleet_summary import phase_detail, round_of_budget
from coordinator.publications import publications
from coordinator.settings import Contributions, Rewards, SettingsError
from journal import events as e
from tests.fakes.office import Office, digest, settings, share_of

A, B, C = "press", "lathe", "mill"
ALONE_ROUNDS, ALONE_STEPS = 4, 8  # a round has two steps in these settings


def office(*devices, rounds=None, **changes):
    waits = {"min_devices": max(2, len(devices))} | (rounds or {})
    alone = Contributions(alone_rounds=ALONE_ROUNDS)
    return Office(settings(rounds=waits, **({"contributions": alone} | changes))).begin(*devices)


def summary_of(desk):
    shares = {wanted: share_of(wanted) for wanted in shared(desk.state)}
    said = publications(desk.state, shares, lambda *_: None)
    return next(body for topic, body in said.items() if type(body).__name__ == "Summary")


def test_the_first_round_asks_everybody_to_train_alone_from_the_initial_weights():
    desk = office(A, B, C)
    opened = desk.state.round.opened
    assert (opened.assessment, opened.base) == (True, digest("round 0"))
    assert [task.device for task in opened.tasks] == sorted([A, B, C])
    assert opened.training.steps == ALONE_STEPS
    assert opened.budget_s == 4 * desk.settings.rounds.deadline_s
    assert phase_detail(desk.state).startswith("assessment: each device trains alone: 0 of 3")


def test_a_short_assessment_has_the_deadline_of_a_round():
    desk = office(A, B, contributions=Contributions(alone_rounds=1))
    assert desk.state.round.opened.budget_s == desk.settings.rounds.deadline_s


def test_the_prediction_is_for_the_steps_of_the_assessment():
    desk = office(A, B)
    alone = {task.device: task.predicted_s for task in desk.state.round.opened.tasks}
    desk.assessed()
    ordinary = {task.device: task.predicted_s for task in desk.state.round.opened.tasks}
    # Six more steps of 0.1 s.
    assert {d: alone[d] - ordinary[d] for d in alone} == pytest.approx(dict.fromkeys(alone, 0.6))


def test_what_is_measured_is_kept_and_the_weights_stay():
    desk = office(A, B)
    for device in (A, B):
        desk.fetched(device)
    assert job(desk.state) == Assess(1)
    assert phase_detail(desk.state) == "assessment: measuring what each device trained alone"
    events = desk.assessed({A: 0.7, B: 0.4})
    assert [type(event).__name__ for event in events] == ["AloneMeasured", "RoundOpened"]
    assert {name: one.score for name, one in desk.state.alone.items()} == {A: 0.7, B: 0.4}
    assert desk.state.weights == digest("round 0")
    assert (events[-1].round, events[-1].assessment) == (2, False)
    assert events[-1].training.steps == desk.settings.training.steps
    assert desk.replayed() == desk.state


def test_it_counts_neither_for_the_budget_nor_as_a_round_taken_nor_in_the_summary():
    desk = office(A, B, rounds={"budget": 2, "minimum": 2})
    assert (round_of_budget(desk.state), summary_of(desk).round) == (0, 0)
    desk.assessed()
    assert desk.device(A).rounds_taken == 0
    assert summary_of(desk).round == 1
    desk.round_()
    assert phase_detail(desk.state) == "round 2 (number 3): 0 of 2 devices answered"
    desk.round_()
    assert desk.state.stopped == "budget of 2 rounds is used"
    assert (summary_of(desk).round, summary_of(desk).rounds) == (2, 2)
    assert desk.device(A).rounds_taken == 2


def test_a_missed_round_never_shows_more_rounds_than_are_planned():
    desk = office(
        A, B, rounds={"budget": 2, "minimum": 2, "quorum": 2}, contributions=Contributions()
    )
    desk.round_()
    desk.fetched(A)
    desk.wait(10.0)
    assert desk.state.round.closed.aggregated == ()
    desk.wait(5.0)
    assert desk.state.round.number == 3
    assert (summary_of(desk).round, summary_of(desk).rounds) == (2, 2)
    desk.round_()
    assert desk.state.trained_rounds == summary_of(desk).round == 2
    assert desk.state.stopped


def test_a_missed_quorum_repeats_it():
    desk = office(A, B)
    desk.fetched(A)
    desk.wait(40.0)
    assert desk.state.round.closed.aggregated == ()
    assert not desk.state.assessed
    desk.wait(5.0)
    assert desk.state.round.opened.assessment
    assert desk.state.round.number == 2
    desk.assessed()
    assert set(desk.state.alone) == {A, B}


def test_a_device_that_comes_later_has_no_alone_score_and_is_not_waited_for():
    desk = office(A, B)
    desk.assessed()
    desk.join(C)
    desk.round_()
    assert C in desk.state.round.tasks
    assert C not in desk.state.alone
    desk.finish_training()
    found = {one.device: one.alone for one in desk.state.allocation.rewards}
    assert found == {A: 0.5, B: 0.5, C: None}


def test_a_device_that_fails_it_trains_on_without_an_alone_score():
    desk = office(A, B, C)
    desk.progress(C, Stage.FAILED)
    desk.assessed()
    assert set(desk.state.alone) == {A, B}
    assert C in desk.state.round.tasks


def test_the_updates_are_needed_until_they_are_measured():
    desk = office(A, B)
    desk.fetched(A)
    update = desk.state.round.tasks[A].update.digest
    assert update in needed_blobs(desk.state)
    desk.assessed()
    assert needed_blobs(desk.state) == {digest("round 0")}


def test_nobody_measurable_is_the_end_of_the_assessment_too():
    desk = office(A, B)
    for device in (A, B):
        desk.fetched(device)
    desk.say(i.Assessed(1, (), 0.1))
    assert desk.state.assessed
    assert not desk.state.round.opened.assessment


def test_a_result_counts_once_and_only_for_its_round():
    desk = office(A, B)
    for device in (A, B):
        desk.fetched(device)
    assert desk.say(i.Assessed(2, (), 0.1)) == []
    desk.assessed()
    assert desk.say(i.Assessed(1, (), 0.1)) == []


def test_an_assessment_that_was_closed_before_a_crash_is_measured_after_it():
    desk = office(A, B)
    for device in (A, B):
        desk.fetched(device)
    desk.state = desk.replayed()
    desk.start()
    assert job(desk.state) == Assess(1)
    desk.assessed()
    desk.state = desk.replayed()
    desk.start()
    assert not desk.state.round.opened.assessment
    for device in (A, B):
        desk.fetched(device)
    assert job(desk.state) == Score(2)


def test_an_assessment_that_cannot_be_measured_ends_the_training():
    desk = office(A, B, rounds={"failures_limit": 2})
    for device in (A, B):
        desk.fetched(device)
    desk.failed()
    assert job(desk.state) == Assess(1)
    desk.failed("no such blob")
    assert desk.state.stopped == "measuring round 1 failed 2 times: no such blob"
    assert desk.state.allocation.rewards == ()


def test_devices_hold_initial_weights_at_their_own_width_also_under_training_time_rewards():
    rewards = Rewards(mode="training-time", ladder=(0.25, 0.5, 1.0))
    desk = office(A, B, rewards=rewards)
    assert shared(desk.state) == {SharedWeights(1, 1.0, digest("round 0"))}
    desk.assessed()
    assert shared(desk.state) == {SharedWeights(2, 0.25, digest("round 0"))}


def test_the_assessment_is_recorded_in_the_journal_for_ever():
    desk = office(A, B)
    desk.assessed({A: 0.7})
    [measured] = desk.of(e.AloneMeasured)
    assert {one.device: one.score for one in measured.scores} == {A: 0.7, B: 0.5}
    assert desk.state.phase is Phase.TRAINING


def by_assessment(scores, **changes):
    """A finished training whose rewards follow what each device scored alone."""
    chosen = {"rewards": Rewards(basis="assessment", ladder=(0.125, 0.25, 0.5, 0.75, 1.0))}
    desk = office(*scores, **(chosen | changes))
    desk.assessed(scores)
    return desk


def test_rewards_by_assessment_follow_what_each_device_has_alone_whatever_its_updates_were_worth():
    desk = by_assessment({A: 0.6, B: 0.4, C: 0.2})  # the untrained model scores 0.2
    desk.finish_training({A: 0.01, B: 0.2, C: 0.3})
    rewards = {one.device: one for one in desk.state.allocation.rewards}
    assert rewards[A].width == 1.0
    assert rewards[A].width > rewards[B].width > rewards[C].width == 0.0
    assert rewards[A].contribution == pytest.approx(2 * rewards[B].contribution)
    assert "below the cut-off" in rewards[C].reason


def test_by_assessment_a_device_that_came_later_earns_nothing():
    desk = by_assessment({A: 0.6, B: 0.4})
    desk.join(C)
    desk.finish_training({A: 0.1, B: 0.1, C: 0.1})
    rewards = {one.device: one for one in desk.state.allocation.rewards}
    assert (rewards[C].contribution, rewards[C].width) == (0.0, 0.0)


def test_by_assessment_entitlements_follow_it_from_the_first_round_on():
    rewards = Rewards(basis="assessment", mode="training-time", ladder=(0.25, 0.5, 0.75, 1.0))
    desk = by_assessment({A: 0.6, B: 0.3}, rewards=rewards)
    desk.round_({A: 0.1, B: 0.4})
    widths = {task.device: task.width for task in desk.state.round.opened.tasks}
    assert widths[A] == 1.0 > widths[B]


def test_rewards_by_assessment_need_an_assessment():
    with pytest.raises(SettingsError, match=r"alone_rounds"):
        settings(rewards=Rewards(basis="assessment", ladder=(0.25, 0.5, 0.75, 1.0)))
