"""Networks that break, processes that vanish, full disks: what was promised still holds."""

import asyncio
import random
import shutil
from functools import partial
from unittest import mock

import numpy as np
import pytest

from broker import messages as m
from broker.messages import DropReason, InstallState, LinkStatus, Participation, Verdict
from broker.topics import (
    CommandTopic,
    DeviceSays,
    DownTopic,
    ResultTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    SharedBlock,
    UploadBlock,
    UpTopic,
    parse_topic,
)
from coordinator.fleet import Phase
from edge_agent.inference import Predictor
from journal import events as e
from journal.errors import DiskFullError
from journal.events import LinkState
from tests.fakes.small_fleet import (
    EPOCH,
    FLEET,
    OPERATOR,
    SERVER,
    DeviceSettings,
    SmallFleet,
    toy_settings,
)
from tests.fakes.toy_onnx import FEATURES
from tests.fakes.toy_training import FREE_RIDER, ToyJobs
from tests.fakes.virtual_clock import run, simulated

PRESS, LATHE = "press", "lathe"


def two_devices(press=None, lathe=None):
    return {PRESS: press or DeviceSettings(), LATHE: lathe or DeviceSettings()}


def together(**rounds):
    return toy_settings(rounds={"budget": 1, "min_devices": 2} | rounds)


def cut_after(fleet, user, blocks):
    """Cut a user's link once so many upload blocks are out, and return an event that tells so."""
    happened = asyncio.Event()

    def spy(who, topic, payload):
        out = len(fleet.broker.blocks(user))
        if who == user and payload and out == blocks and not happened.is_set():
            happened.set()
            fleet.broker.cut(user)

    fleet.broker.spy = spy
    return happened


# --- uploads and downloads that are cut ---------------------------------------------------------


@simulated
async def test_a_device_that_vanishes_in_the_middle_of_its_upload_is_not_waited_for(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together(budget=2)) as fleet:
        vanished = cut_after(fleet, LATHE, 3)
        await fleet.until(vanished.is_set)
        await fleet.until(fleet.training(2))
        (closed,) = fleet.events(e.RoundClosed)
        assert closed.aggregated == (PRESS,)
        (dropped,) = fleet.events(e.DeviceDropped)
        assert (dropped.device, dropped.reason) == (LATHE, DropReason.OFFLINE)
        assert "last stage: started" in dropped.detail

        fleet.broker.heal(LATHE)
        await fleet.until(lambda: fleet.receipt(LATHE) is not None)
        receipt = fleet.receipt(LATHE)
        assert (receipt.round, receipt.verdict) == (1, Verdict.REFUSED)
        assert receipt.reason is DropReason.LATE
        await fleet.until(lambda: not fleet.devices[LATHE].outbox.pending())
        await fleet.until(fleet.finished)
        await fleet.until(lambda: not fleet.retained_blocks())


@simulated
async def test_after_a_cut_only_the_missing_blocks_of_an_upload_travel_again(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together()) as fleet:
        vanished = cut_after(fleet, LATHE, 5)
        await fleet.until(vanished.is_set)
        await asyncio.sleep(0.5)
        fleet.broker.heal(LATHE)
        await fleet.until(fleet.finished)
        assert len(fleet.events(e.UpdateAccepted)) == 2
        times = fleet.broker.blocks(LATHE)
        assert len(times) == 8
        # The one whose acknowledgement was on its way when the link broke travels twice.
        assert sorted(times.values()) == [1] * 7 + [2]


@simulated
async def test_an_announced_upload_is_not_sent_again_when_its_device_connects_again(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together()) as fleet:
        # The server does not hear of it, so there is no receipt yet.
        fleet.broker.fault = lambda user, event: (
            () if user == SERVER and event.topic.endswith(f"{LATHE}/up/update") else (event,)
        )
        await fleet.until(lambda: fleet.retained(UpTopic(LATHE, DeviceSays.UPDATE)))
        fleet.broker.fault = None
        fleet.broker.cut(LATHE)
        fleet.broker.heal(LATHE)
        await fleet.until(fleet.finished)
        assert len(fleet.events(e.UpdateAccepted)) == 2
        assert set(fleet.broker.blocks(LATHE).values()) == {1}


