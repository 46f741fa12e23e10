"""The device's side of the protocol, input by input: no link, no disk, no clock."""

import msgspec
import pytest

from broker import messages as m
from broker.envelope import Verifier, public_key_of, sign
from broker.messages import DropReason, InstallState, LinkStatus, Stage, Verdict
from edge_agent.actions import (
    CancelTask,
    FetchWeights,
    Install,
    KeepUpdate,
    MakeProfile,
    NoteStanding,
    RemoveModel,
    Say,
    SendUpdate,
    SettleUpdate,
    Train,
)
from edge_agent.inputs import (
    Acknowledged,
    InstallDone,
    ProfileMade,
    ServerSaid,
    TaskBroke,
    Tick,
    TrainingDone,
    UpdateKept,
    UpdateSent,
    WeightsArrived,
)
from edge_agent.session import (
    RETRY_S,
    SEND_AGAIN_S,
    TRY_AGAIN,
    AgentSession,
    Installed,
)
from tests.fakes.toy_onnx import always

FLEET, DEVICE = "plant", "press"
KEY = bytes(range(32))
NOW = 1000.0
BUDGET_S = 60.0
SPEC = "5" * 64
ONNX, MANIFEST = always(1)
OTHER_ONNX, OTHER_MANIFEST = always(2)

SERVER = m.ServerState(
    status=LinkStatus.ONLINE,
    model="toy",
    spec_hash=SPEC,
    widths=(0.5, 1.0),
    batch_size=32,
    heartbeat_s=5.0,
    block_size=4096,
)
# The link is known to be as fast as transfers are here: that is no news.
PROFILE = m.Profile(
    model="toy", spec_hash=SPEC, batch_size=32, can_train=True, link_bytes_per_s=100.0
)
SETTINGS = m.TrainingSettings(
    steps=4, batch_size=32, learning_rate=0.1, momentum=0.9, weight_decay=0.0, widths=(0.5, 1.0)
)


def blob(name="b"):
    return m.BlobReference(blob=name * 64, size=10, block_size=4096, plaintext="c" * 64)


def task(number):
    return m.Task(
        round=number,
        width=0.5,
        model="toy",
        options={},
        spec_hash=SPEC,
        weights=blob(),
        key=b"k" * 32,
        training=SETTINGS,
        budget_s=BUDGET_S,
        seed=1,
    )


def update(number, name="d"):
    return m.Update(
        device=DEVICE, round=number, width=0.5, model="toy", spec_hash=SPEC, blob=blob(name)
    )


def receipt(number, name="d"):
    return m.Receipt(round=number, blob=name * 64, verdict=Verdict.ACCEPTED)


def new_session(*, can_train=True, **state):
    verifier = Verifier.trusting([public_key_of(KEY)], FLEET, DEVICE)
    return AgentSession(DEVICE, verifier, can_train=can_train, reason="no torch", **state)


@pytest.fixture
def ready():
    """A session that has profiled."""
    session = new_session()
    session.handle(ServerSaid(SERVER), NOW)
    session.handle(ProfileMade(PROFILE), NOW)
    return session


def hear(session, message, now=NOW):
    return session.handle(ServerSaid(message), now)


def train(session, number, now=NOW):
    """Bring a session to the point where the update of a round is kept and under way."""
    hear(session, task(number), now)
    session.handle(WeightsArrived(number, b"weights", 10, 0.1), now)
    session.handle(TrainingDone(number, b"state", 100, 4, 0.5, 2.0), now)
    return session.handle(UpdateKept(update(number)), now)


# --- profile ------------------------------------------------------------------------------------


def test_the_server_s_state_makes_a_device_measure_itself():
    session = new_session()
    assert hear(session, SERVER) == [MakeProfile(SERVER)]
    assert session.busy == "profiling"
    assert session.handle(ProfileMade(PROFILE), NOW) == [Say(PROFILE)]
    assert session.busy == "idle"


