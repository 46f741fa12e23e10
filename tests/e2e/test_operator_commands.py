"""What an operator types reaches real devices through a real broker, and can be undone."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from coordinator.fleet import Phase, confirmed
from edge_agent import Predictor
from journal import events as e
from tests.fakes.real_fleet import (
    OPERATOR,
    SERVER,
    RealDevice,
    RealFleet,
    check_history,
    json_of,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(240),
]
PRESS, LATHE = "press", "lathe"
CAMPAIGN = {
    "rounds": {"budget": 200, "minimum": 200, "release_every": 1},
    "rewards": {"ladder": [1.0]},
}


@dataclass
class Story:
    """What was seen."""

    fleet: RealFleet
    said: dict[str, str] = field(default_factory=dict)
    newest: str = ""
    before: str = ""
    running: dict[str, str] = field(default_factory=dict)
    released: str = ""
    status: dict[str, dict[str, Any]] = field(default_factory=dict)
    profiles: list[Any] = field(default_factory=list)
    width: float = 0.0


def operator(fleet, *arguments):
    """Run an operator's command and return its exit status and what it printed."""
    password = fleet.folder / OPERATOR / "password"
    answer = fleet.run(
        *arguments,
        *("--config", str(fleet.config(SERVER)), "--password-file", str(password)),
        *("--timeout", "30"),
    )
    return answer.returncode, answer.stdout + answer.stderr


def status(fleet):
    _, text = operator(fleet, "status", "--json")
    return {one["device"]: one for one in json_of(text)["devices"]}


def running(fleet, device):
    """The digest of the model that an application beside the agent would run."""
    return Predictor(fleet.folder / device / "data" / "slots").manifest.digest


def all_confirmed(state):
    return all(confirmed(device) for device in state.devices.values())


def resting(state):
    """Whether rounds are paused, everything is released, and everybody runs it."""
    return state.paused and state.phase is Phase.GATHERING and all_confirmed(state)


def back(fleet, told):
    fleet.until(
        lambda state: PRESS in state.devices and len(state.devices[PRESS].ran) > 1,
        "two releases ran",
    )
    told.said["pause"] = operator(fleet, "rounds", "pause", "--reason", "look")[1]
    fleet.until(resting, "rounds are paused")
    told.before, told.newest = fleet.state.devices[PRESS].ran[-2:]
    told.said["back"] = operator(fleet, "device", "roll-back", PRESS, "--reason", "worse")[1]
    fleet.until(
        lambda state: state.devices[PRESS].deployed.commanded and all_confirmed(state),
        f"{PRESS} went back",
    )
    told.running = {name: running(fleet, name) for name in (PRESS, LATHE)}
    told.status["back"] = status(fleet)


def measured(fleet, told):
    known = len(fleet.events(e.DeviceProfiled))
    told.said["anew"] = operator(fleet, "device", "re-profile", PRESS, "--reason", "new fan")[1]
    fleet.until(lambda state: not state.devices[PRESS].requested, f"{PRESS} measured itself")
    told.profiles = fleet.events(e.DeviceProfiled)[known:]


def capped(fleet, told):
    words = ("device", "cap", LATHE, "--width", "0.5", "--reason", "hot")
    told.said["cap"] = operator(fleet, *words)[1]
    number = fleet.state.round.number
    told.said["note"] = operator(fleet, "rounds", "note", "--text", "new coolant")[1]
    operator(fleet, "rounds", "resume", "--reason", "seen")
    fleet.until(lambda state: state.round.number > number, "a further round is open")
    told.width = fleet.state.round.tasks[LATHE].task.width
    told.status["capped"] = status(fleet)
    fleet.until(
        lambda state: not state.devices[PRESS].rolled_from and confirmed(state.devices[PRESS]),
        f"the next release reaches {PRESS}",
    )
    told.released = running(fleet, PRESS)


def gone(fleet, told):
    told.said["retire"] = operator(fleet, "device", "retire", LATHE, "--reason", "scrapped")[1]
    told.said["refused"] = operator(fleet, "device", "roll-back", LATHE, "--reason", "x")[1]
    number = fleet.state.round.number
    fleet.until(lambda state: state.round.number > number, "a round without it is open")
    told.status["gone"] = status(fleet)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    devices = [RealDevice(PRESS, person=1), RealDevice(LATHE, person=2)]
    folder = tmp_path_factory.mktemp("commands") / "fleet"
    with RealFleet(folder, devices, campaign=CAMPAIGN) as fleet:
        told = Story(fleet)
        fleet.access(OPERATOR)
        fleet.start_all()
        back(fleet, told)
        measured(fleet, told)
        capped(fleet, told)
        gone(fleet, told)
        yield told


def test_a_device_that_is_rolled_back_runs_the_release_before_and_says_so(story):
    assert story.said["back"] == f"{PRESS} goes back to the release that it ran before\n"
    assert story.running[PRESS] == story.before != story.newest
    assert story.running[LATHE] != story.before
    line = story.status["back"][PRESS]
    assert line["confirmed"] == story.before
    assert line["width_reasons"]["deployed"].endswith(f"rolled back by {OPERATOR}: worse")


def test_the_next_release_reaches_it_again(story):
    assert story.released not in {story.before, story.newest}


def test_a_device_measures_itself_anew_although_it_remembers(story):
    assert story.said["anew"] == f"{PRESS} is asked to measure itself anew\n"
    answers = [one.profile for one in story.profiles if one.profile.answers]
    assert [(one.answers.split("/")[0], len(one.costs)) for one in answers] == [(OPERATOR, 2)]
    assert all(cost.timed_steps for cost in answers[0].costs)
    assert "still holds" not in story.fleet.log(PRESS)


def test_a_cap_holds_from_the_next_round_on_and_the_status_says_whose_it_is(story):
    assert story.said["cap"] == f"{LATHE} trains 0.5 at most from the next round on\n"
    assert story.width == 0.5
    line = story.status["capped"][LATHE]
    assert line["training_cap"] == 0.5
    assert line["width_reasons"]["cap"] == f"held at 0.5 at most by {OPERATOR}: hot"
    assert story.status["capped"][PRESS]["training_cap"] == 0


def test_a_retired_device_is_left_out_and_shown_as_retired(story):
    assert story.said["retire"] == f"{LATHE} is retired\n"
    line = story.status["gone"][LATHE]
    assert (line["link"], line["retired"]) == ("retired", True)
    assert line["reason"] == f"retired by {OPERATOR}: scrapped"
    assert LATHE not in story.fleet.state.round.tasks
    assert "resume it first" in story.said["refused"]


def test_the_journal_knows_who_asked_for_what_and_why(story):
    acted = story.fleet.events(e.OperatorActed)
    assert {one.operator for one in acted} == {OPERATOR}
    assert [(str(one.action), one.device, one.reason, one.done) for one in acted] == [
        ("pause-rounds", "", "look", True),
        ("roll-back", PRESS, "worse", True),
        ("re-profile", PRESS, "new fan", True),
        ("cap-width", LATHE, "hot", True),
        ("note", "", "new coolant", True),
        ("resume-rounds", "", "seen", True),
        ("retire", LATHE, "scrapped", True),
        ("roll-back", LATHE, "x", False),
    ]
    check_history(story.fleet)
