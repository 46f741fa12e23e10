"""A device tells the server when its machine becomes hot, is held back, or cools down."""

import msgspec
import pytest

from edge_agent.actions import Say
from edge_agent.condition_watch import TELLING_C, worth_telling
from edge_agent.inputs import ConditionRead, ProfileMade
from profiler.profile import Condition
from tests.fakes.small_fleet import DeviceSettings, SmallFleet, toy_settings
from tests.fakes.virtual_clock import simulated
from tests.unit.test_agent_session import NOW, PROFILE, SERVER, hear, new_session

WARM = msgspec.structs.replace(PROFILE, temperature_c=50.0, power="mains")


@pytest.mark.parametrize(
    ("now", "news"),
    [
        (Condition(50.0, "", "mains"), False),
        (Condition(50.0 + TELLING_C - 0.1, "", "mains"), False),
        (Condition(50.0 + TELLING_C, "", "mains"), True),
        (Condition(50.0 - TELLING_C, "", "mains"), True),
        (Condition(None, "", "mains"), True),
        (Condition(50.0, "throttled", "mains"), True),
        (Condition(50.0, "", "battery"), True),
        (Condition(50.0, "", "mains", disk_free=7), False),
    ],
)
def test_what_is_news_of_a_machine(now, news):
    assert worth_telling(WARM, now) is news


def test_a_machine_without_a_thermometer_has_no_news():
    assert not worth_telling(PROFILE, Condition())


def told_by(session, condition):
    return [action.message for action in session.handle(ConditionRead(condition), NOW)]


def test_a_session_tells_its_whole_profile_with_the_new_condition_once():
    session = new_session()
    assert told_by(session, Condition(90.0)) == [], "nothing is told before the profile"
    hear(session, SERVER)
    assert told_by(session, Condition(90.0)) == [], "nor while it is made"
    session.handle(ProfileMade(PROFILE), NOW)
    hot = Condition(90.0, "throttled", "mains", 5)
    (said,) = told_by(session, hot)
    assert said == msgspec.structs.replace(
        PROFILE, temperature_c=90.0, throttled="throttled", power="mains", disk_free=5
    )
    assert told_by(session, hot) == []
    assert session.connected() == [Say(said)], "it is what is repeated after a reconnect"
    assert told_by(session, Condition(70.0, "", "mains", 5))[0].temperature_c == 70.0


@simulated
async def test_over_the_broker_a_device_that_becomes_hot_trains_narrower_and_then_wider_again(
    tmp_path,
):
    heat = [50.0]
    devices = {
        "oven": DeviceSettings(condition=lambda: Condition(heat[0])),
        "press": DeviceSettings(),
    }
    chosen = toy_settings(
        rounds={"budget": 500, "minimum": 500, "quorum": 1}, width_policy={"hottest_c": 80.0}
    )

    def width(fleet):
        current = fleet.state.round
        return current.tasks["oven"].task.width if current and "oven" in current.tasks else 0.0

    async with SmallFleet(tmp_path, devices, settings=chosen) as fleet:
        await fleet.until(fleet.training(1))
        await fleet.until(lambda: width(fleet) == 1.0)
        heat[0] = 95.0
        await fleet.until(lambda: width(fleet) == 0.75)
        reason = fleet.state.round.tasks["oven"].task.reason
        assert (
            reason == "width 0.75 of the 1 that it could: it has 95 degrees Celsius, of 80 allowed"
        )
        heat[0] = 60.0
        await fleet.until(lambda: width(fleet) == 1.0)
