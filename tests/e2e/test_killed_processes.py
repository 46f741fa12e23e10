"""SIGKILL on real processes, at ten moments of one campaign: it ends as if nothing had happened."""

import pytest

from broker.messages import DropReason, Stage
from coordinator.fleet import Phase
from edge_agent import Predictor
from edge_agent.outbox import Outbox
from journal import events as e
from tests.fakes.real_fleet import (
    BROKER,
    SERVER,
    RealDevice,
    RealFleet,
    check_everybody_confirmed,
    check_history,
)

SWIFT, SLOW = "swift", "slow"
ROUNDS = 8


def gathering(state):
    return state.phase is Phase.GATHERING and state.round is None and state.devices


def opened(number):
    """A round is open and nobody has answered."""

    def moment(state):
        waiting = open_round(state, number)
        return waiting and not any(task.answered for task in waiting.tasks.values())

    return moment


def half_answered(number):
    """One update is acknowledged, another one is not there yet."""

    def moment(state):
        tasks = open_round(state, number).tasks.values() if open_round(state, number) else ()
        return any(task.update for task in tasks) and not all(task.answered for task in tasks)

    return moment


def training(device, number):
    def moment(state):
        current = open_round(state, number)
        return current and device in current.tasks and current.tasks[device].stage is Stage.STARTED

    return moment


def open_round(state, number):
    current = state.round
    is_open = state.phase is Phase.TRAINING and current.number == number
    return current if is_open else None


def in_phase(phase):
    return lambda state: state.phase is phase


def scored(number):
    return lambda state: state.weights_round >= number


def kill_the_trainer(fleet, device, number):
    fleet.until(training(device, number), f"{device} trains in round {number}")
    (trainer,) = [p for p in fleet.children(device) if "edge_agent.trainer" in p.cmdline()]
    trainer.kill()


def kill_while_uploading(fleet, device, number):
    """Kill a device that has an update to send; returns the update.

    The broker is held meanwhile, or the upload would be over before we looked.
    """
    fleet.until(training(device, number), f"{device} trains in round {number}")
    outbox = fleet.folder / device / "data" / "outbox"
    with fleet.frozen(BROKER):
        fleet.wait(lambda: list(outbox.glob("*.update")), f"{device} keeps its update")
        fleet.kill(device)
    (update,) = Outbox(outbox).pending()
    return update


@pytest.mark.slow
@pytest.mark.mqtt
@pytest.mark.torch
@pytest.mark.timeout(300)
def test_a_campaign_survives_ten_kills_and_loses_nothing(tmp_path):
    devices = [
        RealDevice(SWIFT, person=1, emulate="workstation"),
        RealDevice(SLOW, person=2, emulate="raspberry-pi-4"),
    ]
    campaign = {
        "training": {"steps": 16, "batch_size": 16},
        "rounds": {"budget": ROUNDS, "minimum": ROUNDS, "quorum": 2},
    }
    with RealFleet(tmp_path / "fleet", devices, campaign=campaign) as fleet:

        def restart(name, moment, what):
            fleet.kill_when(name, moment, what)
            fleet.start(name)

        fleet.start_all()
        restart(SERVER, gathering, "the fleet gathers")
        restart(SERVER, opened(1), "round 1 is open")
        restart(SERVER, half_answered(2), "round 2 has one update of two")
        fleet.until(scored(2), "round 2 is scored")
        restart(SERVER, in_phase(Phase.SCORING), "round 3 is scored")
        restart(BROKER, half_answered(4), "round 4 has one update of two")
        restart(SLOW, training(SLOW, 5), f"{SLOW} trains in round 5")
        update = kill_while_uploading(fleet, SLOW, 6)
        fleet.start(SLOW)
        kill_the_trainer(fleet, SLOW, 7)
        restart(SERVER, in_phase(Phase.EXPORTING), "files are exported")
        restart(SERVER, in_phase(Phase.DELIVERING), "files are delivered")
        fleet.until_finished()

        check_history(fleet)
        check_everybody_confirmed(fleet.state)
        state = fleet.state
        closed = {event.round: set(event.aggregated) for event in fleet.events(e.RoundClosed)}
        both, nobody = {SWIFT, SLOW}, set()
        # A round that missed its quorum uses up nothing of the budget: there is one more.
        assert closed == {n: nobody if n == 7 else both for n in range(1, ROUNDS + 2)}
        assert state.weights_round == ROUNDS + 1
        assert state.epoch == 7
        assert [event.device for event in fleet.events(e.DeviceBorn)].count(SLOW) == 3

        # The update that was kept before the kill is the one that counts.
        accepted = {(one.round, one.device): one for one in fleet.events(e.UpdateAccepted)}
        assert accepted[6, SLOW].blob == update.blob.blob
        # Who loses its trainer says so, and takes part in the next round.
        dropped = {(one.round, one.device): one for one in fleet.events(e.DeviceDropped)}
        assert {where: one.reason for where, one in dropped.items()} == {
            (7, SLOW): DropReason.TRAINING_FAILED,
            (7, SWIFT): DropReason.ROUND_ABANDONED,
        }
        assert "SIGKILL" in dropped[7, SLOW].detail

        for device in state.devices.values():
            if device.deployed and device.deployed.digest:
                slots = fleet.folder / device.device / "data" / "slots"
                assert Predictor(slots).manifest.digest == device.deployed.digest
        assert not fleet.orphans()