def told_rates(session, *transfers):
    """The link rates that a device tells while weights arrive in so many bytes and seconds."""
    told = []
    for number, (size, seconds) in enumerate(transfers, start=1):
        hear(session, task(number))
        actions = session.handle(WeightsArrived(number, b"weights", size, seconds), NOW)
        said = [action.message for action in actions if isinstance(action, Say)]
        told += [one.link_bytes_per_s for one in said if isinstance(one, m.Profile)]
        session.handle(TaskBroke(number, DropReason.TRAINING_FAILED, "enough"), NOW)
    return told


def test_a_device_tells_how_fast_its_link_is_once_it_knows_and_when_that_changes(ready):
    steady = [(1_000_000, 10.0), (1_000_000, 11.0), (1_000_000, 9.0)]
    slow = [(1_000_000, 40.0)] * 4
    assert told_rates(ready, *steady, *slow) == [100_000.0, 25_000.0]


def test_one_odd_transfer_changes_nothing_and_an_instant_one_says_nothing(ready):
    normal = (1_000_000, 10.0)
    assert told_rates(ready, (500, 0.0), normal, normal, (1_000_000, 90.0), normal) == [100_000.0]


def test_on_an_emulated_machine_the_emulated_rate_stays():
    session = new_session()
    session.handle(ServerSaid(SERVER), NOW)
    emulated = msgspec.structs.replace(PROFILE, emulated="raspberry-pi-3", link_bytes_per_s=5e6)
    session.handle(ProfileMade(emulated), NOW)
    assert told_rates(session, (1_000_000, 10.0)) == []


def test_a_profile_made_later_carries_what_is_known_of_the_link(ready):
    told_rates(ready, (1_000_000, 10.0))
    [said] = ready.handle(ProfileMade(PROFILE), NOW)
    assert said.message.link_bytes_per_s == 100_000.0


def live(session, number, ahead_s):
    """Hear a message that the server has just sent; the device's clock is so far ahead."""
    stamped = msgspec.structs.replace(SERVER, seq=number, sent_at=NOW - ahead_s)
    return session.handle(ServerSaid(stamped, live=True), NOW)


def test_a_clock_that_is_off_is_told_once_and_again_when_it_jumps(ready):
    assert live(ready, 1, 0.2) == [], "a fifth of a second is no news"
    assert live(new_session(), 1, 90.0) == [
        MakeProfile(msgspec.structs.replace(SERVER, seq=1, sent_at=NOW - 90.0))
    ], "before there is a profile nothing can be told"
    [said] = live(ready, 2, -5.0)
    assert said.message.clock_offset_s == -5.0
    assert live(ready, 3, -5.1) == []
    [jumped] = live(ready, 4, -3600.0)
    assert jumped.message.clock_offset_s == -3600.0


def test_what_was_retained_says_nothing_of_the_clock(ready):
    old = msgspec.structs.replace(SERVER, sent_at=NOW - 86400.0)
    assert hear(ready, old) == []


def test_half_of_the_round_trip_is_taken_off_the_offset(ready):
    assert ready.handle(Acknowledged(1.0), NOW) == []
    [said] = live(ready, 1, 10.0)
    assert (said.message.clock_offset_s, said.message.round_trip_s) == (9.5, 1.0)


def test_a_rate_that_is_told_brings_the_round_trip_along(ready):
    ready.handle(Acknowledged(0.02), NOW)
    hear(ready, task(1))
    actions = ready.handle(WeightsArrived(1, b"weights", 1_000_000, 10.0), NOW)
    assert actions[0].message.round_trip_s == 0.02


def test_the_clock_of_an_emulated_machine_is_not_told():
    session = new_session()
    session.handle(ServerSaid(SERVER), NOW)
    session.handle(ProfileMade(msgspec.structs.replace(PROFILE, emulated="old-pc")), NOW)
    assert live(session, 1, 90.0) == []