@simulated
async def test_an_upload_is_sent_whole_where_the_broker_forgot_it(tmp_path):
    settings = together(deadline_s=60.0)
    async with SmallFleet(tmp_path, two_devices(), settings=settings) as fleet:
        vanished = cut_after(fleet, LATHE, 5)
        await fleet.until(vanished.is_set)
        fleet.broker.crash()
        fleet.broker._retained.clear()
        fleet.broker.heal(LATHE)
        fleet.broker.restart()
        await fleet.until(fleet.finished)
        assert len(fleet.events(e.UpdateAccepted)) == 2
        assert not fleet.events(e.DeviceDropped)


def hold_blocks(fleet, user, kind, let_through):
    """Deliver so many blocks of a kind to a user and hold the others; return the held ones."""
    held, seen = [], []

    def fault(who, event):
        if who == user and event.payload and isinstance(parse_topic(FLEET, event.topic), kind):
            seen.append(event)
            if len(seen) > let_through:
                held.append(event)
                return ()
        return (event,)

    fleet.broker.fault = fault
    return held


def count_blocks(fleet, user, kind):
    """Return a list that grows with each block of a kind that is delivered to a user."""
    delivered = []

    def fault(who, event):
        if who == user and event.payload and isinstance(parse_topic(FLEET, event.topic), kind):
            delivered.append(event.topic)
        return (event,)

    fleet.broker.fault = fault
    return delivered


@pytest.mark.parametrize(
    ("user", "kind"), [(SERVER, UploadBlock), (PRESS, SharedBlock)], ids=["server", "device"]
)
@simulated
async def test_after_a_restart_of_the_reader_only_the_missing_blocks_travel_again(
    user, kind, tmp_path
):
    async with SmallFleet(
        tmp_path, {PRESS: DeviceSettings()}, settings=together(budget=1)
    ) as fleet:
        held = hold_blocks(fleet, user, kind, let_through=5)
        await fleet.until(lambda: held)
        process = fleet.server if user == SERVER else fleet.devices[PRESS]
        await process.kill()
        delivered = count_blocks(fleet, user, kind)
        await process.start()
        await fleet.until(lambda: delivered)
        await fleet.until(lambda: fleet.events(e.UpdateAccepted))
        assert len(delivered) == 3, "8 blocks, of which 5 had arrived"
        await fleet.until(fleet.finished)


# --- messages twice, late and out of order ------------------------------------------------------


def shuffling(fleet, seed):
    """Deliver every message twice, the second time late and out of order."""
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()

    def fault(user, event):
        loop.call_later(rng.uniform(0.0, 0.5), fleet.broker.deliver, user, event)
        return (event, event)

    return fault


def delaying(fleet, seed):
    """Deliver every message late, so that some overtake others."""
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()

    def fault(user, event):
        loop.call_later(rng.uniform(0.0, 0.1), fleet.broker.deliver, user, event)
        return ()

    return fault


def outcome_of_a_campaign(folder, fault_of=None):
    async def play():
        folder.mkdir()
        async with SmallFleet(folder, two_devices(), settings=together(budget=2)) as fleet:
            if fault_of:
                fleet.broker.fault = fault_of(fleet)
            await fleet.until(fleet.finished)
            # What is still on its way must not change the end either.
            await asyncio.sleep(2.0)
            return (
                fleet.state.weights,
                fleet.state.allocation,
                fleet.confirmed(),
                [one.aggregated for one in fleet.events(e.RoundClosed)],
                sorted((one.round, one.device) for one in fleet.events(e.UpdateAccepted)),
                len(fleet.events(e.DeploymentIssued)),
                fleet.events(e.UpdateRefused, e.DeviceDropped),
            )

    return run(play())


