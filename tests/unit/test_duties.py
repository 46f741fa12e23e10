"""What must stand on the broker, derived from the state alone."""

from dataclasses import replace

import msgspec
import pytest

from broker import messages as m
from broker.codec import CONTROL_LIMIT, encode
from broker.envelope import Verifier, generate_signing_key, key_id, public_key_of, sign
from broker.errors import ReleaseError
from broker.topics import DownTopic, ResultTopic, ServerSays, ServerTells, ServerTopic
from coordinator import inputs as i
from coordinator.duties import (
    Export,
    Initialise,
    Score,
    SharedRelease,
    SharedWeights,
    job,
    needed_blobs,
    shared,
)
from coordinator.fleet import Campaign, Phase
from coordinator.fleet_summary import SUMMARY_LIMIT, participation, phase_detail
from coordinator.publications import publications
from coordinator.settings import Contributions, Rewards
from journal import events as e
from tests.fakes.office import MIB, OFFLINE, Office, digest, profile, settings, share_of

A, B, C = "press", "lathe", "mill"
KEY = generate_signing_key()
SECRET = b"KEY-" * 8  # of every share in these tests
STATE, SUMMARY = ServerTopic(ServerTells.STATE), ServerTopic(ServerTells.SUMMARY)


def office(*devices, rounds=None, **changes):
    waits = {"min_devices": max(2, len(devices))}
    return Office(settings(rounds=waits | (rounds or {}), **changes)).begin(*devices)


def said(desk, *, all_shared=True):
    shares = {wanted: share_of(wanted) for wanted in shared(desk.state)} if all_shared else {}
    return publications(desk.state, shares, lambda document, kind: sign(document, kind, KEY))


def to(device, channel):
    return DownTopic(device, channel)


def task_of(desk, device, **changes):
    return said(desk, **changes)[to(device, ServerSays.TASK)]


def order_of(desk, device, **changes):
    return said(desk, **changes).get(to(device, ServerSays.DEPLOYMENT))


def standing_of(desk, device):
    return said(desk)[to(device, ServerSays.STANDING)]


def delivering(contributions=None, devices=(A, B, C)):
    desk = office(*devices).finish_training(contributions)
    desk.exported()
    return desk


# --- determinism --------------------------------------------------------------------------------


def test_before_the_campaign_begins_there_is_nothing_to_say():
    assert publications(Campaign(), {}, None) == {}
    assert shared(Campaign()) == set()
    assert job(Campaign()) is None


def test_a_restarted_server_says_exactly_what_it_said_before():
    for desk in (office(A, B), delivering({A: 0.2, B: 0.2, C: 0.0})):
        again = Office(desk.settings)
        again.state = desk.replayed()
        assert said(again) == said(desk)
        assert {topic: encode(body) for topic, body in said(again).items() if body} == {
            topic: encode(body) for topic, body in said(desk).items() if body
        }


# --- jobs ---------------------------------------------------------------------------------------


def test_one_job_is_due_at_a_time():
    desk = Office()
    desk.start()
    assert job(desk.state) == Initialise()
    desk.say(i.Initialised(digest("round 0"), 0.2))
    assert job(desk.state) is None
    desk.join(A)
    desk.join(B)
    assert job(desk.state) is None
    desk.fetched(A)
    desk.fetched(B)
    assert job(desk.state) == Score(1)
    desk.scored()
    desk.finish_training()
    assert job(desk.state) == Export((1.0,))
    desk.exported()
    assert job(desk.state) is None


# --- weights and tasks --------------------------------------------------------------------------


def test_weights_of_a_width_are_shared_once_however_many_devices_train_it():
    desk = Office(settings(rounds={"min_devices": 4})).begin(A, B, C, "saw", saw=0.5)
    base = desk.state.round.opened.base
    assert shared(desk.state) == {SharedWeights(1, 1.0, base), SharedWeights(1, 0.5, base)}


def test_weights_are_shared_until_everybody_of_that_width_answered():
    desk = Office(settings(rounds={"min_devices": 3})).begin(A, B, C, mill=0.5)
    base = desk.state.round.opened.base
    desk.fetched(C)
    assert shared(desk.state) == {SharedWeights(1, 1.0, base)}
    desk.fetched(A)
    desk.fetched(B)
    assert shared(desk.state) == set()


def test_a_task_goes_to_whom_it_was_given_and_not_to_others():
    desk = office(A, B)
    desk.join(C)
    task = task_of(desk, A)
    assert (task.round, task.width, task.key) == (1, 1.0, SECRET)
    assert task.weights == share_of(next(iter(shared(desk.state)))).reference
    assert task.seed != task_of(desk, B).seed
    assert task_of(desk, C) is None