TIMED = msgspec.structs.replace(
    PROFILE,
    costs=(
        m.WidthCost(width=0.5, step_s=0.1, peak_bytes=1),
        m.WidthCost(width=1.0, step_s=0.2, peak_bytes=1),
    ),
)


def trainings(session, *durations, first=1):
    """Train rounds that take so many seconds; return in which of them the device profiles anew."""
    again = []
    for number, seconds in enumerate(durations, start=first):
        hear(session, task(number))
        session.handle(WeightsArrived(number, b"weights", 10, 0.1), NOW)
        done = session.handle(TrainingDone(number, b"state", 100, 4, 0.5, seconds), NOW)
        again += [number] * (MakeProfile(SERVER) in done)
        session.handle(UpdateKept(update(number)), NOW)
    return again


def test_a_device_whose_trainings_take_another_time_measures_itself_anew(ready):
    ready.handle(ProfileMade(TIMED), NOW)
    assert trainings(ready, 1.0, 1.1, 1.0, 1.2, 1.0) == []
    assert trainings(ready, 3.0, 3.0, 3.0, first=6) == [7]
    assert ready.busy == "profiling"
    ready.handle(ProfileMade(TIMED), NOW)
    assert trainings(ready, 3.0, 3.0, 3.0, 3.1, first=9) == [], "that is normal now"


def test_a_profile_without_figures_is_no_reason_to_measure_again(ready):
    assert trainings(ready, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0) == []


def test_the_same_state_again_changes_nothing(ready):
    assert hear(ready, msgspec.structs.replace(SERVER, session=2, seq=9)) == []


def test_an_offline_server_changes_nothing(ready):
    assert hear(ready, m.ServerState(status=LinkStatus.OFFLINE)) == []
    assert ready.heartbeat_s == SERVER.heartbeat_s


def test_another_model_is_measured_anew(ready):
    other = msgspec.structs.replace(SERVER, spec_hash="6" * 64)
    assert hear(ready, other) == [MakeProfile(other)]


def test_a_model_that_changes_while_it_is_measured_is_measured_again():
    session = new_session()
    hear(session, SERVER)
    other = msgspec.structs.replace(SERVER, spec_hash="6" * 64)
    assert hear(session, other) == []
    assert session.handle(ProfileMade(PROFILE), NOW) == [Say(PROFILE), MakeProfile(other)]


def test_a_device_that_cannot_train_says_so_and_measures_only_its_facts():
    session = new_session(can_train=False)
    assert hear(session, SERVER) == [MakeProfile(SERVER)]
    assert session.busy == "idle"


def test_the_profile_is_said_again_after_every_connect(ready):
    assert ready.connected() == [Say(PROFILE)]


@pytest.mark.parametrize("nonsense", [0.0, -1.0, float("nan"), float("inf"), 1e-9])
def test_an_absurd_heartbeat_makes_no_busy_loop(nonsense):
    session = new_session()
    hear(session, msgspec.structs.replace(SERVER, heartbeat_s=nonsense))
    assert session.heartbeat_s == 30.0


@pytest.mark.parametrize("nonsense", [0, -1, 10**9])
def test_an_absurd_block_size_is_not_used(nonsense):
    session = new_session()
    hear(session, msgspec.structs.replace(SERVER, block_size=nonsense))
    assert session.block_size == 65536


# --- a profile that was asked for -----------------------------------------------------------------

ASKED = m.ProfileRequest(request="ana/1")
ANEW = MakeProfile(SERVER, fresh=True)


def answering(profile, request):
    return Say(msgspec.structs.replace(profile, answers=request))


def test_a_device_that_is_asked_measures_itself_anew_and_names_the_request(ready):
    assert hear(ready, ASKED) == [ANEW]
    assert ready.busy == "profiling"
    assert ready.handle(ProfileMade(TIMED), NOW) == [answering(TIMED, "ana/1")]
    assert ready.connected() == [answering(TIMED, "ana/1")]


