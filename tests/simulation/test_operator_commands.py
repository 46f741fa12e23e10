"""What an operator asks for reaches real agents over the protocol, in virtual time."""

import pytest

from broker.messages import Command, OperatorAction, Participation
from broker.permissions import device_permissions, operator_permissions
from broker.topics import CommandTopic, DownTopic, ResultTopic, ServerSays, ServerTells, ServerTopic
from coordinator.fleet import confirmed
from journal import events as e
from tests.fakes.small_fleet import OPERATOR, DeviceSettings, SmallFleet, toy_settings
from tests.fakes.virtual_clock import run

PRESS, LATHE = "press", "lathe"
SLOW = {"train_s": 1.0}
SUMMARY = ServerTopic(ServerTells.SUMMARY)
ROUNDS = {"min_devices": 2, "budget": 5, "minimum": 5, "release_every": 1}


def play(tmp_path, story, devices=None, **rounds):
    """Run a fleet with a release after each round, and what an operator does with it."""
    known = devices or {name: DeviceSettings(trainer=SLOW) for name in (PRESS, LATHE)}

    async def told():
        settings = toy_settings(rounds=ROUNDS | rounds)
        async with SmallFleet(tmp_path, known, settings=settings) as fleet:
            return await story(fleet)

    return run(told())


async def ask(fleet, action, device=PRESS, **changes):
    """Send a command and return its answer."""
    number = f"c-{len(fleet.state.commands)}"
    command = Command(
        command_id=number, action=OperatorAction(action), device=device, reason="r", **changes
    )
    fleet.inject(OPERATOR, CommandTopic(OPERATOR), command, retain=False)

    def answered():
        answer = fleet.retained(ResultTopic(OPERATOR))
        return answer and answer.command_id == number

    await fleet.until(answered)
    return fleet.retained(ResultTopic(OPERATOR))


def running(fleet, device):
    """The round whose weights the device's own slots hold, 0 = none."""
    installer = fleet.devices[device].installer
    digest = installer.installed().digest if installer else ""
    return fleet.state.releases[digest][0].manifest.round if digest else 0


def asked_for(fleet, device, topic=ServerSays.PROFILE_REQUEST):
    return fleet.retained(DownTopic(device, topic))


def everybody_runs(fleet, number):
    return lambda: all(
        running(fleet, name) >= number and confirmed(fleet.state.devices[name])
        for name in fleet.devices
    )


def test_a_cap_changes_what_the_device_is_asked_to_train_and_its_standing_says_why(tmp_path):
    async def story(fleet):
        await fleet.until(fleet.training(1))
        answer = await ask(fleet, "cap-width", width=0.25)
        await fleet.until(fleet.training(2))
        told = fleet.standing(PRESS)
        tasks = {one.round: one for one in fleet.events(e.RoundOpened)}
        widths = [{t.device: t.width for t in tasks[n].tasks} for n in (1, 2)]
        return answer, widths, told

    answer, widths, told = play(tmp_path, story)
    assert answer.done
    assert widths == [{PRESS: 1.0, LATHE: 1.0}, {PRESS: 0.25, LATHE: 1.0}]
    assert told.training_cap == told.training_width == 0.25
    assert told.width_reasons["cap"] == f"held at 0.25 at most by {OPERATOR}: r"


def test_a_device_runs_the_release_before_again_and_then_the_next_new_one(tmp_path):
    async def story(fleet):
        await fleet.until(everybody_runs(fleet, 2))
        await ask(fleet, "pause-rounds", "")
        await fleet.until(lambda: fleet.state.phase == "gathering")
        newest = fleet.state.weights_round
        await fleet.until(everybody_runs(fleet, newest))
        answer = await ask(fleet, "roll-back")
        assert answer.done, answer
        counter = fleet.state.devices[PRESS].counter
        await fleet.until(lambda: running(fleet, PRESS) == newest - 1)
        await fleet.until(lambda: confirmed(fleet.state.devices[PRESS]))
        assert running(fleet, LATHE) == newest
        told, report = fleet.standing(PRESS), fleet.report(PRESS)
        assert told.width_reasons["deployed"].endswith(f"rolled back by {OPERATOR}: r")
        assert report.counter == counter
        await fleet.server.kill()
        await fleet.server.start()
        await fleet.until(lambda: fleet.server.coordinator and fleet.state.epoch == 2)
        assert running(fleet, PRESS) == newest - 1
        await ask(fleet, "resume-rounds", "")
        await fleet.until(everybody_runs(fleet, newest + 1))

    play(tmp_path, story)