@pytest.mark.parametrize("evaluator", ["server", "devices"])
def test_a_task_asks_for_an_evaluation_where_devices_measure(evaluator):
    task = task_of(office(A, B, contributions=Contributions(evaluator=evaluator)), A)
    assert task.evaluate == (evaluator == "devices")


def test_a_task_is_held_back_until_its_weights_are_on_the_broker():
    desk = office(A, B)
    assert task_of(desk, A, all_shared=False) is None


def test_a_task_ends_with_its_answer():
    desk = office(A, B, C)
    desk.fetched(A)
    desk.progress(B, m.Stage.FAILED)
    assert task_of(desk, A) is None
    assert task_of(desk, B) is None
    assert task_of(desk, C) is not None
    desk.wait(10.0)
    assert task_of(desk, C) is None


def test_a_suspended_device_loses_its_task():
    desk = office(A, B, C)
    desk.command("suspend", A)
    assert task_of(desk, A) is None


def test_an_older_task_does_not_come_back_with_the_next_round():
    desk = office(A, B)
    desk.round_()
    assert task_of(desk, A).round == 2


# --- what everybody may read --------------------------------------------------------------------

CARRIERS = {ServerSays.TASK, ServerSays.DEPLOYMENT}


def test_keys_stand_in_tasks_and_deployments_only():
    stages = [office(A, B, C), delivering({A: 0.2, B: 0.2, C: 0.0})]
    stages[0].command("suspend", C)
    stages[0].fetched(A)
    carried = 0
    for desk in stages:
        for topic, body in said(desk).items():
            if body is None:
                continue
            holds_key = SECRET in encode(body)
            if isinstance(topic, DownTopic) and topic.channel in CARRIERS:
                carried += holds_key
            else:
                assert not holds_key, topic
        assert SECRET not in msgspec.json.encode([event for event, _ in desk.log])
    assert carried == 3


def test_the_key_of_a_width_goes_to_nobody_who_trains_another():
    desk = Office(settings(rounds={"min_devices": 2})).begin(A, B, lathe=0.5)
    shares = {wanted: share_of(wanted) for wanted in shared(desk.state)}
    keys = iter((b"1" * 32, b"2" * 32))
    keyed = {wanted: replace(share, key=next(keys)) for wanted, share in shares.items()}
    found = publications(desk.state, keyed, lambda document, kind: sign(document, kind, KEY))
    for device, width in ((A, 1.0), (B, 0.5)):
        [share] = [share for wanted, share in keyed.items() if wanted.width == width]
        assert found[to(device, ServerSays.TASK)].key == share.key


def test_the_server_says_what_to_profile_and_that_widths_are_held_while_training():
    state = said(office(A))[STATE]
    assert (state.status, state.model) == (m.LinkStatus.ONLINE, "cnn1d")
    assert state.widths == (0.25, 0.5, 0.75, 1.0)
    assert "post-training" in state.notice


def test_the_summary_counts_who_is_there():
    desk = office(A, B, C)
    desk.lease(B, OFFLINE)
    summary = said(desk)[SUMMARY]
    assert (summary.phase, summary.round, summary.rounds, summary.online) == ("training", 1, 3, 2)
    assert [line.device for line in summary.devices] == sorted([A, B, C])
    assert summary.score is None
    desk.round_()
    assert said(desk)[SUMMARY].score == 0.8


@pytest.mark.parametrize("count", [SUMMARY_LIMIT, 200])
def test_a_large_fleet_with_long_names_fits_into_the_summary(count):
    desk = office()
    names = [f"{number:04d}-{'x' * 59}" for number in range(count)]
    for name in names:
        desk.lease(name, e.LinkState.NEVER_SEEN)
        desk.command("suspend", name, f"stop {name[:4]}")
    stuck = "x" * 50_000
    desk.state = replace(desk.state, withheld=stuck, phase=Phase.FINISHED)
    summary = said(desk)[SUMMARY]
    assert len(encode(summary)) <= CONTROL_LIMIT
    assert len(summary.devices) + summary.more == count