def test_a_request_is_followed_once_and_another_one_again(ready):
    hear(ready, ASKED)
    assert hear(ready, ASKED) == [], "it is at it"
    ready.handle(ProfileMade(TIMED), NOW)
    assert hear(ready, ASKED) == [answering(TIMED, "ana/1")], "the server may not have heard it"
    assert hear(ready, m.ProfileRequest(request="ana/2")) == [ANEW]
    assert ready.handle(ProfileMade(PROFILE), NOW) == [answering(PROFILE, "ana/2")]


def test_a_request_waits_for_the_training_that_is_under_way(ready):
    hear(ready, task(1))
    assert hear(ready, ASKED) == []
    ready.handle(WeightsArrived(1, b"weights", 10, 0.1), NOW)
    assert ANEW not in ready.handle(TrainingDone(1, b"state", 100, 4, 0.5, 2.0), NOW)
    assert ready.handle(UpdateKept(update(1)), NOW) == [SendUpdate(update(1)), ANEW]


def test_a_request_is_followed_after_a_training_that_failed(ready):
    hear(ready, task(1))
    hear(ready, ASKED)
    failed = ready.handle(TaskBroke(1, DropReason.TRAINING_FAILED, "no memory"), NOW)
    assert failed[-1] == ANEW


def test_a_task_that_comes_while_a_device_measures_itself_waits(ready):
    hear(ready, ASKED)
    assert hear(ready, task(1)) == []
    said, accepted, fetch = ready.handle(ProfileMade(TIMED), NOW)
    assert said == answering(TIMED, "ana/1")
    assert (accepted.message.stage, fetch.task) == (Stage.ACCEPTED, task(1))


def test_a_request_before_the_first_profile_is_followed_after_it():
    for session in (new_session(), new_session(can_train=False)):
        assert hear(session, ASKED) == []
        assert hear(session, SERVER) == [MakeProfile(SERVER)]
        said, anew = session.handle(ProfileMade(PROFILE), NOW)
        assert (said.message.answers, anew) == ("", ANEW)


def test_a_model_that_changes_meanwhile_is_measured_before_the_request_is_answered(
    ready,
):
    hear(ready, ASKED)
    other = msgspec.structs.replace(SERVER, spec_hash="6" * 64)
    assert hear(ready, other) == []
    said, again = ready.handle(ProfileMade(PROFILE), NOW)
    assert (said.message.answers, again) == ("", MakeProfile(other, fresh=True))
    fitting = msgspec.structs.replace(PROFILE, spec_hash="6" * 64)
    assert ready.handle(ProfileMade(fitting), NOW) == [answering(fitting, "ana/1")]


# --- tasks --------------------------------------------------------------------------------------


def test_what_was_measured_travels_with_the_update(ready):
    hear(ready, task(1))
    ready.handle(WeightsArrived(1, b"weights", 10, 0.1), NOW)
    measured = (m.WidthEvaluation(width=0.5, score=0.7, loss=0.4, samples=9),)
    (kept,) = ready.handle(TrainingDone(1, b"state", 100, 4, 0.5, 2.0, measured), NOW)
    assert kept.evaluations == measured


def test_a_correction_goes_from_the_task_to_the_trainer_and_the_update_says_so(ready):
    hear(ready, task(1))
    _, training = ready.handle(WeightsArrived(1, b"weights", 10, 0.1, b"correction"), NOW)
    assert training.correction == b"correction"
    done = TrainingDone(1, b"state", 100, 4, 0.5, 2.0, corrected=True)
    (kept,) = ready.handle(done, NOW)
    assert kept.corrected