@pytest.mark.parametrize("trouble", [shuffling, delaying])
def test_messages_twice_late_and_out_of_order_change_nothing(trouble, tmp_path):
    expected = outcome_of_a_campaign(tmp_path / "undisturbed")
    for seed in range(3):
        found = outcome_of_a_campaign(tmp_path / str(seed), partial(trouble, seed=seed))
        assert found == expected


@simulated
async def test_lost_acknowledgements_change_nothing(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together(budget=2)) as fleet:
        for user in (SERVER, PRESS, LATHE):
            fleet.broker.lose_acknowledgements(user, 3)
        await fleet.until(fleet.finished)
        assert set(fleet.confirmed()) == {PRESS, LATHE}
        assert len(fleet.events(e.UpdateAccepted)) == 4


# --- presence -----------------------------------------------------------------------------------


@simulated
async def test_messages_and_the_last_will_of_an_older_session_are_ignored(tmp_path):
    settings = together(budget=3, deadline_s=20.0)
    slow = DeviceSettings(trainer={"train_s": 5.0})
    async with SmallFleet(tmp_path, two_devices(lathe=slow), settings=settings) as fleet:
        await fleet.until(fleet.training(1))
        first = fleet.state.devices[LATHE].session
        await fleet.devices[LATHE].kill()
        await fleet.devices[LATHE].start()
        await fleet.until(lambda: fleet.state.devices[LATHE].session == first + 1)
        old = {"session": first, "seq": 999}
        birth = m.Birth(status=LinkStatus.OFFLINE, cause="will", session=first)
        failed = m.Progress(round=1, stage=m.Stage.FAILED, detail="from the past", **old)
        report = m.Report(counter=7, state=InstallState.CONFIRMED, running="f" * 64, **old)
        for channel, said in (
            (DeviceSays.BIRTH, birth),
            (DeviceSays.PROGRESS, failed),
            (DeviceSays.REPORT, report),
        ):
            fleet.inject(LATHE, UpTopic(LATHE, channel), said)
        await asyncio.sleep(3.0)
        device = fleet.state.devices[LATHE]
        assert device.link is LinkState.ONLINE
        assert device.report is None
        await fleet.until(fleet.finished)
        assert not fleet.events(e.DeviceDropped)


@simulated
async def test_presence_is_recorded_from_birth_to_silence_and_back(tmp_path):
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}, settings=together()) as fleet:
        await fleet.until(fleet.finished)
        fleet.broker.cut(PRESS)
        await fleet.until(lambda: fleet.state.devices[PRESS].link is LinkState.OFFLINE)
        fleet.broker.heal(PRESS)
        await fleet.until(lambda: fleet.state.devices[PRESS].link is LinkState.ONLINE)
        await fleet.devices[PRESS].agent.stop()
        fleet.devices[PRESS].alive = False
        await fleet.until(lambda: fleet.state.devices[PRESS].link is LinkState.OFFLINE)
        told = [(one.state, one.cause) for one in fleet.events(e.PresenceChanged)]
        assert told == [
            (LinkState.ONLINE, "heard"),
            (LinkState.OFFLINE, "will"),
            (LinkState.ONLINE, "heard"),
            (LinkState.OFFLINE, "shutdown"),
        ]


@simulated
async def test_a_server_whose_link_was_cut_says_again_that_it_is_there(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together(budget=2)) as fleet:
        state = ServerTopic(ServerTells.STATE)
        await fleet.until(fleet.training(1))
        fleet.broker.cut(SERVER)
        assert fleet.retained(state).status is LinkStatus.OFFLINE
        await asyncio.sleep(1.0)
        fleet.broker.heal(SERVER)
        await fleet.until(lambda: fleet.retained(state).status is LinkStatus.ONLINE)
        await fleet.until(fleet.finished)
        assert set(fleet.confirmed()) == {PRESS, LATHE}


@simulated
async def test_a_broker_that_is_not_there_is_waited_for(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together(), start=False) as fleet:
        fleet.broker.crash()
        for process in fleet.processes:
            await process.start()
        await asyncio.sleep(3600.0)  # a busy loop would be found out by the virtual clock
        assert fleet.broker.log == []
        fleet.broker.restart()
        await fleet.until(fleet.finished)
        assert set(fleet.confirmed()) == {PRESS, LATHE}