def test_a_device_goes_forward_again(tmp_path):
    async def story(fleet):
        await fleet.until(fleet.finished)
        last = fleet.state.weights_round
        assert (await ask(fleet, "roll-back")).done
        await fleet.until(lambda: running(fleet, PRESS) == last - 1)
        assert (await ask(fleet, "roll-forward")).done
        await fleet.until(everybody_runs(fleet, last))

    play(tmp_path, story, budget=2, minimum=2)


def test_a_device_that_is_asked_measures_itself_between_two_trainings(tmp_path):
    async def story(fleet):
        await fleet.until(fleet.training(2))
        before = len(fleet.events(e.DeviceProfiled))
        assert (await ask(fleet, "re-profile")).done
        request = asked_for(fleet, PRESS).request
        await fleet.until(lambda: asked_for(fleet, PRESS) is None)
        profiles = fleet.events(e.DeviceProfiled)[before:]
        await fleet.until(fleet.finished)
        drops = fleet.events(e.DeviceDropped)
        return request, [(one.device, one.profile.answers) for one in profiles], drops

    request, profiles, drops = play(tmp_path, story)
    assert profiles == [(PRESS, request)]
    assert not drops, "no round was disturbed"


def test_a_device_that_is_away_measures_itself_when_it_returns_and_once(tmp_path):
    async def story(fleet):
        await fleet.until(fleet.finished)
        before = len(fleet.events(e.DeviceProfiled))
        device = fleet.devices[PRESS]
        await device.kill()
        await ask(fleet, "re-profile")
        assert asked_for(fleet, PRESS)
        await device.start()
        await fleet.until(lambda: asked_for(fleet, PRESS) is None)
        return [one.profile.answers for one in fleet.events(e.DeviceProfiled)[before:]]

    answers = play(tmp_path, story, budget=1, minimum=1)
    assert [one for one in answers if one] == [f"{OPERATOR}/c-0"]


def test_a_retired_device_is_told_and_left_out_even_when_it_comes_back(tmp_path):
    async def story(fleet):
        await fleet.until(everybody_runs(fleet, 1))
        assert (await ask(fleet, "retire")).done
        device = fleet.devices[PRESS]
        await device.kill()
        await device.start()
        number = fleet.state.round.number
        await fleet.until(fleet.training(number + 1))
        assert PRESS not in fleet.state.round.tasks
        told = fleet.standing(PRESS)
        assert (told.retired, told.participation) == (True, Participation.SUSPENDED)
        lines = {one.device: one.link for one in fleet.retained(SUMMARY).devices}
        assert lines == {PRESS: "retired", LATHE: "online"}
        for channel in set(ServerSays) - {ServerSays.STANDING}:
            assert asked_for(fleet, PRESS, channel) is None
        ran = running(fleet, PRESS)
        await fleet.until(fleet.finished)
        assert running(fleet, PRESS) == ran < running(fleet, LATHE)

    play(tmp_path, story, quorum=1)


@pytest.mark.parametrize("channel", [ServerSays.STANDING, ServerSays.PROFILE_REQUEST])
def test_nobody_but_the_server_can_ask_for_a_profile(channel):
    topic = f"slimfleet/v1/plant/d/{PRESS}/down/{channel}"
    assert not operator_permissions("plant", "anna").may_publish(topic)
    assert not device_permissions("plant", LATHE).may_publish(topic)