def test_the_file_of_public_inputs_goes_from_the_task_to_the_trainer(ready):
    given = msgspec.structs.replace(task(1), payload="public-scores", public=blob())
    assert FetchWeights(given, BUDGET_S) in hear(ready, given)
    arrived = WeightsArrived(1, b"consensus", 10, 0.1, public="public/file")
    _, training = ready.handle(arrived, NOW)
    assert training.public == "public/file"


def test_an_agent_of_before_public_scores_declines_them(ready, monkeypatch):
    older = frozenset({"state-dict", "prototypes", "class-scores"})
    monkeypatch.setattr("edge_agent.session.PAYLOADS", older)
    (said,) = hear(ready, msgspec.structs.replace(task(1), payload="public-scores"))
    assert said.message.stage is Stage.DECLINED
    assert "'public-scores', which this agent does not know" in said.message.detail


def test_a_task_goes_from_acceptance_to_an_update_that_is_kept_before_it_is_sent(ready):
    given = task(1)
    accepted = Say(m.Progress(round=1, stage=Stage.ACCEPTED))
    assert hear(ready, given) == [accepted, FetchWeights(given, BUDGET_S)]
    assert ready.busy == "training"
    started, training = ready.handle(WeightsArrived(1, b"weights", 10, 0.1), NOW)
    assert started.message.stage is Stage.STARTED
    assert started.message.downloaded_bytes == 10
    assert isinstance(training, Train)
    assert (training.task, training.weights) == (given, b"weights")
    (kept,) = ready.handle(TrainingDone(1, b"state", 100, 4, 0.5, 2.0), NOW)
    assert kept == KeepUpdate(given, b"state", 100, 4, 0.5, 0.1, 2.0)
    assert ready.handle(UpdateKept(update(1)), NOW) == [SendUpdate(update(1))]
    assert ready.busy == "transferring"
    uploaded = Say(m.Progress(round=1, stage=Stage.UPLOADED))
    assert ready.handle(UpdateSent(1), NOW) == [uploaded]
    assert hear(ready, receipt(1)) == [SettleUpdate(1, "d" * 64)]
    assert ready.busy == "idle"


def test_a_task_that_is_delivered_again_is_not_begun_again(ready):
    hear(ready, task(1))
    assert hear(ready, task(1)) == []


def test_a_task_whose_update_is_under_way_is_not_trained_again(ready):
    train(ready, 1)
    assert hear(ready, task(1)) == []


def test_a_task_whose_update_was_sent_is_answered_with_its_announcement(ready):
    train(ready, 1)
    ready.handle(UpdateSent(1), NOW)
    assert hear(ready, task(1)) == [Say(update(1))]


def test_a_task_whose_update_waits_from_before_a_restart_is_sent_and_not_trained():
    session = new_session(pending={1: update(1)})
    hear(session, SERVER)
    session.handle(ProfileMade(PROFILE), NOW)
    assert hear(session, task(1)) == [SendUpdate(update(1))]


def test_a_task_that_arrives_while_the_device_measures_itself_waits():
    session = new_session()
    hear(session, SERVER)
    assert hear(session, task(1)) == []
    said, accepted, fetch = session.handle(ProfileMade(PROFILE), NOW)
    assert said == Say(PROFILE)
    assert accepted.message.stage is Stage.ACCEPTED
    assert isinstance(fetch, FetchWeights)


def test_a_newer_task_takes_the_place_of_the_one_under_way(ready):
    hear(ready, task(1))
    cancel, accepted, fetch = hear(ready, task(2))
    assert cancel == CancelTask(1)
    assert accepted.message.round == fetch.task.round == 2
    assert ready.handle(WeightsArrived(1, b"old", 1, 0.1), NOW) == []
    assert ready.handle(TrainingDone(1, b"old", 1, 1, 0.0, 0.1), NOW) == []


def test_an_older_task_does_not_disturb_the_one_under_way(ready):
    hear(ready, task(2))
    assert hear(ready, task(1)) == []