@simulated
async def test_a_device_that_loses_the_server_and_the_broker_keeps_inferring(tmp_path):
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}, settings=together()) as fleet:
        await fleet.until(fleet.finished)
        device = fleet.devices[PRESS]
        await fleet.server.kill()
        fleet.broker.crash()
        await asyncio.sleep(3600.0)
        device.check()
        predictor = Predictor(device.folder / "slots")
        assert predictor.digest == device.installer.installed().digest != ""
        assert predictor.predict(np.ones((2, FEATURES), np.float32)).label.shape == (2,)
        fleet.broker.restart()
        await fleet.server.start()
        await fleet.until(lambda: fleet.state.devices[PRESS].link is LinkState.ONLINE)


# --- rounds that go wrong -----------------------------------------------------------------------


@simulated
async def test_a_round_without_its_quorum_is_closed_with_the_reason_and_tried_again(tmp_path):
    lathe = DeviceSettings(trainer={"fail": ["the data cannot be read"]})
    settings = together(quorum=2)
    async with SmallFleet(tmp_path, two_devices(lathe=lathe), settings=settings) as fleet:
        await fleet.until(fleet.finished)
        first, second = fleet.events(e.RoundClosed)
        assert (first.round, first.aggregated) == (1, ())
        assert "quorum is 2: not aggregated" in first.reason
        assert (second.round, second.aggregated) == (2, (LATHE, PRESS))
        bases = {one.base for one in fleet.events(e.RoundOpened)}
        assert len(bases) == 1


@simulated
async def test_an_update_with_the_same_bytes_as_in_the_round_before_counts_again(tmp_path):
    # After a missed quorum the base is the same, so what a free-rider sends is the same too.
    lathe = DeviceSettings(trainer={"fail": ["the data cannot be read"], "train_s": 1.0})
    rider = DeviceSettings(behaviour=FREE_RIDER)
    settings = together(quorum=2)
    async with SmallFleet(tmp_path, two_devices(rider, lathe), settings=settings) as fleet:
        await fleet.until(fleet.finished)
        accepted = [one for one in fleet.events(e.UpdateAccepted) if one.device == PRESS]
        assert [one.round for one in accepted] == [1, 2]
        assert len({one.blob for one in accepted}) == 1
        assert fleet.events(e.RoundClosed)[-1].aggregated == (LATHE, PRESS)


@simulated
async def test_training_stops_when_too_many_rounds_in_a_row_miss_their_quorum(tmp_path):
    lathe = DeviceSettings(trainer={"fail": ["no"] * 9})
    settings = together(quorum=2, failures_limit=3)
    async with SmallFleet(tmp_path, two_devices(lathe=lathe), settings=settings) as fleet:
        await fleet.until(fleet.finished)
        assert len(fleet.events(e.RoundClosed)) == 3
        (stopped,) = fleet.events(e.TrainingStopped)
        assert "3 rounds in a row missed their quorum" in stopped.reason
        assert fleet.confirmed() == {}


@simulated
async def test_a_device_that_is_too_slow_is_dropped_as_late(tmp_path):
    lathe = DeviceSettings(trainer={"train_s": 100.0})
    async with SmallFleet(tmp_path, two_devices(lathe=lathe), settings=together()) as fleet:
        await fleet.until(fleet.finished)
        (dropped,) = fleet.events(e.DeviceDropped)
        assert (dropped.device, dropped.reason) == (LATHE, DropReason.LATE)
        await fleet.until(lambda: fleet.devices[LATHE].session.busy == "idle")


