"""Whole campaigns in virtual time in which rewards bind while training, or devices are assessed."""

from unittest import mock

import msgspec
import pytest

from broker.codec import decode_on
from broker.messages import DropReason, InstallState, Task
from broker.topics import DownTopic, parse_topic
from coordinator.evolution import evolve
from coordinator.fleet import Campaign, Phase
from edge_agent import installation
from edge_agent.probe import ProbeResult
from journal import events as e
from journal.store import Journal
from tests.fakes.small_fleet import (
    FLEET,
    SERVER,
    DeviceSettings,
    Kill,
    SmallFleet,
    toy_settings,
)
from tests.fakes.toy_training import FREE_RIDER, GRID
from tests.fakes.virtual_clock import run, simulated

HONEST = {"device-a": 0.5, "device-b": 0.75, "device-c": 1.0}
RIDER = "free-rider"
BINDING = {"mode": "training-time"}


def fair_settings(devices, rewards=None, contributions=None, **rounds):
    return toy_settings(
        rounds={"min_devices": devices} | rounds,
        rewards=BINDING if rewards is None else rewards,
        contributions=contributions or {},
    )


def tasks_said(fleet):
    """Return every task that was ever published: (device, its message)."""
    found = []
    for user, topic, payload in fleet.broker.log:
        where = parse_topic(FLEET, topic)
        if user == SERVER and payload and isinstance(where, DownTopic):
            message = decode_on(where, payload)
            if isinstance(message, Task):
                found.append((where.device, message))
    return found


def caps_by_round(events):
    """Return round -> device -> widest training width that it was entitled to when it opened."""
    caps, found = {}, {}
    for event in events:
        if isinstance(event, e.EntitlementsRevised):
            caps = caps | event.widths
        elif isinstance(event, e.RoundOpened):
            found[event.round] = {t.device: caps.get(t.device, min(GRID)) for t in event.tasks}
    return found


def replay(server):
    state = Campaign()
    for record in server.journal.records():
        state = evolve(state, record.event, record.at)
    return state


# --- training-time rewards ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def binding(tmp_path_factory):
    """A finished campaign with training-time rewards: what was decided, and every task."""

    async def play():
        devices = {
            name: DeviceSettings(trainer={"widest": width}) for name, width in HONEST.items()
        }
        devices[RIDER] = DeviceSettings(behaviour=FREE_RIDER, noise=1e-3)
        folder = tmp_path_factory.mktemp("binding")
        async with SmallFleet(folder, devices, settings=fair_settings(4, quorum=4)) as fleet:
            await fleet.until(fleet.finished)
            assert replay(fleet.server) == fleet.state
            return fleet.events(), tasks_said(fleet), fleet.state

    return run(play())


def test_no_task_is_ever_wider_than_the_entitlement_of_its_round(binding):
    events, tasks, _ = binding
    caps = caps_by_round(events)
    assert {task.round for _, task in tasks} == {1, 2, 3}
    for device, task in tasks:
        assert task.width <= caps[task.round][device]


def test_no_device_ever_gets_the_key_of_a_width_above_its_entitlement(binding):
    events, tasks, _ = binding
    caps = caps_by_round(events)
    width_of = {task.key: (task.round, task.width) for _, task in tasks}
    assert len(width_of) == len({(task.round, task.width) for _, task in tasks})
    for device, task in tasks:
        number, width = width_of[task.key]
        assert number == task.round
        assert width <= caps[number][device]


def test_all_start_at_the_narrowest_width_and_contributors_rise_to_what_they_can_train(binding):
    events, _, _ = binding
    opened = [event for event in events if isinstance(event, e.RoundOpened)]
    first, last = ({t.device: t.width for t in one.tasks} for one in (opened[0], opened[-1]))
    assert set(first.values()) == {min(GRID)}
    assert last["device-c"] == 1.0
    assert last["device-a"] <= HONEST["device-a"]


def test_a_rider_never_holds_more_than_the_narrowest_width(binding):
    events, tasks, state = binding
    assert {task.width for device, task in tasks if device == RIDER} == {min(GRID)}
    assert state.devices[RIDER].reward.width == 0.0
    assert state.devices[RIDER].deployed is None
    assert sum(isinstance(event, e.EntitlementsRevised) for event in events) == 3


@simulated
async def test_an_update_wider_than_the_cap_is_refused(tmp_path):
    def wider(update):
        return msgspec.structs.replace(update, width=1.0)

    devices = {"press": DeviceSettings(), "greedy": DeviceSettings(tamper=wider)}
    async with SmallFleet(tmp_path, devices, settings=fair_settings(2, budget=2)) as fleet:
        await fleet.until(fleet.finished)
        refused = [one for one in fleet.events(e.UpdateRefused) if one.device == "greedy"]
        assert {one.reason for one in refused} == {DropReason.WRONG_WIDTH}
        widths = {task.width for device, task in tasks_said(fleet) if device == "greedy"}
        assert widths == {min(GRID)}


@simulated
async def test_a_fleet_of_riders_stays_at_the_narrowest_width_and_gets_nothing(tmp_path):
    rider = DeviceSettings(behaviour=FREE_RIDER)
    devices = {"one": rider, "two": rider}
    async with SmallFleet(tmp_path, devices, settings=fair_settings(2)) as fleet:
        await fleet.until(fleet.finished)
        assert {task.width for _, task in tasks_said(fleet)} == {min(GRID)}
        assert "no device earned" in fleet.state.withheld