def test_a_task_that_holds_what_the_agent_does_not_know_is_declined_with_the_word_for_it(ready):
    (said,) = hear(ready, msgspec.structs.replace(task(1), payload="invented-later"))
    assert said.message.stage is Stage.DECLINED
    assert said.message.reason is DropReason.DECLINED
    assert "'invented-later', which this agent does not know" in said.message.detail
    for number, known in enumerate(("state-dict", "prototypes", "class-scores"), start=2):
        actions = hear(ready, msgspec.structs.replace(task(number), payload=known))
        assert isinstance(actions[-1], FetchWeights)


def test_a_device_that_cannot_train_declines_every_time_it_is_asked():
    session = new_session(can_train=False)
    hear(session, SERVER)
    (first,) = hear(session, task(1))
    assert first.message.stage is Stage.DECLINED
    assert first.message.reason is DropReason.DECLINED
    assert first.message.detail == "no torch"
    assert hear(session, task(1)) == [first]


@pytest.mark.parametrize("reason", [DropReason.OUT_OF_MEMORY, DropReason.BAD_BYTES])
def test_a_task_that_breaks_is_reported_and_not_begun_again(ready, reason):
    hear(ready, task(1))
    (failed,) = ready.handle(TaskBroke(1, reason, "why"), NOW)
    assert failed == Say(m.Progress(round=1, stage=Stage.FAILED, reason=reason, detail="why"))
    assert hear(ready, task(1)) == [failed]
    assert ready.busy == "idle"


def test_the_end_of_a_task_that_is_not_under_way_is_ignored(ready):
    assert ready.handle(TaskBroke(7, DropReason.LATE, ""), NOW) == []
    assert ready.handle(WeightsArrived(7, b"", 0, 0.0), NOW) == []
    assert ready.handle(TrainingDone(7, b"", 0, 0, 0.0, 0.0), NOW) == []


def test_a_task_is_cancelled_at_its_deadline(ready):
    hear(ready, task(1))
    assert ready.handle(Tick(), NOW + BUDGET_S - 0.1) == []
    cancel, failed = ready.handle(Tick(), NOW + BUDGET_S)
    assert cancel == CancelTask(1)
    assert failed.message.reason is DropReason.LATE
    assert ready.handle(Tick(), NOW + BUDGET_S + 1) == []
    assert ready.handle(TrainingDone(1, b"state", 1, 1, 0.0, 1.0), NOW + BUDGET_S + 1) == []


# --- updates and receipts -----------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [receipt(1, "e"), receipt(2), receipt(9, "f")])
def test_a_receipt_for_another_update_settles_nothing(ready, wrong):
    train(ready, 1)
    assert hear(ready, wrong) == []
    assert hear(ready, receipt(1)) == [SettleUpdate(1, "d" * 64)]


def test_a_receipt_that_is_delivered_again_settles_nothing_more(ready):
    train(ready, 1)
    hear(ready, receipt(1))
    assert hear(ready, receipt(1)) == []


def test_a_refusal_settles_too(ready):
    train(ready, 1)
    refusal = msgspec.structs.replace(
        receipt(1), verdict=Verdict.REFUSED, reason=DropReason.LATE, detail="closed"
    )
    assert hear(ready, refusal) == [SettleUpdate(1, "d" * 64)]


def test_a_receipt_that_comes_before_the_end_of_the_upload_ends_it_quietly(ready):
    train(ready, 1)
    hear(ready, receipt(1))
    assert ready.handle(UpdateSent(1), NOW) == []
    assert ready.busy == "idle"


def test_after_a_restart_updates_without_a_receipt_are_sent_with_the_first_connect():
    session = new_session(pending={3: update(3), 4: update(4, "e")})
    assert session.connected() == [SendUpdate(update(3)), SendUpdate(update(4, "e"))]


def test_an_upload_under_way_is_not_begun_a_second_time_by_a_new_connection(ready):
    train(ready, 1)
    assert ready.connected() == [Say(PROFILE)]