@simulated
async def test_a_suspended_device_is_dropped_with_the_reason_and_takes_part_again_later(tmp_path):
    press = DeviceSettings(trainer={"train_s": 3.0})
    lathe = DeviceSettings(trainer={"train_s": 1.0})
    settings = together(budget=3)
    command = m.Command(command_id="1", action=m.OperatorAction.SUSPEND, device=LATHE, reason="oil")
    async with SmallFleet(tmp_path, two_devices(press, lathe), settings=settings) as fleet:
        anna = await fleet.client(OPERATOR)
        await anna.link.subscribe([f"slimfleet/v1/{FLEET}/op/{OPERATOR}/down/result"])
        await fleet.until(fleet.training(1))
        await anna.say(CommandTopic(OPERATOR), command, retain=False)
        await anna.say(CommandTopic(OPERATOR), command, retain=False)
        await fleet.until(lambda: anna.message(ResultTopic(OPERATOR)))
        assert anna.message(ResultTopic(OPERATOR)).done
        await fleet.until(lambda: fleet.standing(LATHE).participation is Participation.SUSPENDED)
        assert fleet.standing(LATHE).reason == f"suspended by {OPERATOR}: oil"
        await fleet.until(fleet.training(2))
        assert fleet.events(e.RoundOpened)[1].not_invited[LATHE].endswith("oil")
        (acted,) = fleet.events(e.OperatorActed)
        assert (acted.operator, acted.device) == (OPERATOR, LATHE)
        (dropped,) = fleet.events(e.DeviceDropped)
        assert (dropped.round, dropped.reason) == (1, DropReason.SUSPENDED)

        resume = m.Command(command_id="2", action=m.OperatorAction.RESUME, device=LATHE)
        await anna.say(CommandTopic(OPERATOR), resume, retain=False)
        await fleet.until(fleet.finished)
        assert fleet.events(e.RoundClosed)[-1].aggregated == (LATHE, PRESS)
        # What it had trained meanwhile is refused for the same reason.
        (refused,) = fleet.events(e.UpdateRefused)
        assert (refused.device, refused.round) == (LATHE, 1)
        assert refused.reason is DropReason.SUSPENDED
        await fleet.until(lambda: not fleet.devices[LATHE].outbox.pending())


@simulated
async def test_a_command_for_an_unknown_device_is_answered_with_the_reason(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together()) as fleet:
        anna = await fleet.client(OPERATOR)
        await anna.link.subscribe([f"slimfleet/v1/{FLEET}/op/{OPERATOR}/down/result"])
        await fleet.until(fleet.training(1))
        command = m.Command(command_id="1", action=m.OperatorAction.SUSPEND, device="nobody")
        await anna.say(CommandTopic(OPERATOR), command, retain=False)
        await fleet.until(lambda: anna.message(ResultTopic(OPERATOR)))
        answer = anna.message(ResultTopic(OPERATOR))
        assert (answer.command_id, answer.done) == ("1", False)
        assert "no device 'nobody'" in answer.detail


# --- work and releases that go wrong ------------------------------------------------------------


@simulated
async def test_a_release_whose_export_fails_three_times_is_withheld(tmp_path):
    jobs = ToyJobs(failing={"export": 3})
    async with SmallFleet(tmp_path, two_devices(), settings=together(), jobs=jobs) as fleet:
        await fleet.until(fleet.finished)
        (withheld,) = fleet.events(e.ReleaseWithheld)
        assert withheld.reason.startswith("export failed 3 times")
        assert len(fleet.events(e.WorkFailed)) == 3
        assert fleet.confirmed() == {}
        assert fleet.state.phase is Phase.FINISHED


@simulated
async def test_work_that_fails_now_and_then_is_done_again(tmp_path):
    jobs = ToyJobs(failing={"initialise": 1, "score": 2, "export": 2})
    async with SmallFleet(tmp_path, two_devices(), settings=together(), jobs=jobs) as fleet:
        await fleet.until(fleet.finished)
        assert len(fleet.events(e.WorkFailed)) == 5
        assert set(fleet.confirmed()) == {PRESS, LATHE}


@simulated
async def test_a_server_that_cannot_write_its_journal_ends_with_the_error(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together()) as fleet:
        await fleet.until(fleet.training(1))
        server, error = fleet.server, DiskFullError(28, "no room to append")
        with mock.patch.object(server.journal, "append", side_effect=error):
            with pytest.raises(DiskFullError):
                await asyncio.wait_for(server.body_task, 60.0)
            await server.kill()
        await server.start()
        await fleet.until(fleet.finished)
        assert set(fleet.confirmed()) == {PRESS, LATHE}