@pytest.mark.parametrize("letter", ["x", "é", "語", "🦾"])
def test_whatever_others_wrote_a_standing_and_a_receipt_stay_messages(letter):
    long = letter * 4000
    desk = office(A, B, C, rounds={"quorum": 1})
    desk.progress(A, m.Stage.FAILED, detail=long)
    desk.profiled(A, profile(can_train=False, reason=long))
    desk.profiled(B, profile(0.25, failures=(long,) * 3))
    desk.command("suspend", B, reason=long)
    desk.fetched(C, fault=(m.DropReason.WRONG_SHAPE, f"tensor {long * 10} is not in the spec"))
    desk.profiled(C, profile(model=long))
    desk.born(C, 2, agent=long, running=long)
    for device in (A, B, C):
        assert len(encode(standing_of(desk, device))) <= CONTROL_LIMIT
    assert said(desk)[to(C, ServerSays.RECEIPT)].detail.endswith("…")
    for body in said(desk).values():
        if body is not None:
            encode(body)


# --- standing -----------------------------------------------------------------------------------


def test_a_standing_says_each_width_with_its_sentence():
    desk = delivering({A: 0.2, B: 0.2, C: 0.0})
    desk.confirm(A)
    top, rider = standing_of(desk, A), standing_of(desk, C)
    assert top.participation is m.Participation.TAKES_PART
    assert (top.training_width, top.entitled_width, top.deployed_width, top.running_width) == (
        1.0,
        1.0,
        1.0,
        1.0,
    )
    assert set(top.width_reasons) == {"training", "entitled", "deployed", "running"}
    assert all(top.width_reasons.values())
    assert top.confirmed == desk.device(A).deployed.digest
    assert (top.rounds_taken, top.contribution) == (3, pytest.approx(0.6))
    assert (rider.entitled_width, rider.deployed_width, rider.confirmed) == (0.0, 0.0, "")
    assert "below the cut-off" in rider.width_reasons["entitled"]
    assert rider.width_reasons["deployed"] == "nothing was deployed yet"


def test_what_is_not_confirmed_is_not_called_so():
    desk = delivering()
    desk.confirm(A, m.InstallState.INSTALLED)
    assert standing_of(desk, A).confirmed == ""
    assert standing_of(desk, A).width_reasons["running"] == "not confirmed"


def test_rewards_are_promised_until_they_are_allocated_and_not_after():
    desk = office(A, B)
    assert "when training is over" in standing_of(desk, A).width_reasons["entitled"]
    desk.finish_training()
    desk.join("newcomer")
    why = standing_of(desk, "newcomer").width_reasons["entitled"]
    assert why == "no release: the device was never invited to a round"