@simulated
async def test_one_device_alone_rises_to_the_full_width(tmp_path):
    settings = fair_settings(1)
    async with SmallFleet(tmp_path, {"press": DeviceSettings()}, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        assert [task.width for _, task in tasks_said(fleet)] == [0.25, 1.0, 1.0]
        assert fleet.state.devices["press"].deployed.width == 1.0


@simulated
async def test_a_width_with_too_few_trainers_leaves_the_ladder(tmp_path):
    rewards = {"min_trainers": 2}
    devices = {"wide": DeviceSettings(), "half": DeviceSettings(trainer={"widest": 0.5})}
    settings = fair_settings(2, rewards, budget=1, minimum=1)
    async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        [scored] = fleet.events(e.RoundScored)
        offered = {point.width: point.offered for point in scored.curve}
        assert offered == {w: w <= 0.5 for w in offered}
        assert max(one.width for one in fleet.state.allocation.rewards) == 0.5


# --- assessment ---------------------------------------------------------------------------------

ALONE = {"alone_rounds": 4}


@simulated
async def test_devices_are_assessed_before_they_train_together(tmp_path):
    devices = {"press": DeviceSettings(), "half": DeviceSettings(trainer={"widest": 0.5})}
    settings = fair_settings(2, {}, ALONE)
    async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        [measured] = fleet.events(e.AloneMeasured)
        alone = {one.device: (one.width, one.score) for one in measured.scores}
        assert alone["press"][0] == 1.0
        assert alone["half"][0] == 0.5
        assert alone["press"][1] > alone["half"][1] > 0
        assert [one.round for one in fleet.events(e.RoundScored)] == [2, 3, 4]
        assert fleet.state.devices["press"].rounds_taken == 3
        rewards = {one.device: one for one in fleet.state.allocation.rewards}
        assert rewards["press"].alone == alone["press"][1]
        kept = {path.name for path in (fleet.server.folder / "blobs").iterdir()}
        assert not kept & {one.update for one in measured.scores}, "of no more use"


WANTED = (e.RoundOpened, e.RoundClosed, e.AloneMeasured, e.EntitlementsRevised, e.RewardsAllocated)


def both_campaign(folder, kill=None):
    devices = {"press": DeviceSettings(), "lathe": DeviceSettings(trainer={"widest": 0.5})}
    settings = fair_settings(2, BINDING, ALONE, budget=2, minimum=2, quorum=2, deadline_s=6.0)
    return SmallFleet(folder, devices, settings=settings, kill=kill)


def played(folder, kill=None):
    async def play():
        async with both_campaign(folder, kill) as fleet:
            await fleet.until(fleet.finished)
            assert fleet.state.phase is Phase.FINISHED
            assert replay(fleet.server) == fleet.state
            return fleet.events()

    folder.mkdir()
    return run(play())


def outcome(events):
    """Return what must come out however often the server was killed."""
    return [
        event
        for event in events
        if isinstance(event, e.AloneMeasured | e.EntitlementsRevised | e.RewardsAllocated)
    ]


@pytest.mark.parametrize("place", ["journal-before-commit", "journal-after-commit"])
def test_the_server_may_be_killed_at_each_new_event(place, tmp_path):
    commits = []
    append = Journal.append

    def noting(journal, events, at):
        commits.append(events)
        return append(journal, events, at)

    with mock.patch.object(Journal, "append", noting):
        undisturbed = outcome(played(tmp_path / "undisturbed"))
    interesting = [
        number
        for number, events in enumerate(commits, 1)
        if any(isinstance(event, WANTED) for event in events)
    ]
    kinds = {type(event) for number in interesting for event in commits[number - 1]}
    assert kinds >= set(WANTED)
    for number in interesting:
        kill = Kill(SERVER, place, number)
        assert outcome(played(tmp_path / str(number), kill)) == undisturbed, f"commit {number}"
        assert kill.fired


# --- capacity -----------------------------------------------------------------------------------


@simulated
async def test_a_device_whose_memory_runs_out_ends_with_a_narrower_model(tmp_path):
    tried = []

    async def probe(path, _manifest):
        tried.append(path)
        if len(tried) < 3:
            return ProbeResult(ok=False, latency_s=0.0, detail="killed", code="killed")
        return ProbeResult(ok=True, latency_s=0.001, detail="answered")

    settings = fair_settings(1, {}, budget=1, minimum=1)
    async with SmallFleet(tmp_path, {"press": DeviceSettings()}, settings=settings) as fleet:
        with mock.patch.object(installation, "probe", probe):
            await fleet.until(fleet.finished)
        reports = fleet.events(e.InstallReported)
        assert [one.report.code for one in reports if one.state is InstallState.FAILED] == [
            "try-again:killed",
            "try-again:killed",
        ]
        assert len(fleet.events(e.ReleaseDue)) == 2
        device = fleet.state.devices["press"]
        assert device.reward.width == 1.0
        assert device.deployed.width == device.report.width == 0.5
        assert "for want of memory or time" in fleet.standing("press").width_reasons["deployed"]