@simulated
async def test_a_release_that_is_worse_than_the_one_in_use_is_withheld(tmp_path):
    jobs = ToyJobs(worse="round 2 scores 0.1 lower than the release in use: withheld")
    settings = together(budget=2, release_every=1)
    async with SmallFleet(tmp_path, two_devices(), settings=settings, jobs=jobs) as fleet:
        await fleet.until(fleet.finished)
        assert "lower than the release in use" in fleet.state.withheld
        assert {one.counter for one in fleet.events(e.DeploymentIssued)} == {1}
        assert set(fleet.confirmed()) == {PRESS, LATHE}


@simulated
async def test_a_device_without_room_keeps_its_model_and_tries_again_later(tmp_path):
    settings = together(budget=2, release_every=1)
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}, settings=settings) as fleet:
        await fleet.until(lambda: fleet.server.coordinator and fleet.confirmed())
        models = fleet.devices[PRESS].installer._slots._models
        first, models._free_bytes = fleet.confirmed()[PRESS], lambda folder: 0
        await fleet.until(lambda: fleet.report(PRESS).code == "try-again")
        report = fleet.report(PRESS)
        assert (report.state, report.running) == (InstallState.FAILED, first)
        assert "make room" in report.detail
        log = len(fleet.broker.log)
        await asyncio.sleep(30.0)
        assert len(fleet.broker.log) < log + 150, "it must not try again at once"
        models._free_bytes = lambda folder: 1 << 30
        await fleet.until(lambda: fleet.confirmed().get(PRESS, first) != first)


@simulated
async def test_a_device_that_lost_its_models_gets_the_current_one_again(tmp_path):
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}, settings=together()) as fleet:
        await fleet.until(fleet.finished)
        await fleet.until(lambda: not fleet.retained_blocks())
        device, digest = fleet.devices[PRESS], fleet.confirmed()[PRESS]
        await device.kill()
        shutil.rmtree(device.folder / "slots")
        await device.start()
        await fleet.until(
            lambda: device.installer and device.installer.installed().digest == digest
        )
        await fleet.until(lambda: fleet.confirmed() == {PRESS: digest})
        await fleet.until(lambda: not fleet.retained_blocks())


@simulated
async def test_a_device_that_comes_while_files_are_exported_does_no_harm(tmp_path):
    devices = {PRESS: DeviceSettings(), "watcher": DeviceSettings(trains=False)}
    settings = toy_settings(
        rounds={"budget": 1, "min_devices": 1}, rewards={"inference_only_width": 0.125}
    )
    jobs = ToyJobs(job_s=1.0)
    async with SmallFleet(tmp_path, devices, settings=settings, jobs=jobs, start=False) as fleet:
        await fleet.server.start()
        await fleet.devices[PRESS].start()
        await fleet.until(lambda: fleet.server.coordinator and fleet.state.phase is Phase.EXPORTING)
        await fleet.devices["watcher"].start()
        await fleet.until(fleet.finished)
        assert set(fleet.confirmed()) >= {PRESS}


@simulated
async def test_a_device_that_is_deployed_and_away_is_not_waited_for_for_ever(tmp_path):
    async with SmallFleet(tmp_path, two_devices(), settings=together()) as fleet:
        await fleet.until(lambda: fleet.server.coordinator and fleet.state.phase is Phase.EXPORTING)
        fleet.broker.cut(LATHE)
        await fleet.until(fleet.finished)
        (finished,) = fleet.events(e.CampaignFinished)
        assert finished.detail == f"not confirmed: {LATHE}"
        fleet.broker.heal(LATHE)
        await fleet.until(lambda: set(fleet.confirmed()) == {PRESS, LATHE})
        assert fleet.clock() > EPOCH
        assert fleet.retained(DownTopic(LATHE, ServerSays.DEPLOYMENT)) is not None