def test_a_weak_and_a_suspended_device_read_why():
    desk = office(A, B)
    desk.profiled(A, profile(memory_budget=MIB // 2))
    desk.command("suspend", B)
    assert standing_of(desk, A).participation is m.Participation.CANNOT
    assert "no width fits" in standing_of(desk, A).reason
    assert participation(desk.device(B)) == (
        m.Participation.SUSPENDED,
        "suspended by ana: maintenance",
    )
    desk.command("resume", B, "c2")
    assert participation(desk.device(B))[0] is m.Participation.TAKES_PART


def test_a_drop_is_told_with_its_reason():
    desk = office(A, B, C)
    desk.progress(A, m.Stage.FAILED, reason=m.DropReason.OUT_OF_MEMORY, detail="oom at width 1")
    found = standing_of(desk, A)
    assert found.last_drop == "round 1: out-of-memory (oom at width 1)"
    assert found.rounds_missed == 1


# --- receipts and results -----------------------------------------------------------------------


def test_a_receipt_stands_as_long_as_nothing_newer_was_judged():
    desk = office(A, B, C)
    assert to(A, ServerSays.RECEIPT) not in said(desk)
    desk.fetched(A)
    desk.announced(B, width=0.5)
    accepted, refused = (said(desk)[to(device, ServerSays.RECEIPT)] for device in (A, B))
    assert (accepted.verdict, accepted.reason) == (m.Verdict.ACCEPTED, None)
    assert (refused.verdict, refused.reason) == (m.Verdict.REFUSED, m.DropReason.WRONG_WIDTH)
    assert refused.detail
    desk.wait(10.0)
    assert said(desk)[to(A, ServerSays.RECEIPT)] == accepted


def test_an_operator_reads_the_answer_to_the_last_command():
    desk = office(A)
    desk.command("suspend", A, "c1")
    desk.command("suspend", "nobody", "c2")
    desk.command("resume", A, "c9", operator="ben")
    found = said(desk)
    assert found[ResultTopic("ana")] == m.CommandResult(
        command_id="c2", done=False, detail="no device 'nobody' in this fleet"
    )
    assert found[ResultTopic("ben")].done


# --- deployments --------------------------------------------------------------------------------


def verified(order, device):
    public = public_key_of(KEY)
    verifier = Verifier({key_id(public): public}, "plant", device)
    return verifier.deployment(order.deployment, 1_800_000_000.0, 0)


def test_a_deployment_waits_for_its_file_and_names_one_device():
    desk = delivering()
    assert shared(desk.state) == {SharedRelease(desk.device(A).deployed.digest)}
    assert order_of(desk, A, all_shared=False) is None
    order = order_of(desk, A)
    assert order.key == SECRET
    assert verified(order, A).digest == desk.device(A).deployed.digest
    with pytest.raises(ReleaseError):
        verified(order, B)


def test_once_answered_the_key_and_the_file_go_away_but_the_order_stays():
    desk = delivering()
    for device in (A, B, C):
        desk.confirm(device)
    assert shared(desk.state) == set()
    order = order_of(desk, A, all_shared=False)
    assert order.key == b""
    assert order.release is not None
    assert order.blob is not None


def test_a_device_that_lost_its_files_gets_them_again():
    desk = delivering()
    for device in (A, B, C):
        desk.confirm(device)
    desk.confirm(A, m.InstallState.DOWNLOADING, running="")
    assert shared(desk.state) == {SharedRelease(desk.device(A).deployed.digest)}
    assert order_of(desk, A).key == SECRET
    assert order_of(desk, B).key == SECRET, "shared again, so whoever is entitled may open it"


def test_a_model_that_is_taken_away_needs_no_file():
    desk = office(A, B, rounds={"budget": 2, "minimum": 2, "release_every": 1})
    desk.round_({A: 0.2, B: 0.2})
    desk.exported()
    desk.round_({A: 0.2, B: -0.3})
    desk.exported()
    order = order_of(desk, B, all_shared=False)
    assert (order.release, order.blob, order.key) == (None, None, b"")
    assert (verified(order, B).digest, verified(order, B).counter) == ("", 2)


def test_a_rider_gets_no_deployment():
    desk = delivering({A: 0.2, B: 0.2, C: 0.0})
    assert order_of(desk, C) is None


@pytest.mark.parametrize("counter", [5, 2**64 - 1])
def test_a_counter_that_a_device_claims_never_breaks_the_next_order(counter):
    desk = office(A, B)
    for device in (A, B):
        report = m.Report(counter=counter, state=m.InstallState.CONFIRMED, running="f" * 64)
        desk.say(i.ReportReceived(device, report))
    desk.finish_training()
    desk.exported()
    assert verified(order_of(desk, A), A).counter > min(counter, 2**53)
    encode(order_of(desk, A))


# --- what is kept -------------------------------------------------------------------------------


def test_blobs_are_kept_as_long_as_something_reads_them():
    desk = office(A, B)
    first = digest("round 0")
    desk.fetched(A)
    update = desk.state.round.tasks[A].update.digest
    assert needed_blobs(desk.state) == {first, update}
    desk.fetched(B)
    assert update in needed_blobs(desk.state), "not scored yet"
    desk.scored()
    assert update not in needed_blobs(desk.state)
    assert needed_blobs(desk.state) == {first, digest("round 1")}, "the step between is known"
    desk.round_()
    assert needed_blobs(desk.state) == {digest("round 1"), digest("round 2")}
    desk.finish_training()
    desk.exported()
    assert set(desk.state.releases) <= needed_blobs(desk.state)


def test_every_phase_is_told_in_one_sentence():
    desk = Office(settings(rounds={"min_devices": 2}))
    desk.begin(A)
    assert phase_detail(desk.state) == "1 of 2 devices said what they can do"
    desk.join(B)
    desk.fetched(A)
    assert phase_detail(desk.state) == "round 1: 1 of 2 devices answered"
    desk.fetched(B)
    assert phase_detail(desk.state) == "round 1: measuring the aggregate and contributions"
    desk.scored()
    desk.finish_training()
    assert phase_detail(desk.state) == "exporting ONNX files (budget of 3 rounds is used)"
    desk.exported()
    desk.confirm(A)
    assert phase_detail(desk.state) == "1 of 2 devices confirmed their release"
    desk.confirm(B)
    assert phase_detail(desk.state) == "budget of 3 rounds is used"


def test_an_inference_only_device_is_told_what_the_operator_grants():
    rewards = Rewards(ladder=(0.125, 1.0), inference_only_width=0.125)
    desk = office(A, B, rewards=rewards)
    desk.join("pi")
    desk.profiled("pi", profile(can_train=False, reason="no torch"))
    found = standing_of(desk, "pi")
    assert found.entitled_width == 0.125
    assert "granted by the operator" in found.width_reasons["entitled"]
