"""A whole campaign in virtual time: from profiles to confirmed models, to each its merits."""

import itertools

import pytest

from broker.messages import DropReason, InstallState, LinkStatus, Participation, Stage
from broker.topics import DeviceSays, ServerTells, ServerTopic, UpTopic
from coordinator.fleet import POST_TRAINING_NOTICE, Phase
from journal import events as e
from journal.events import LinkState
from tests.fakes.small_fleet import DeviceSettings, SmallFleet, toy_settings
from tests.fakes.toy_training import FREE_RIDER
from tests.fakes.virtual_clock import run, simulated

HONEST = {"device-a": 0.25, "device-b": 0.5, "device-c": 0.75, "device-d": 1.0}
RIDER, WEAK, WATCHER = "free-rider", "weakling", "watcher"


def mixed_devices(noise):
    honest = {name: DeviceSettings(trainer={"widest": width}) for name, width in HONEST.items()}
    return honest | {
        RIDER: DeviceSettings(behaviour=FREE_RIDER, noise=noise),
        WEAK: DeviceSettings(trainer={"widest": 0.0}),
        WATCHER: DeviceSettings(trains=False),
    }


@pytest.fixture(scope="module", params=[0.0, 1e-3], ids=["unchanged", "with noise"])
def campaign(request, tmp_path_factory):
    """A finished campaign of four honest devices and three others: its server and what it said."""
    folder = tmp_path_factory.mktemp("campaign")

    async def play():
        settings = toy_settings(rounds={"min_devices": 7, "quorum": 3})
        async with SmallFleet(folder, mixed_devices(request.param), settings=settings) as fleet:
            await fleet.until(fleet.finished)
            await fleet.until(lambda: not fleet.retained_blocks())
            await fleet.until(lambda: fleet.server.journal.telemetry("device-d"))
            return {
                "state": fleet.state,
                "events": fleet.events(),
                "standing": {name: fleet.standing(name) for name in fleet.devices},
                "report": {name: fleet.report(name) for name in fleet.devices},
                "births": {
                    name: fleet.retained(UpTopic(name, DeviceSays.BIRTH)) for name in fleet.devices
                },
                "server": fleet.retained(ServerTopic(ServerTells.STATE)),
                "summary": fleet.retained(ServerTopic(ServerTells.SUMMARY)),
                "confirmed": fleet.confirmed(),
                "running": {n: d.installer.installed().digest for n, d in fleet.devices.items()},
                "telemetry": {n: fleet.server.journal.telemetry(n) for n in fleet.devices},
                "pending": [u for d in fleet.devices.values() for u in d.outbox.pending()],
            }

    return run(play())


def of_kind(campaign, *kinds):
    return [event for event in campaign["events"] if isinstance(event, kinds)]


def test_every_device_trains_the_widest_width_that_it_can_carry(campaign):
    chosen = {one.device: one.width for one in of_kind(campaign, e.WidthChosen)}
    assert chosen == HONEST | {RIDER: 1.0, WEAK: 0.0, WATCHER: 0.0}


def test_three_rounds_are_aggregated_and_the_model_gets_better(campaign):
    scored = of_kind(campaign, e.RoundScored)
    assert [one.round for one in scored] == [1, 2, 3]
    values = [scored[0].value_before, *(one.value_after for one in scored)]
    assert all(before < after for before, after in itertools.pairwise(values))
    assert campaign["state"].phase is Phase.FINISHED


def test_a_wider_device_contributes_more(campaign):
    contributions = [campaign["state"].contribution(name) for name in HONEST]
    assert contributions == sorted(contributions)
    assert contributions[0] > 0


def test_a_free_rider_ends_with_no_release(campaign):
    device = campaign["state"].devices[RIDER]
    assert device.rounds_taken == 3
    assert device.reward.width == 0
    assert device.deployed is None
    assert campaign["report"][RIDER] is None
    assert campaign["running"][RIDER] == ""
    assert "below the cut-off" in campaign["standing"][RIDER].width_reasons["entitled"]


def test_every_honest_device_confirms_what_it_really_runs(campaign):
    assert set(campaign["confirmed"]) == set(HONEST)
    for name, digest in campaign["confirmed"].items():
        assert campaign["running"][name] == digest
        assert campaign["standing"][name].confirmed == digest
        assert campaign["report"][name].state is InstallState.CONFIRMED
        assert campaign["report"][name].evaluations[0].data == "own"


def test_whoever_contributes_more_never_gets_a_narrower_model(campaign):
    widths = [campaign["state"].devices[name].reward.width for name in HONEST]
    assert widths == sorted(widths)
    assert widths[-1] == 1.0


