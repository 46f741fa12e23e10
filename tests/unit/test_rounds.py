"""What the coordinator decides, one situation at a time, and then in every order."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import settings as search
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.messages import (
    Birth,
    DropReason,
    Evaluation,
    InstallState,
    LinkStatus,
    OperatorAction,
    Participation,
    Report,
    Stage,
    Verdict,
    WidthCost,
)
from coordinator import inputs as i
from coordinator.admission import admit
from coordinator.bench import RoundResult
from coordinator.duties import Assess, Export, Initialise, Score, job, needed_blobs, shared
from coordinator.fleet import Phase, confirmed
from coordinator.fleet_summary import summary
from coordinator.job_orders import score_job
from coordinator.publications import publications
from coordinator.settings import Aggregation, Contributions, Releases, Rewards, WidthPolicy
from journal import events as e
from tests.fakes.command_promises import CommandPromises
from tests.fakes.office import (
    LIMIT,
    OFFLINE,
    ONLINE,
    SPEC,
    START,
    Office,
    blob,
    curve,
    digest,
    profile,
    risen,
    settings,
    share_of,
)

A, B, C = "press", "lathe", "mill"


def kinds(events):
    return [type(event).__name__ for event in events]


def office(*devices, rounds=None, **changes):
    """A campaign whose first round opens when these devices have arrived."""
    waits = {"min_devices": max(2, len(devices))}
    return Office(settings(rounds=waits | (rounds or {}), **changes)).begin(*devices)


def dropped(events):
    return {event.device: event.reason for event in events if isinstance(event, e.DeviceDropped)}


# --- starting -----------------------------------------------------------------------------------


def test_the_first_start_records_the_campaign_and_asks_for_weights():
    desk = Office()
    assert kinds(desk.start()) == ["ServerStarted", "CampaignStarted"]
    assert job(desk.state) == Initialise()
    assert desk.state.settings == desk.settings


def test_a_restart_records_itself_and_changes_nothing_else():
    desk = office(A, B)
    before = desk.state
    assert kinds(desk.start()) == ["ServerStarted"]
    assert desk.state.epoch == before.epoch + 1
    assert desk.state.round == before.round
    assert desk.state.phase is before.phase


def test_weights_are_made_once():
    desk = office()
    assert desk.say(i.Initialised(digest("again"), 0.5)) == []
    assert desk.state.weights == digest("round 0")


def test_the_first_round_waits_for_enough_devices():
    desk = office(A)
    assert desk.state.phase is Phase.GATHERING
    assert desk.wait(19.0) == []
    events = desk.join(B)
    assert kinds(events)[-1] == "RoundOpened"
    assert [task.device for task in events[-1].tasks] == [B, A]


def test_after_gathering_the_first_round_opens_with_a_quorum():
    desk = office(A, B, rounds={"min_devices": 5, "quorum": 2})
    assert desk.wait(19.9) == []
    assert kinds(desk.wait(0.2)) == ["RoundOpened"]


def test_no_round_opens_below_the_quorum_however_long_it_takes():
    desk = office(A, rounds={"quorum": 2})
    assert desk.wait(1e6) == []


def test_who_is_not_invited_is_named_with_the_reason():
    desk = office(A, B, rounds={"min_devices": 6})
    desk.join("away")
    desk.lease("away", OFFLINE)
    desk.join("held")
    desk.command("suspend", "held")
    desk.join("weak")
    desk.profiled("weak", profile(memory_budget=1))
    desk.born("mute")
    desk.lease("mute")
    [opened] = desk.wait(60.0)
    assert {task.device for task in opened.tasks} == {A, B}
    assert opened.not_invited["away"] == "link is offline"
    assert opened.not_invited["held"] == "suspended by ana: maintenance"
    assert "no width fits" in opened.not_invited["weak"]
    assert opened.not_invited["mute"] == "no profile yet"


def test_tasks_carry_the_training_width_and_a_seed_of_their_own():
    desk = office(A, rounds={"min_devices": 2})
    desk.join(B, 0.5)
    tasks = desk.state.round.opened.tasks
    assert {task.device: task.width for task in tasks} == {A: 1.0, B: 0.5}
    assert len({task.seed for task in tasks}) == 2
    assert all(task.predicted_s > 0 for task in tasks)


# --- devices ------------------------------------------------------------------------------------


def test_a_birth_counts_once_a_session():
    desk = office()
    assert kinds(desk.born(A, 3)) == ["DeviceBorn"]
    assert desk.born(A, 3) == []
    assert desk.born(A, 2) == []
    assert kinds(desk.born(A, 4)) == ["DeviceBorn"]


def test_a_device_that_never_said_anything_but_a_lease_is_visible():
    desk = office()
    desk.lease("ghost")
    assert desk.device("ghost").link is ONLINE
    assert desk.device("ghost").participation is Participation.WAITING


def test_the_same_profile_again_changes_nothing():
    desk = office(A)
    assert desk.profiled(A, profile(session=9, seq=4, sent_at=5.0)) == []
    assert kinds(desk.profiled(A, profile(0.5))) == ["DeviceProfiled", "WidthChosen"]


def test_a_device_that_measures_itself_anew_keeps_the_width_of_its_open_task():
    desk = office(A, B, rounds={"quorum": 1})
    desk.profiled(A, profile(0.25))
    assert desk.device(A).width == 0.25
    assert desk.state.round.tasks[A].task.width == 1.0
    assert DropReason.WRONG_WIDTH in dropped(desk.announced(B, width=0.25)).values()
    assert "UpdateAccepted" in kinds(desk.fetched(A))
    assert desk.state.round.tasks[A].update.width == 1.0


def test_a_device_that_can_no_longer_train_is_not_invited_again():
    desk = office(A, B, C)
    desk.profiled(C, profile(can_train=False, reason="torch is gone"))
    desk.wait(10.0)
    for device in (A, B):
        assert desk.device(device).last_drop
    desk.wait(5.0)
    assert set(desk.state.round.tasks) == {A, B}
    assert "torch is gone" in desk.state.round.opened.not_invited[C]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_no_journal_holds_do_not_stop_the_server(number):
    desk = office(A, B, rounds={"quorum": 1})
    cost = WidthCost(width=0.5, step_s=number, peak_bytes=1)
    desk.profiled(C, profile(costs=(cost,), link_bytes_per_s=number, sent_at=number))
    assert desk.device(C).participation is Participation.CANNOT
    assert "absurd" in desk.device(C).reason
    desk.progress(A, Stage.STARTED, download_s=number, train_s=number, sent_at=number)
    assert desk.state.round.tasks[A].stage is Stage.STARTED
    evaluation = Evaluation(data="own", score=number, samples=3)
    report = Report(
        counter=1,
        state=InstallState.FAILED,
        sent_at=number,
        latency_p50_s=number,
        evaluations=(evaluation,),
    )
    assert kinds(desk.say(i.ReportReceived(A, report))) == ["InstallReported"]
    assert dropped(desk.announced(A, loss=number)) == {A: DropReason.NOT_FINITE}
    assert dropped(desk.fetched(B, train_s=number)) == {B: DropReason.NOT_FINITE}
    assert desk.replayed() == desk.state


# --- progress -----------------------------------------------------------------------------------


def test_progress_goes_forward_only():
    desk = office(A, B)
    assert kinds(desk.progress(A, Stage.STARTED)) == ["TaskProgressed"]
    assert desk.progress(A, Stage.STARTED) == []
    assert desk.progress(A, Stage.ACCEPTED) == []


@pytest.mark.parametrize(
    ("stage", "reason", "expected"),
    [
        (Stage.DECLINED, None, DropReason.DECLINED),
        (Stage.FAILED, None, DropReason.TRAINING_FAILED),
        (Stage.FAILED, DropReason.OUT_OF_MEMORY, DropReason.OUT_OF_MEMORY),
    ],
)
def test_a_device_that_gives_up_is_dropped_with_its_reason(stage, reason, expected):
    desk = office(A, B, C)
    events = desk.progress(A, stage, reason=reason, detail="oom at width 1")
    assert dropped(events) == {A: expected}
    assert desk.device(A).last_drop == f"round 1: {expected} (oom at width 1)"
    assert desk.device(A).rounds_missed == 1
    assert desk.progress(A, Stage.FAILED) == []


@pytest.mark.parametrize("number", [7, 99])
def test_progress_of_another_round_or_a_stranger_is_nothing(number):
    desk = office(A, B)
    assert desk.progress(A, number=number) == []
    assert desk.progress(C, number=1) == []


# --- updates ------------------------------------------------------------------------------------


def test_an_accepted_update_is_committed_before_its_receipt():
    desk = office(A, B)
    desk.now += 2.5
    [accepted] = desk.fetched(A)
    assert accepted.round_s == 2.5
    record = desk.device(A).receipt
    assert (record.round, record.blob, record.verdict) == (1, accepted.blob, Verdict.ACCEPTED)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": B}, DropReason.FORGED_ID),
        ({"round": 2}, DropReason.WRONG_ROUND),
        ({"spec_hash": "6" * 64}, DropReason.WRONG_SPEC),
        ({"width": 0.5}, DropReason.WRONG_WIDTH),
        ({"width": math.nan}, DropReason.WRONG_WIDTH),
        ({"loss": math.inf}, DropReason.NOT_FINITE),
        ({"blob": blob("x", size=LIMIT + 1)}, DropReason.BAD_BYTES),
        ({"blob": blob("x", size=0)}, DropReason.BAD_BYTES),
        ({"blob": blob("x", size=-5)}, DropReason.BAD_BYTES),
        ({"blob": blob("x", block_size=1)}, DropReason.BAD_BYTES),
        ({"blob": blob("x", block_size=0)}, DropReason.BAD_BYTES),
        ({"blob": blob("x", block_size=2**40)}, DropReason.BAD_BYTES),
        ({"blob": blob("x", plaintext="no digest")}, DropReason.BAD_BYTES),
        ({"payload": "gradient"}, DropReason.BAD_BYTES),
        ({"encoding": "pickle" * 1000}, DropReason.BAD_BYTES),
    ],
)
def test_an_unfit_update_is_refused_before_it_is_fetched(changes, reason):
    desk = office(A, B, C)
    update = desk.update_of(A, **changes)
    refusal = admit(desk.state, A, update, LIMIT)
    assert refusal is not None
    assert refusal[0] is reason
    events = desk.announced(A, **changes)
    assert [event.reason for event in events if isinstance(event, e.UpdateRefused)] == [reason]
    record = desk.device(A).receipt
    assert (record.verdict, record.reason, record.blob) == (
        Verdict.REFUSED,
        reason,
        update.blob.blob,
    )
    assert record.detail
    # An update of another round says nothing about the task of this one.
    assert dropped(events) == ({} if reason is DropReason.WRONG_ROUND else {A: reason})
    assert desk.announced(A, **changes) == [], "refused twice"


def test_a_fit_update_is_announced_without_an_event():
    assert office(A, B).announced(A) == []


def test_an_update_before_the_first_round_is_of_a_wrong_round():
    found = admit(office(A).state, A, office(A, B).update_of(A), LIMIT)
    assert found == (DropReason.WRONG_ROUND, "round 1 has not been opened")


def test_who_was_not_invited_cannot_take_part():
    desk = office(A, B)
    desk.join(C)
    events = desk.announced(C)
    assert [event.reason for event in events] == [DropReason.WRONG_ROUND]
    assert "not invited to round 1" in events[0].detail


def test_an_update_after_the_round_is_late():
    desk = office(A, B, C)
    for device in (A, B):
        desk.fetched(device)
    assert dropped(desk.wait(10.0)) == {C: DropReason.LATE}
    events = desk.fetched(C)
    assert kinds(events) == ["UpdateRefused"]
    assert events[0].reason is DropReason.LATE
    desk.scored()
    assert desk.state.round.number == 2
    late = desk.announced(C, round=1, blob=blob("other"))
    assert [event.reason for event in late] == [DropReason.LATE]


def test_a_dropped_device_is_told_the_same_reason_again():
    desk = office(A, B, C)
    desk.progress(A, Stage.FAILED, reason=DropReason.OUT_OF_MEMORY)
    events = desk.announced(A)
    assert kinds(events) == ["UpdateRefused"]
    assert events[0].reason is DropReason.OUT_OF_MEMORY


@pytest.mark.parametrize("reason", [DropReason.NOT_FINITE, DropReason.WRONG_SHAPE])
def test_bytes_that_turn_out_unfit_are_refused(reason):
    desk = office(A, B, C)
    events = desk.fetched(A, fault=(reason, "tensor 'x' " + "y" * 100_000))
    assert dropped(events) == {A: reason}
    assert all(len(event.detail) <= 300 for event in events)


def test_repeated_updates_change_nothing():
    desk = office(A, B, C)
    assert kinds(desk.fetched(A)) == ["UpdateAccepted"]
    before = desk.state
    assert desk.fetched(A) == []
    assert desk.announced(A) == []
    assert desk.fetched(A, fault=(DropReason.BAD_BYTES, "blocks are cleared")) == []
    assert desk.state == before


def test_a_second_other_update_for_a_round_is_answered_and_the_first_one_stays():
    desk = office(A, B, C)
    [first] = desk.fetched(A)
    events = desk.announced(A, blob=blob("another"))
    assert kinds(events) == ["UpdateRefused"]
    assert "another update was already accepted in round 1" in events[0].detail
    assert desk.state.round.tasks[A].update == first
    assert desk.fetched(A) == [], "the first one is not judged again"


def test_an_accepted_update_that_comes_again_rounds_later_is_never_called_refused():
    desk = office(A, B)
    first = desk.update_of(A)
    desk.round_()
    desk.fetched(A)
    receipt = desk.device(A).receipt
    assert receipt.round == 2
    assert desk.say(i.UpdateAnnounced(A, first, LIMIT)) == []
    assert desk.device(A).receipt == receipt


def test_an_update_of_a_device_that_nobody_knows_is_recorded_as_such():
    desk = office(A, B)
    events = desk.announced("stranger")
    assert kinds(events) == ["MessageRefused"]
    assert events[0].reason.startswith("unknown device: not invited")


@pytest.mark.parametrize("name", ["", "../../etc", "F" * 64, "a" * 10_000])
def test_an_update_whose_blob_has_no_name_gets_no_receipt(name):
    desk = office(A, B)
    events = desk.announced(A, blob=named(name))
    assert kinds(events) == ["MessageRefused"]
    assert desk.device(A).receipt is None
    assert not desk.state.round.tasks[A].answered


def named(name):
    return msgspec.structs.replace(blob("x"), blob=name)


def test_a_forged_message_is_recorded():
    desk = office(A)
    [event] = desk.say(i.MessageForged(A, "birth", "not a Birth"))
    assert (event.sender, event.channel, event.reason) == (A, "birth", "not a Birth")


# --- closing a round ----------------------------------------------------------------------------


def test_a_round_closes_as_soon_as_everybody_answered():
    desk = office(A, B, C)
    desk.fetched(A)
    desk.fetched(B)
    events = desk.progress(C, Stage.DECLINED)
    assert kinds(events)[-1] == "RoundClosed"
    assert events[-1].aggregated == (B, A)
    assert job(desk.state) == Score(1)
    assert desk.device(A).rounds_taken == 1


def test_at_the_deadline_who_is_missing_is_late_or_offline():
    desk = office(A, B, C, "saw")
    desk.fetched(A)
    desk.fetched(B)
    desk.lease("saw", OFFLINE)
    desk.progress(C, Stage.STARTED)
    assert desk.wait(9.9) == []
    events = desk.wait(0.1)
    assert dropped(events) == {C: DropReason.LATE, "saw": DropReason.OFFLINE}
    details = {event.device: event.detail for event in events if isinstance(event, e.DeviceDropped)}
    assert "last stage: started" in details[C]
    assert "last stage: no answer" in details["saw"]


def test_a_missed_quorum_is_repeated_after_a_pause_with_the_same_weights():
    desk = office(A, B, rounds={"quorum": 2})
    base = desk.state.round.opened.base
    desk.fetched(A)
    events = desk.wait(10.0)
    assert events[-1].aggregated == ()
    assert "quorum is 2: not aggregated" in events[-1].reason
    assert desk.state.failures == 1
    assert desk.device(A).rounds_taken == 0
    assert desk.wait(4.9) == []
    assert kinds(desk.wait(0.2)) == ["RoundOpened"]
    assert (desk.state.round.number, desk.state.round.opened.base) == (2, base)
    desk.round_()
    assert desk.state.failures == 0


def test_too_many_missed_quorums_end_the_training():
    desk = office(A, B, rounds={"quorum": 2, "failures_limit": 3, "retry_s": 0.0})
    for _ in range(3):
        events = desk.wait(10.0)
    assert "TrainingStopped" in kinds(events)
    assert "3 rounds in a row missed their quorum" in desk.state.stopped
    assert desk.state.allocation.rule == "none"
    assert job(desk.state) == Export(())
    desk.exported()
    assert desk.state.phase is Phase.FINISHED
    assert desk.state.withheld == "no device earned a release"


def test_what_was_sent_while_the_server_was_away_is_read_before_anybody_is_late():
    desk = office(A, B)
    desk.fetched(A)
    desk.now += 60.0  # the server was killed, and the deadline passed meanwhile
    assert kinds(desk.start()) == ["ServerStarted"]
    assert desk.wait(1.0) == []
    assert kinds(desk.fetched(B)) == ["UpdateAccepted", "RoundClosed"]


def test_after_a_restart_nobody_is_waited_for_longer_than_the_grace():
    desk = office(A, B, C)
    desk.fetched(A)
    desk.now += 60.0
    desk.start()
    desk.fetched(B)
    assert dropped(desk.wait(desk.settings.presence.grace_s)) == {C: DropReason.LATE}


def test_a_restart_does_not_shorten_a_round():
    desk = office(A, B)
    desk.now += 1.0
    desk.start()
    assert desk.wait(8.9) == []


# --- scoring ------------------------------------------------------------------------------------


def test_a_round_that_was_closed_before_a_crash_is_scored_after_it():
    desk = office(A, B)
    desk.fetched(A)
    desk.fetched(B)
    desk.state = desk.replayed()
    desk.start()
    assert job(desk.state) == Score(1)
    events = desk.scored()
    assert kinds(events) == ["RoundScored", "RoundOpened"]


def test_a_score_counts_once():
    desk = office(A, B)
    desk.fetched(A)
    desk.fetched(B)
    current = desk.state.round
    desk.scored({A: 0.3, B: 0.1})
    again = i.Scored(
        current.number, RoundResult(digest("x"), curve(), (), "m", 0.0, 1.0, 1, 0.1, better=True)
    )
    assert desk.say(again) == []
    assert (desk.state.contribution(A), desk.state.contribution(B)) == (0.3, 0.1)


def test_contributions_add_up_over_rounds_and_start_with_the_first_invitation():
    desk = office(A, B)
    desk.join(C)
    assert desk.state.contribution(C) is None
    desk.round_({A: 0.3, B: 0.1})
    assert desk.state.contribution(C) == 0.0
    desk.round_({A: 0.3, B: -0.2, C: 0.5})
    assert desk.state.contribution(A) == pytest.approx(0.6)
    assert desk.state.contribution(B) == pytest.approx(-0.1)
    assert desk.state.contribution(C) == 0.5


def test_a_failing_measurement_is_repeated_and_at_last_ends_the_training():
    desk = office(A, B, rounds={"failures_limit": 3})
    desk.fetched(A)
    desk.fetched(B)
    for _ in range(2):
        assert kinds(desk.failed()) == ["WorkFailed"]
        assert job(desk.state) == Score(1)
    events = desk.failed("no such blob")
    assert kinds(events)[:2] == ["WorkFailed", "TrainingStopped"]
    assert desk.state.stopped == "measuring round 1 failed 3 times: no such blob"


def test_an_aggregate_that_is_not_finite_never_becomes_the_model():
    desk = office(A, B)
    desk.fetched(A)
    desk.fetched(B)
    events = desk.scored({A: math.nan})
    assert kinds(events) == ["WorkFailed"]
    assert desk.state.weights == digest("round 0")


# --- the end of training ------------------------------------------------------------------------


def test_the_budget_ends_the_training():
    desk = office(A, B)
    for _ in range(3):
        desk.round_()
    assert desk.state.stopped == "budget of 3 rounds is used"
    assert desk.state.phase is Phase.EXPORTING


def test_a_plateau_ends_the_training_but_not_before_the_minimum():
    desk = office(A, B, rounds={"budget": 20, "minimum": 4, "patience": 2})
    desk.round_()
    for _ in range(2):
        desk.round_(better=False)
    assert not desk.state.stopped, "three rounds are below the minimum"
    desk.round_(better=False)
    assert desk.state.stopped == "plateau: no significant improvement in 3 rounds"


def test_an_improvement_begins_the_patience_anew():
    desk = office(A, B, rounds={"budget": 20, "minimum": 1, "patience": 2})
    for better in (True, False, True, False):
        desk.round_(better=better)
        assert not desk.state.stopped
    desk.round_(better=False)
    assert desk.state.stopped


def test_the_best_weights_are_those_of_the_last_improvement():
    desk = office(A, B)
    desk.round_(better=True)
    desk.round_(better=False)
    assert desk.state.best == digest("round 1")
    assert desk.state.weights == digest("round 2")


# --- rewards and releases -----------------------------------------------------------------------


def finished_training(contributions=None, devices=(A, B, C), **changes):
    return office(*devices, **changes).finish_training(contributions)


def deployments(events):
    return {
        event.device: (event.width, event.counter)
        for event in events
        if isinstance(event, e.DeploymentIssued)
    }


def test_every_device_is_deployed_what_it_earned_and_a_rider_nothing():
    desk = finished_training({A: 0.2, B: 0.2, C: 0.0})
    assert job(desk.state) == Export((1.0,))
    events = desk.exported()
    assert deployments(events) == {A: (1.0, 1), B: (1.0, 1)}
    assert desk.device(C).reward.width == 0.0
    assert "below the cut-off" in desk.device(C).reward.reason
    assert desk.state.phase is Phase.DELIVERING


def test_the_campaign_ends_when_every_deployment_is_answered():
    desk = finished_training()
    desk.exported()
    assert desk.confirm(A) != []
    desk.confirm(B, InstallState.FAILED)
    assert desk.state.phase is Phase.DELIVERING
    events = desk.confirm(C, InstallState.REFUSED)
    assert kinds(events) == ["InstallReported", "CampaignFinished"]
    assert (confirmed(desk.device(A)), confirmed(desk.device(B))) == (True, False)
    assert events[-1].detail == "every deployment was answered"


def test_the_campaign_ends_without_who_does_not_answer():
    desk = finished_training(releases=Releases(delivery_s=50.0))
    desk.exported()
    desk.confirm(A)
    assert desk.wait(49.0) == []
    [finish] = desk.wait(2.0)
    assert finish.detail.startswith("not confirmed: ")
    assert A not in finish.detail
    assert kinds(desk.confirm(B)) == ["InstallReported"], "late truth is recorded all the same"


@pytest.mark.parametrize(
    "changes",
    [{"counter": 0}, {"counter": 2}, {"running": ""}, {"state": InstallState.INSTALLED}],
)
def test_only_the_device_confirming_what_it_really_runs_counts(changes):
    desk = finished_training()
    desk.exported()
    desk.confirm(A, **({"state": InstallState.CONFIRMED} | changes))
    assert not confirmed(desk.device(A))


def test_a_refusal_of_some_other_document_does_not_hide_what_runs():
    desk = finished_training()
    desk.exported()
    desk.confirm(A)
    desk.confirm(A, InstallState.REFUSED, counter=77, running="")
    assert confirmed(desk.device(A))


def test_a_report_of_a_stranger_is_nothing():
    desk = office(A)
    assert desk.say(i.ReportReceived("x", Report(counter=1, state=InstallState.FAILED))) == []


def test_releases_come_while_training_goes_on_and_counters_only_rise():
    desk = office(A, B, rounds={"budget": 4, "minimum": 4, "release_every": 2})
    desk.round_()
    events = desk.round_({A: 0.2, B: 0.2})
    assert kinds(events) == ["RoundScored", "ReleaseDue", "RewardsAllocated"]
    events = desk.exported()
    assert deployments(events) == {A: (1.0, 1), B: (1.0, 1)}
    assert kinds(events)[-1] == "RoundOpened"
    desk.round_()
    desk.round_()
    assert desk.state.stopped
    assert deployments(desk.exported()) == {A: (1.0, 2), B: (1.0, 2)}


def test_a_device_that_stops_contributing_loses_its_model():
    desk = office(A, B, rounds={"budget": 2, "minimum": 2, "release_every": 1})
    desk.round_({A: 0.2, B: 0.2})
    desk.exported()
    desk.round_({A: 0.2, B: -0.3})
    desk.exported()
    taken = desk.device(B).deployed
    assert (taken.digest, taken.width, taken.counter) == ("", 0.0, 2)
    assert "no release" in taken.reason
    assert desk.device(A).deployed.counter == 2


def test_a_worse_release_is_withheld_but_a_lower_reward_still_deploys():
    desk = office(A, B, C, rounds={"budget": 2, "minimum": 2, "release_every": 1})
    desk.round_({A: 0.2, B: 0.2, C: 0.2})
    desk.exported(widths=(0.25, 0.5, 0.75, 1.0))
    desk.round_({A: 0.9, B: 0.2, C: -0.9})
    reward = {device: desk.device(device).reward.width for device in (A, B, C)}
    before = desk.device(A).deployed
    events = desk.exported(worse="round 2 scores 0.1 lower: withheld")
    assert desk.state.withheld == "round 2 scores 0.1 lower: withheld"
    assert desk.device(A).deployed == before
    assert reward[C] == 0.0
    assert desk.device(C).deployed.digest == ""
    for device, (width, counter) in deployments(events).items():
        assert width <= reward[device]
        assert counter == 2
    assert desk.state.phase is Phase.DELIVERING


def test_a_lower_reward_gets_a_narrower_file_of_the_release_in_use():
    desk = office(A, B, rounds={"budget": 2, "minimum": 2, "release_every": 1})
    desk._answer()
    desk.scored({A: 0.2, B: 0.2}, points=risen(0.4 / 0.9))
    desk.exported(widths=(0.125, 0.25, 0.5, 0.75, 1.0))
    desk.round_({A: 0.5, B: 0.0})
    assert 0 < desk.device(B).reward.width < 1.0
    desk.exported(worse="worse")
    deployed = desk.device(B).deployed
    assert 0 < deployed.width <= desk.device(B).reward.width
    assert desk.state.releases[deployed.digest][0].version == 1


def test_a_failing_export_is_repeated_and_then_withheld():
    desk = finished_training(releases=Releases(attempts=2))
    assert kinds(desk.failed("parity")) == ["WorkFailed"]
    assert isinstance(job(desk.state), Export)
    events = desk.failed("parity")
    assert kinds(events) == ["WorkFailed", "ReleaseWithheld", "CampaignFinished"]
    assert desk.state.withheld == "export failed 2 times: parity"


def test_a_later_export_has_all_its_attempts_again():
    desk = office(
        A, B, rounds={"release_every": 1, "quorum": 2, "failures_limit": 1}, releases=Releases()
    )
    desk.round_()
    for _ in range(3):
        desk.failed()
    assert desk.state.phase is Phase.TRAINING
    desk.wait(10.0)
    assert desk.state.stopped
    assert kinds(desk.failed()) == ["WorkFailed"]
    assert isinstance(job(desk.state), Export)


def test_only_once_is_an_export_taken_over():
    desk = finished_training()
    desk.exported()
    assert desk.say(i.Exported((), "late")) == []


def grants_to_weak(**changes):
    rewards = Rewards(ladder=(0.125, 0.25, 0.5, 0.75, 1.0), inference_only_width=0.125)
    return office(A, B, rewards=rewards, **changes)


def test_a_device_that_cannot_train_gets_what_the_operator_grants():
    desk = grants_to_weak()
    desk.join("pi")
    desk.profiled("pi", profile(can_train=False, reason="no torch"))
    desk.finish_training()
    assert job(desk.state) == Export((0.125, 1.0))
    assert deployments(desk.exported())["pi"] == (0.125, 1)
    assert "granted by the operator" in desk.device("pi").deployed.reason


def test_a_device_that_comes_while_files_are_made_does_not_stop_the_export():
    desk = grants_to_weak().finish_training()
    widths = job(desk.state).widths
    desk.join("pi")
    desk.profiled("pi", profile(can_train=False, reason="no torch"))
    events = desk.exported(widths=widths)
    assert set(deployments(events)) == {A, B}
    assert desk.device("pi").deployed is None


def test_an_untrained_model_is_given_to_nobody():
    desk = grants_to_weak(rounds={"quorum": 2, "failures_limit": 1})
    desk.join("pi")
    desk.profiled("pi", profile(can_train=False, reason="no torch"))
    desk.wait(10.0)
    assert desk.state.scored is None
    assert job(desk.state) == Export(())
    assert deployments(desk.exported()) == {}


def test_a_training_width_that_beats_the_whole_ladder_does_not_stop_the_campaign():
    desk = office(A, B, rewards=Rewards(ladder=(0.75, 1.0)), rounds={"budget": 1, "minimum": 1})
    points = tuple(
        msgspec.structs.replace(point, offered=point.width < 0.6)
        for point in curve({0.25: 0.9, 0.5: 0.9, 0.75: 0.5, 1.0: 0.4})
    )
    for device in (A, B):
        desk.fetched(device)
    desk.scored(points=points)
    assert {reward.width for reward in desk.state.allocation.rewards} == {0.75}


# --- operators ----------------------------------------------------------------------------------


def test_a_suspended_device_is_dropped_from_the_open_round_and_not_invited():
    desk = office(A, B, C)
    events = desk.command("suspend", C)
    assert kinds(events) == ["OperatorActed", "DeviceDropped"]
    assert (events[0].operator, events[0].done) == ("ana", True)
    assert dropped(events) == {C: DropReason.SUSPENDED}
    refused = desk.announced(C)
    assert refused[0].reason is DropReason.SUSPENDED
    desk.round_()
    assert set(desk.state.round.tasks) == {A, B}
    assert kinds(desk.command("resume", C, "c2")) == ["OperatorActed"]
    desk.round_()
    assert set(desk.state.round.tasks) == {A, B, C}


def test_an_update_that_was_accepted_before_the_suspension_still_counts():
    desk = office(A, B, C)
    desk.fetched(C)
    assert kinds(desk.command("suspend", C)) == ["OperatorActed"]
    desk.fetched(A)
    events = desk.fetched(B)
    assert C in events[-1].aggregated


def test_while_rounds_are_paused_the_open_one_is_finished_and_no_other_opens():
    desk = office(A, B)
    assert kinds(desk.command("pause-rounds", "")) == ["OperatorActed"]
    assert desk.state.paused == "paused by ana: maintenance"
    desk.fetched(A)
    assert kinds(desk.fetched(B))[-1] == "RoundClosed"
    desk.scored()
    for _ in range(5):
        assert desk.wait(60.0) == []
    assert desk.state.round.number == 1
    told = summary(desk.state, desk.state.settings)
    assert told.detail == "rounds are paused by ana: maintenance"
    desk.state = desk.replayed()
    assert desk.state.paused
    events = desk.command("resume-rounds", "", "c2")
    assert kinds(events) == ["OperatorActed", "RoundOpened"]


def test_pausing_concerns_the_whole_fleet_and_no_device():
    desk = office(A, B)
    [acted] = desk.command("pause-rounds", A)
    assert not acted.done
    assert acted.detail == "pause-rounds concerns the whole fleet, not 'press'"
    assert not desk.state.paused


def test_a_command_is_carried_out_once():
    desk = office(A, B)
    desk.command("suspend", A, "c1")
    desk.command("resume", A, "c2")
    assert desk.command("suspend", A, "c1") == []
    assert not desk.device(A).suspended
    desk.command("suspend", A, "c1", operator="ben")
    assert desk.device(A).suspended == "suspended by ben: maintenance"


def test_a_command_for_nobody_is_answered():
    desk = office(A)
    [acted] = desk.command("suspend", "x" * 5000)
    assert not acted.done
    assert "no device" in acted.detail
    assert len(acted.detail) <= 300
    assert "x" * 5000 not in desk.state.devices


def test_a_command_with_an_endless_id_is_refused():
    desk = office(A)
    [event] = desk.command("suspend", A, "c" * 65)
    assert isinstance(event, e.MessageRefused)
    assert not desk.device(A).suspended


# --- every order --------------------------------------------------------------------------------

DEVICES = (A, B, C, "saw")
devices = st.sampled_from(DEVICES)
durations = st.sampled_from([0.0, 0.1, 1.0, 4.0, 10.0, 30.0])
SPOILED: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"device": B},
    {"round": 1},
    {"round": 99},
    {"spec_hash": ""},
    {"width": 0.25},
    {"loss": math.nan},
    {"blob": named("b" * 16000)},
    {"blob": blob("second", size=5)},
    {"blob": blob("huge", size=2**62)},
)


DRAWS = (
    (0, "rotation", 1.0),
    (0, "rotation", 1.0),
    (1, "rotation", 1.0),
    (1, "usefulness", 2.0),
    (2, "random", 1.5),
)


# What becomes of late updates: mode, late, staleness_limit, buffer.
LATENESS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"late": "use", "staleness_limit": 1},
    {"late": "use", "staleness_limit": 3},
    {"mode": "buffered", "buffer": 1, "staleness_limit": 2},
    {"mode": "buffered", "buffer": 2},
)


class Campaigns(RuleBasedStateMachine):
    """Whatever comes in whatever order: the promises of the journal hold."""

    @initialize(
        quorum=st.integers(1, 3),
        every=st.integers(0, 2),
        budget=st.integers(1, 4),
        exact=st.booleans(),
        granted=st.sampled_from([0.0, 0.125]),
        mode=st.sampled_from(["post-training", "training-time"]),
        alone_rounds=st.sampled_from([0, 0, 4]),
        caps=st.sampled_from([{}, {A: 0.5}, {B: 0.125}]),
        draw=st.sampled_from(DRAWS),
        lateness=st.sampled_from(LATENESS),
        rule=st.sampled_from(["mean", "mean", "median"]),
    )
    def begin(
        self,
        quorum,
        every,
        budget,
        exact,
        granted,
        mode,
        alone_rounds,
        caps,
        draw,
        lateness,
        rule,
    ):
        cohort, selection, over_selection = draw
        if "buffer" in lateness:
            cohort, quorum = 2 * bool(cohort), min(quorum, lateness["buffer"])
        self.desk = Office(
            settings(
                rounds={
                    "quorum": quorum,
                    "release_every": every,
                    "budget": budget,
                    "failures_limit": 3,
                    "cohort": max(cohort, quorum) if cohort else 0,
                    "selection": selection,
                    "over_selection": over_selection,
                    **lateness,
                },
                aggregation=Aggregation(rule=rule),
                width_policy=WidthPolicy(caps=caps),
                contributions=Contributions(
                    method="exact-shapley" if exact else "permutation-shapley",
                    alone_rounds=alone_rounds,
                ),
                rewards=Rewards(
                    mode=mode,
                    basis="assessment" if alone_rounds and exact else "ledger",
                    ladder=(0.125, 0.25, 0.5, 0.75, 1.0),
                    inference_only_width=granted,
                    caps=caps,
                ),
                releases=Releases(attempts=2, delivery_s=30.0),
            )
        )
        self.desk.start()
        self.desk.say(i.Initialised(digest("round 0"), 0.2))
        for device in DEVICES[:2]:
            self.desk.join(device)
        self.checked = 0
        self.closed = {}
        self.tasks_of = {}
        self.owed = {}
        self.came_late = set()
        self.counters = {}
        self.entitled = {}
        self.assessed = False
        self.promises = CommandPromises()

    @rule(seconds=durations)
    def time_passes(self, seconds):
        self.desk.wait(seconds)

    @rule(seconds=durations)
    def the_server_is_killed_and_starts_again(self, seconds):
        self.desk.now += seconds
        self.desk.state = self.desk.replayed()
        self.desk.start()

    @rule(device=devices, session=st.integers(0, 3))
    def a_device_is_born(self, device, session):
        birth = Birth(status=LinkStatus.ONLINE, session=session, agent="x" * 3000)
        self.desk.say(i.BirthReceived(device, birth))

    @rule(device=devices, link=st.sampled_from(list(e.LinkState)))
    def a_lease_changes(self, device, link):
        self.desk.lease(device, link)

    @rule(
        device=devices,
        widest=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
        changes=st.sampled_from(
            [
                {},
                {},
                {"can_train": False, "reason": "r" * 9000},
                {"memory_budget": -1},
                {"link_bytes_per_s": math.nan},
                {"failures": ("f" * 500,) * 20},
                {"spec_hash": "0"},
            ]
        ),
    )
    def a_device_measures_itself(self, device, widest, changes):
        self.desk.profiled(device, profile(widest, **changes))

    @precondition(lambda self: self.desk.state.round)
    @rule(
        device=devices,
        stage=st.sampled_from(list(Stage)),
        reason=st.sampled_from([None, *DropReason]),
        earlier=st.integers(0, 1),
    )
    def a_device_reports_progress(self, device, stage, reason, earlier):
        number = self.desk.state.round.number - earlier
        self.desk.progress(device, stage, number, reason=reason, detail="d" * 9000)

    @precondition(lambda self: self.desk.state.round)
    @rule(device=devices, changes=st.sampled_from(SPOILED))
    def an_update_is_announced(self, device, changes):
        self.desk.announced(device, **changes)

    @precondition(lambda self: self.desk.state.round)
    @rule(
        device=devices,
        changes=st.sampled_from(SPOILED),
        fault=st.sampled_from([None, None, None, (DropReason.NOT_FINITE, "n" * 50_000)]),
    )
    def an_update_is_fetched(self, device, changes, fault):
        self.desk.fetched(device, fault, **changes)

    @precondition(lambda self: isinstance(job(self.desk.state), Score))
    @rule(
        scores=st.dictionaries(devices, st.floats(-1, 1)),
        better=st.booleans(),
        points=st.lists(st.floats(0, 1), min_size=5, max_size=5),
    )
    def the_worker_scores(self, scores, better, points):
        widths = (0.125, 0.25, 0.5, 0.75, 1.0)
        self.desk.scored(
            scores, better=better, points=curve(dict(zip(widths, sorted(points), strict=True)))
        )

    @precondition(lambda self: isinstance(job(self.desk.state), Assess))
    @rule(scores=st.dictionaries(devices, st.floats(0, 1)))
    def the_worker_assesses(self, scores):
        self.desk.assessed(scores)

    @precondition(lambda self: isinstance(job(self.desk.state), Export))
    @rule(worse=st.sampled_from(["", "", "w" * 20_000]))
    def the_worker_exports(self, worse):
        self.desk.exported(worse)

    # Chance alone seldom takes a campaign far.

    @precondition(lambda self: self.desk.state.phase is Phase.TRAINING)
    @rule(without=st.sets(devices, max_size=1))
    def everybody_answers(self, without):
        for device in self.desk.state.round.tasks:
            if device not in without:
                self.desk.fetched(device)

    @precondition(lambda self: self.desk.state.owed)
    @rule()
    def who_is_late_answers(self):
        for device in list(self.desk.state.owed):
            self.desk.fetched(device)

    @precondition(lambda self: self.desk.state.phase is Phase.TRAINING)
    @rule(scores=st.sampled_from([{}, {}, {A: 0.0}, {A: 0.02, B: 0.3}, {B: -0.5}]))
    def training_goes_on_undisturbed(self, scores):
        while self.desk.state.phase is Phase.TRAINING:
            self.everybody_answers(set())
            for device in list(self.desk.state.owed):
                self.desk.fetched(device)
            if isinstance(job(self.desk.state), Score):
                self.desk.scored(scores)
            elif isinstance(job(self.desk.state), Assess):
                self.desk.assessed()

    @precondition(lambda self: self.desk.state.phase is Phase.DELIVERING)
    @rule()
    def everybody_confirms(self):
        for device in list(self.desk.state.devices.values()):
            if device.deployed:
                self.desk.confirm(device.device)

    @precondition(lambda self: job(self.desk.state) is not None)
    @rule()
    def the_worker_fails(self):
        self.desk.failed("t" * 20_000)

    @rule(
        device=devices,
        counter=st.sampled_from([0, 1, 2, 3, 2**64 - 1]),
        state=st.sampled_from(list(InstallState)),
        right=st.booleans(),
        code=st.sampled_from(["", "try-again", "try-again:killed"]),
    )
    def a_device_reports_what_it_runs(self, device, counter, state, right, code):
        known = self.desk.state.devices.get(device)
        deployed = known.deployed if known else None
        report = Report(counter=counter, state=state, running="f" * 64, detail="x" * 9000)
        if right and deployed:
            report = Report(
                counter=deployed.counter,
                state=state,
                running=deployed.digest,
                width=deployed.width,
                code=code,
            )
        self.desk.say(i.ReportReceived(device, report))

    @rule(
        device=devices,
        action=st.sampled_from(list(OperatorAction)),
        command_id=st.sampled_from([*map(str, range(20)), "4" * 9000]),
        operator=st.sampled_from(["ana", "ben"]),
        width=st.sampled_from([0.0, 0.25, 0.5, 1.0, 0.3, math.nan]),
        reason=st.sampled_from(["hot", "", "r" * 9000]),
    )
    def an_operator_acts(self, device, action, command_id, operator, width, reason):
        concerned = "" if action.endswith("rounds") else device
        self.desk.command(action, concerned, command_id, operator, reason, width=width)

    # Chance alone seldom has a release to go back to.

    @precondition(lambda self: any(len(one.ran) > 1 for one in self.desk.state.devices.values()))
    @rule(back=st.booleans(), number=st.integers(0, 1000))
    def an_operator_moves_who_ran_two_releases(self, back, number):
        device = next(one for one in self.desk.state.devices.values() if len(one.ran) > 1)
        action = "roll-back" if back else "roll-forward"
        self.desk.command(action, device.device, f"move {number}")

    @rule(width=st.sampled_from([0.25, 1.0]))
    def a_blob_is_on_the_broker(self, width):
        self.desk.say(i.BlobPublished("round-1", width, "a" * 64, 10))

    @invariant()
    def every_new_event_keeps_the_promises(self):
        if not hasattr(self, "desk"):
            return
        for event, _ in self.desk.log[self.checked :]:
            self.check(event)
        self.checked = len(self.desk.log)

    def check(self, event):
        number = getattr(event, "round", None)
        self.promises.check(event, self.desk.state)
        match event:
            case e.RoundOpened():
                assert number == len(self.closed) + 1, "two rounds at once, or one left out"
                assert None not in self.closed.values()
                rounds = self.desk.settings.rounds
                assert len(event.tasks) >= event.quorum or rounds.uses_late
                assert not {task.device for task in event.tasks} & set(self.owed), "busy"
                if rounds.cohort and not event.assessment:
                    most = math.ceil(rounds.cohort * rounds.over_selection)
                    assert len(event.tasks) <= max(most, rounds.quorum)
                else:
                    assert not event.not_drawn
                assert not set(event.not_drawn) & {task.device for task in event.tasks}
                assert set(event.not_drawn) <= set(event.not_invited)
                policy = self.desk.settings.width_policy
                for task in event.tasks:
                    assert task.width <= policy.caps.get(task.device, 1.0)
                self.closed[number] = None
                self.quorum = event.quorum
                self.tasks = {task.device: task for task in event.tasks}
                self.tasks_of[number] = self.tasks
                self.answers = {}
                self.assessing = event.assessment
                if self.desk.settings.rewards.mode == "training-time" and not event.assessment:
                    for task in event.tasks:
                        assert task.width <= self.entitled.get(task.device, 0.25)
            case e.TaskProgressed() | e.DeviceDropped() | e.UpdateAccepted() if (
                self.closed[number] is not None
            ):
                key = event.device, number
                if isinstance(event, e.DeviceDropped) and key in self.came_late:
                    assert event.reason is DropReason.SURPLUS
                    self.came_late.remove(key)
                    return
                assert self.owed.get(event.device) == number, "a closed round changed"
                if not isinstance(event, e.TaskProgressed):
                    del self.owed[event.device]
                if isinstance(event, e.UpdateAccepted):
                    assert event.width == self.tasks_of[number][event.device].width
                    self.came_late.add(key)
            case e.TaskProgressed() | e.DeviceDropped() | e.UpdateAccepted():
                assert event.device in self.tasks
                if getattr(event, "reason", None) is DropReason.ROUND_ABANDONED and isinstance(
                    self.answers.get(event.device), e.UpdateAccepted
                ):
                    return
                if not isinstance(event, e.TaskProgressed):
                    assert event.device not in self.answers, "answered twice"
                    self.answers[event.device] = event
                if isinstance(event, e.UpdateAccepted):
                    assert event.width == self.tasks[event.device].width
                if isinstance(event, e.DeviceDropped):
                    assert event.reason in DropReason
            case e.RoundClosed():
                assert self.closed[number] is None, "closed twice"
                left = set(self.tasks) - set(self.answers)
                assert left == set(event.owed), "nobody is left without a reason"
                assert not event.owed or self.desk.settings.rounds.uses_late
                assert not (event.owed or event.late) or not self.assessing
                self.owed |= dict.fromkeys(event.owed, number)
                arrived = {
                    device
                    for device, answer in self.answers.items()
                    if isinstance(answer, e.UpdateAccepted)
                }
                assert set(event.aggregated) in (arrived, set())
                counted = {(step.device, step.round) for step in event.late}
                assert counted in (self.came_late, set()), "a late update counts, and once"
                self.came_late -= counted
                voices = {*event.aggregated, *(step.device for step in event.late)}
                assert not voices or len(voices) >= self.quorum
                for step in event.late:
                    assert 0 <= step.staleness <= self.desk.settings.rounds.staleness_limit
                    assert step.weight == (1 + step.staleness) ** -0.5
                if self.desk.settings.aggregation.rule == "median":
                    assert len(voices) == len(event.aggregated) + len(event.late)
                surplus = [
                    device
                    for device, answer in self.answers.items()
                    if isinstance(answer, e.DeviceDropped) and answer.reason is DropReason.SURPLUS
                ]
                assert not surplus or len(arrived) >= self.desk.settings.rounds.cohort > 0
                self.closed[number] = event
            case e.RoundScored():
                closed = self.closed[number]
                assert closed.aggregated or closed.late
                assert not self.assessing
                entered = [one.device for one in event.contributions]
                assert len(entered) == len(set(entered))
            case e.AloneMeasured():
                assert self.closed[number].aggregated
                assert self.assessing
                assert not self.assessed, "assessed twice"
                self.assessed = True
            case e.EntitlementsRevised():
                self.entitled |= event.widths
                grid = self.desk.settings.widths
                assert set(event.widths.values()) <= set(grid)
            case e.DeploymentIssued():
                assert event.counter > self.counters.get(event.device, 0)
                self.counters[event.device] = event.counter
                known = self.desk.state.devices[event.device]
                assert not event.digest or event.digest in self.desk.state.releases
                assert known.device == event.device
                assert event.width <= self.desk.settings.rewards.caps.get(event.device, 1.0)
            case e.RewardsAllocated():
                best = max((reward.contribution for reward in event.rewards), default=0.0)
                for reward in event.rewards:
                    assert reward.contribution < best or reward.width == max(
                        one.width for one in event.rewards
                    )

    @invariant()
    def every_receipt_is_of_a_committed_verdict(self):
        judged = {
            (event.device, event.round, event.blob, type(event) is e.UpdateAccepted)
            for event in self.desk.of(e.UpdateAccepted | e.UpdateRefused)
        }
        accepted = {entry[:3] for entry in judged if entry[3]}
        refused = {entry[:3] for entry in judged if not entry[3]}
        assert not accepted & refused, "an update was both accepted and refused"
        for device in self.desk.state.devices.values():
            if device.receipt:
                verdict = device.receipt.verdict is Verdict.ACCEPTED
                found = (device.device, device.receipt.round, device.receipt.blob, verdict)
                assert found in judged

    @invariant()
    def everything_that_must_be_said_can_be_said(self):
        from broker.codec import encode
        from broker.envelope import generate_signing_key, sign

        key = generate_signing_key()
        shares = {wanted: share_of(wanted) for wanted in shared(self.desk.state)}
        for message in publications(
            self.desk.state, shares, lambda document, kind: sign(document, kind, key)
        ).values():
            if message is not None:
                encode(message)

    @invariant()
    def nothing_that_is_still_needed_is_deleted(self):
        if not hasattr(self, "desk"):
            return
        state, needed = self.desk.state, needed_blobs(self.desk.state)
        assert {owed.opened.base for owed in state.owed.values()} <= needed
        if isinstance(job(state), Score):
            order = score_job(state)
            assert order.updates
            assert len({one.player for one in order.updates}) == len(order.updates)
            read = {one.digest for one in order.updates} | {one.base for one in order.updates}
            assert read | {order.base, *order.known, *order.known_to_late} <= needed | {""}

    def teardown(self):
        if hasattr(self, "desk"):
            assert self.desk.replayed() == self.desk.state


Campaigns.TestCase.settings = search(max_examples=60, stateful_step_count=40)
TestCampaigns = Campaigns.TestCase


def test_the_clock_of_a_campaign_is_the_one_it_was_given():
    desk = office(A, B)
    assert desk.state.round.opened_at == START
    assert desk.state.round.deadline == START + 10.0
    assert desk.state.round.opened.training.steps == 2
    assert desk.state.spec_hash == SPEC


# --- odd conditions, and what the operator is told ----------------------------------------------


def told(desk):
    return summary(desk.state, desk.settings).detail


def test_a_restart_with_a_clock_that_is_behind_waits_for_no_deadline_longer_than_it_lasts():
    desk = office(A, B, C)
    desk.fetched(A)
    desk.fetched(B)
    desk.now -= 86400.0
    desk.start()
    assert desk.state.round.deadline == desk.now + 10.0
    assert dropped(desk.wait(10.0)) == {C: DropReason.LATE}
    assert desk.replayed() == desk.state


def test_a_pause_that_began_in_the_future_lasts_no_longer_than_a_pause():
    desk = office(A, B)
    desk.wait(10.0)
    assert desk.state.failures == 1
    desk.now -= 86400.0
    desk.start()
    assert desk.wait(4.9) == []
    assert kinds(desk.wait(0.2)) == ["RoundOpened"]


def test_a_clock_that_jumps_ahead_costs_one_round_and_no_more():
    desk = office(A, B)
    desk.fetched(A)
    assert kinds(desk.wait(1e6))[-1] == "RoundClosed"
    assert told(desk) == "round 1 missed its quorum: it is tried again after 5 s"
    assert kinds(desk.wait(5.0)) == ["RoundOpened"]
    desk.round_()
    assert desk.state.trained_rounds == 1


def test_a_round_ends_as_soon_as_its_quorum_is_out_of_reach_and_says_why():
    desk = office(A, B, C, "saw", rounds={"quorum": 3, "failures_limit": 2})
    desk.fetched(A)
    desk.progress(B, Stage.STARTED)
    assert desk.progress(C, Stage.DECLINED) != []
    assert desk.state.phase is Phase.TRAINING, "three may still answer"
    events = desk.progress("saw", Stage.FAILED, reason=DropReason.OUT_OF_MEMORY)
    assert dropped(events) == {
        "saw": DropReason.OUT_OF_MEMORY,
        A: DropReason.ROUND_ABANDONED,
        B: DropReason.ROUND_ABANDONED,
    }
    assert events[-1].reason == (
        "1 of 4 updates in 0.0 s, quorum is 3: not aggregated, as too few others could still answer"
    )
    assert told(desk) == "round 1 missed its quorum: it is tried again after 5 s"
    assert "the others were too few for the quorum of 3" in desk.device(B).last_drop
    desk.wait(5.0)
    assert set(desk.state.round.tasks) == {A, B, C, "saw"}
    desk.round_()
    assert desk.state.failures == 0


def test_a_fleet_that_is_too_small_for_the_quorum_says_who_is_missing_and_goes_on_with_it():
    desk = office(A, B)
    desk.lease(B, OFFLINE)
    desk.round_(without=[B])
    desk.wait(5.0)
    assert told(desk) == (
        "round 1 missed its quorum; no round opens: 1 of the 2 devices of the quorum can train and"
        " are there; lathe: link is offline"
    )
    for _ in range(50):
        assert desk.wait(1000.0) == []
    assert not desk.state.stopped
    assert kinds(desk.lease(B))[-1] == "RoundOpened"


def test_a_deadline_that_nobody_can_meet_is_said_of_the_fleet_and_of_each_device():
    desk = office(rounds={"deadline_s": 0.1, "min_devices": 2})
    for device in (A, B, C):
        desk.join(device)
    desk.wait(1e5)
    assert desk.state.round is None
    assert told(desk).startswith(
        "no round opens: 0 of the 2 devices of the quorum can train and are there; lathe: no width"
    )
    for device in (A, B, C):
        assert "no width fits" in desk.device(device).reason
        assert desk.device(device).participation is Participation.CANNOT


def test_a_deadline_that_is_met_by_the_profiles_alone_ends_training_and_says_so():
    desk = office(A, B, rounds={"failures_limit": 3, "retry_s": 1.0})
    for number in range(1, 3):
        desk.wait(10.0)
        assert desk.state.failures == number
        assert "missed its quorum: it is tried again after 1 s" in told(desk)
        desk.wait(1.0)
    desk.wait(10.0)
    assert desk.state.stopped == "3 rounds in a row missed their quorum"


def test_spec_versions_that_differ_are_said_of_each_device_and_stall_nobody():
    desk = office(rounds={"min_devices": 3, "quorum": 2})
    desk.join(A)
    desk.join(B)
    desk.join(C, spec_hash="6" * 64)
    assert set(desk.state.round.tasks) == {A, B}
    assert "update the device" in desk.device(C).reason
    desk.round_()
    assert desk.state.trained_rounds == 1
    lonely = office(rounds={"min_devices": 2, "quorum": 2})
    for device in (A, B):
        lonely.join(device, spec_hash="6" * 64)
    lonely.wait(1e5)
    assert "no round opens: 0 of the 2 devices" in told(lonely)
    assert "update the device" in told(lonely)


def test_a_device_that_flaps_is_invited_while_it_is_there_and_waited_for_once():
    desk = office(A, B, C)
    for number in range(1, 4):
        for link in (OFFLINE, ONLINE) * 20:
            desk.lease(C, link)
        desk.lease(C, OFFLINE)
        desk.fetched(A)
        desk.fetched(B)
        events = desk.wait(10.0)
        assert dropped(events) == {C: DropReason.OFFLINE}
        assert desk.device(C).last_drop.startswith(f"round {number}: offline")
        desk.lease(C, ONLINE)
        desk.scored()
    assert desk.state.stopped == "budget of 3 rounds is used"