def test_an_upload_that_is_through_is_only_announced_again(ready):
    train(ready, 1)
    ready.handle(UpdateSent(1), NOW)
    assert ready.connected() == [Say(PROFILE), Say(update(1))]


def test_an_upload_is_sent_again_once_if_no_receipt_comes_after_a_new_connection(ready):
    train(ready, 1)
    ready.handle(UpdateSent(1), NOW)
    ready.connected()
    assert ready.handle(Tick(), NOW) == []
    assert ready.handle(Tick(), NOW + SEND_AGAIN_S - 0.1) == []
    assert ready.handle(Tick(), NOW + SEND_AGAIN_S) == [SendUpdate(update(1))]
    ready.handle(UpdateSent(1), NOW + SEND_AGAIN_S)
    assert ready.handle(Tick(), NOW + 10 * SEND_AGAIN_S) == []


def test_nothing_is_sent_again_without_a_new_connection(ready):
    train(ready, 1)
    ready.handle(UpdateSent(1), NOW)
    ready.handle(Tick(), NOW)
    assert ready.handle(Tick(), NOW + 10 * SEND_AGAIN_S) == []


# --- standing -----------------------------------------------------------------------------------


def test_a_standing_is_noted_when_it_changes(ready):
    first = m.Standing(participation=m.Participation.TAKES_PART, reason="width 0.5")
    counted = msgspec.structs.replace(first, rounds_taken=1)
    other = m.Standing(participation=m.Participation.SUSPENDED, reason="by anna")
    assert hear(ready, first) == [NoteStanding(first)]
    assert hear(ready, counted) == []
    assert ready.standing == counted
    assert hear(ready, other) == [NoteStanding(other)]


# --- deployments --------------------------------------------------------------------------------


def order(
    counter=1, *, manifest=MANIFEST, key=KEY, blob_key=b"k" * 32, until=NOW + 3600.0, **parts
):
    document = m.Deployment(
        fleet=FLEET,
        device=DEVICE,
        counter=counter,
        digest=manifest.digest if manifest else "",
        reason="test",
        expires_at=until,
    )
    if manifest is None:
        return m.DeploymentOrder(deployment=sign(document, "deployment", key))
    release = m.Release(
        fleet=FLEET, version=1, manifest=manifest, created_at=NOW, expires_at=NOW + 3600.0
    )
    reference = m.BlobReference(
        blob="a" * 64, size=99, block_size=4096, plaintext=manifest.digest, encrypted=True
    )
    return m.DeploymentOrder(
        deployment=sign(document, "deployment", key),
        release=sign(release, "release", key),
        blob=reference,
        key=blob_key,
    )


def confirmed(counter=1, digest=MANIFEST.digest):
    return m.Report(counter=counter, state=InstallState.CONFIRMED, running=digest, width=0.5)


def failed(counter=1, code=TRY_AGAIN):
    return m.Report(counter=counter, state=InstallState.FAILED, code=code)


def test_a_good_order_is_installed_and_the_outcome_said(ready):
    given = order()
    (install,) = hear(ready, given)
    assert isinstance(install, Install)
    assert install.release.manifest == MANIFEST
    assert install.order == given
    assert ready.handle(InstallDone(confirmed()), NOW) == [Say(confirmed())]


def test_an_order_that_is_delivered_again_is_answered_with_the_report(ready):
    hear(ready, order())
    assert hear(ready, order()) == [], "it is being installed"
    ready.handle(InstallDone(confirmed()), NOW)
    assert hear(ready, order()) == [Say(confirmed())]


def test_an_order_from_before_a_restart_is_answered_with_the_report():
    session = new_session(installed=Installed(1, MANIFEST.digest, confirmed()))
    assert hear(session, order()) == [Say(confirmed())]


def test_an_order_that_was_not_finished_before_a_restart_is_carried_out_again():
    session = new_session(installed=Installed(1, MANIFEST.digest, None))
    (install,) = hear(session, order())
    assert isinstance(install, Install)