def test_a_device_that_is_too_weak_is_told_so_and_stays_visible(campaign):
    standing = campaign["standing"][WEAK]
    assert standing.participation is Participation.CANNOT
    assert standing.reason.startswith("no width fits: 0.25 would take")
    assert WEAK in {line.device for line in campaign["summary"].devices}
    assert campaign["state"].devices[WEAK].link is LinkState.ONLINE


def test_a_device_that_only_infers_is_never_sent_a_task(campaign):
    assert "only infers" in campaign["standing"][WATCHER].reason
    tasks = {task.device for one in of_kind(campaign, e.RoundOpened) for task in one.tasks}
    assert tasks == {*HONEST, RIDER}


def test_every_round_records_who_was_not_invited_and_why(campaign):
    for opened in of_kind(campaign, e.RoundOpened):
        assert set(opened.not_invited) == {WEAK, WATCHER}
        assert "no width fits" in opened.not_invited[WEAK]


def test_every_stage_of_every_task_is_recorded(campaign):
    stages = {(one.round, one.device, one.stage) for one in of_kind(campaign, e.TaskProgressed)}
    accepted = {(one.round, one.device) for one in of_kind(campaign, e.UpdateAccepted)}
    for number, device in itertools.product((1, 2, 3), (*HONEST, RIDER)):
        assert {(number, device, Stage.ACCEPTED), (number, device, Stage.STARTED)} <= stages
        assert (number, device) in accepted


def test_every_participant_can_read_that_devices_hold_their_training_width(campaign):
    assert campaign["server"].status is LinkStatus.ONLINE
    assert campaign["server"].notice == POST_TRAINING_NOTICE
    assert "post-training" in campaign["server"].notice


def test_nothing_waits_in_any_outbox_when_all_is_over(campaign):
    assert campaign["pending"] == []


def test_telemetry_of_the_running_model_reaches_the_server(campaign):
    told = [one for _, one in campaign["telemetry"]["device-d"]]
    assert told
    assert told[-1].running == campaign["confirmed"]["device-d"]
    assert sum(told[-1].classes) == told[-1].inferences > 0


@simulated
async def test_a_device_that_cannot_train_gets_what_the_operator_grants(tmp_path):
    devices = {"press": DeviceSettings(), WATCHER: DeviceSettings(trains=False)}
    settings = toy_settings(
        rounds={"budget": 1, "min_devices": 2}, rewards={"inference_only_width": 0.25}
    )
    async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        assert set(fleet.confirmed()) == {"press", WATCHER}
        assert fleet.standing(WATCHER).running_width == 0.25


@simulated
async def test_each_release_replaces_the_one_before(tmp_path):
    settings = toy_settings(rounds={"budget": 3, "release_every": 1})
    async with SmallFleet(tmp_path, {"press": DeviceSettings()}, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        deployed = fleet.events(e.DeploymentIssued)
        assert [one.counter for one in deployed] == [1, 2, 3]
        assert len({one.digest for one in deployed}) == 3
        assert fleet.confirmed() == {"press": deployed[-1].digest}


@simulated
async def test_training_stops_on_a_plateau(tmp_path):
    settings = toy_settings(rounds={"budget": 20, "minimum": 2, "patience": 2})
    rider = DeviceSettings(behaviour=FREE_RIDER)
    async with SmallFleet(tmp_path, {"press": rider}, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        (stopped,) = fleet.events(e.TrainingStopped)
        assert stopped.reason.startswith("plateau")
        assert stopped.round == 2
        assert "no device earned" in fleet.state.withheld


@simulated
async def test_a_device_that_runs_out_of_memory_is_dropped_with_the_reason_and_trains_again(
    tmp_path,
):
    settings = toy_settings(rounds={"budget": 2, "min_devices": 2})
    clumsy = DeviceSettings(trainer={"fail": ["out of memory at width 1"]})
    devices = {"press": DeviceSettings(), "lathe": clumsy}
    async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        (dropped,) = fleet.events(e.DeviceDropped)
        assert (dropped.round, dropped.device) == (1, "lathe")
        assert dropped.reason is DropReason.TRAINING_FAILED
        assert "out of memory" in fleet.standing("lathe").last_drop
        assert (fleet.standing("lathe").rounds_missed, fleet.standing("lathe").rounds_taken) == (
            1,
            1,
        )


def test_two_runs_of_one_seed_end_in_the_same_weights(tmp_path):
    async def play(folder):
        folder.mkdir()
        devices = {"press": DeviceSettings(), "lathe": DeviceSettings(trainer={"widest": 0.5})}
        async with SmallFleet(folder, devices) as fleet:
            await fleet.until(fleet.finished)
            return fleet.state.weights

    assert run(play(tmp_path / "one")) == run(play(tmp_path / "two"))