def test_a_newer_order_is_carried_out_while_an_older_one_is_under_way(ready):
    hear(ready, order(1))
    (install,) = hear(ready, order(2, manifest=OTHER_MANIFEST))
    assert install.deployment.counter == 2
    assert ready.handle(InstallDone(confirmed(1)), NOW) == [Say(confirmed(1))]
    ready.handle(InstallDone(confirmed(2, OTHER_MANIFEST.digest)), NOW)
    (refused,) = hear(ready, order(1))
    assert refused.message.code == "older-counter"


def test_what_became_of_an_order_that_was_overtaken_hides_nothing_of_the_newer_one(ready):
    hear(ready, order(1))
    hear(ready, order(2, manifest=OTHER_MANIFEST))
    ready.handle(InstallDone(confirmed(2, OTHER_MANIFEST.digest)), NOW)
    broken = m.Report(counter=1, state=InstallState.FAILED, code=TRY_AGAIN)
    assert ready.handle(InstallDone(broken), NOW) == []


def test_an_order_without_a_model_takes_the_model_away(ready):
    (remove,) = hear(ready, order(manifest=None))
    assert isinstance(remove, RemoveModel)
    assert remove.deployment.digest == ""


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (order(2, key=bytes(32)), "bad-signature"),
        (order(2, until=NOW), "expired"),
        (order(1, manifest=OTHER_MANIFEST), "older-counter"),
        (order(0), "older-counter"),
    ],
)
def test_a_refused_order_changes_nothing_and_its_report_names_what_runs(bad, code):
    session = new_session(installed=Installed(1, MANIFEST.digest, confirmed()))
    (refused,) = hear(session, bad)
    report = refused.message
    assert (report.state, report.code) == (InstallState.REFUSED, code)
    assert report.running == MANIFEST.digest
    assert report.counter != 1, "it must not unsay what was confirmed about the order in force"
    assert hear(session, order(1)) == [Say(confirmed())]


def test_an_install_that_could_not_be_done_now_is_tried_again_later(ready):
    hear(ready, order())
    assert ready.handle(InstallDone(failed()), NOW) == [Say(failed())]
    assert ready.handle(Tick(), NOW + RETRY_S - 0.1) == []
    (install,) = ready.handle(Tick(), NOW + RETRY_S)
    assert isinstance(install, Install)
    ready.handle(InstallDone(confirmed()), NOW + RETRY_S)
    assert ready.handle(Tick(), NOW + 3 * RETRY_S) == []


def test_an_install_that_failed_for_good_is_not_tried_again(ready):
    hear(ready, order())
    ready.handle(InstallDone(failed(code="crashed")), NOW)
    assert ready.handle(Tick(), NOW + 3 * RETRY_S) == []
    assert hear(ready, order()) == [Say(failed(code="crashed"))]


def test_an_order_that_expires_before_it_is_tried_again_is_refused_once(ready):
    hear(ready, order(until=NOW + 10.0))
    ready.handle(InstallDone(failed()), NOW)
    (refused,) = ready.handle(Tick(), NOW + RETRY_S)
    assert refused.message.code == "expired"
    assert ready.handle(Tick(), NOW + RETRY_S + 1) == []


def test_an_order_without_its_key_is_asked_for_and_not_installed(ready):
    # The server had an answer about this order and shares the blob no more; the disk has lost it.
    (asked,) = hear(ready, order(blob_key=b""))
    assert asked.message == m.Report(counter=1, state=InstallState.DOWNLOADING)
    (install,) = hear(ready, order())
    assert isinstance(install, Install)


def test_while_an_install_waits_to_be_tried_again_its_blob_is_not_asked_for(ready):
    hear(ready, order())
    ready.handle(InstallDone(failed()), NOW)
    assert hear(ready, order(blob_key=b"")) == []
