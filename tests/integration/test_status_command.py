"""The operator's commands as processes, against the embedded broker."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from broker.child import free_port
from broker.codec import decode, encode
from broker.messages import Command, CommandResult, OperatorAction, Participation
from broker.topics import CommandTopic, ResultTopic, topic_for
from tests.fakes.brokers import (
    CAM_1,
    CAM_2,
    FLEET,
    OPERATOR,
    PASSWORDS,
    SERVER,
    RealUnderTest,
    embedded,
    party_at,
)
from tests.fakes.fleet_status import (
    STATE,
    STATE_TOPIC,
    SUMMARY_TOPIC,
    birth,
    birth_topic,
    standing,
    standing_topic,
    summary,
)

pytestmark = [pytest.mark.mqtt, pytest.mark.slow]
COMMANDS = topic_for(FLEET, CommandTopic(OPERATOR))
RESULTS = topic_for(FLEET, ResultTopic(OPERATOR))


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with embedded(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
async def party(runner):
    async with party_at(RealUnderTest("embedded", runner)) as found:
        yield found


@pytest.fixture
def slimfleet(runner, tmp_path):
    """Run an operator's command; return its exit code, output and complaints."""
    password = tmp_path / "password"
    password.write_text(PASSWORDS[OPERATOR] + "\n")

    async def call(*arguments, broker=None, fleet=FLEET, password_file=password):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slimfleet", *arguments),
            *("--broker", broker or str(runner.address), "--fleet", fleet),
            *("--operator", OPERATOR, "--password-file", str(password_file)),
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out.decode(), err.decode()

    return call


async def say(inbox, topic, message):
    await inbox.link.publish(topic_for(FLEET, topic), encode(message), retain=True)


async def test_status_is_read_from_what_server_and_devices_left_retained(party, slimfleet):
    server = await party.join(SERVER)
    await say(server, STATE_TOPIC, STATE)
    await say(server, SUMMARY_TOPIC, summary((CAM_1, "online"), (CAM_2, "offline")))
    await say(server, standing_topic(CAM_1), standing())
    await say(
        server,
        standing_topic(CAM_2),
        standing(participation=Participation.CANNOT, reason="no width fits its memory"),
    )
    for device in (CAM_1, CAM_2):
        await say(await party.join(device), birth_topic(device), birth())

    code, out, err = await slimfleet("status", "--timeout", "20")
    assert (code, err) == (0, "")
    assert out.startswith(f"fleet {FLEET}: training, round 7")
    assert f"{CAM_1} online  yes" in out
    assert "takes no part: no width fits its memory" in out

    code, out, _ = await slimfleet("status", "--timeout", "20", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["complete"] is True
    assert [device["device"] for device in document["devices"]] == [CAM_1, CAM_2]


async def test_a_fleet_that_nobody_serves_is_a_failure_with_a_hint(slimfleet):
    code, out, err = await slimfleet("status", "--timeout", "1", fleet="elsewhere")
    assert code == 1
    assert "no server has served it" in out
    assert "check --fleet" in err


async def test_a_wrong_password_and_a_missing_broker_are_told_in_one_line(slimfleet, tmp_path):
    (tmp_path / "wrong").write_text("wrong\n")
    code, _, err = await slimfleet("status", password_file=tmp_path / "wrong")
    assert code == 3
    assert err.count("\n") == 1
    code, out, err = await slimfleet("status", broker="mqtt://127.0.0.1:1")
    assert (code, out) == (3, "")
    assert "mqtt://127.0.0.1:1" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "action", "done", "said"),
    [
        (("device", "suspend", CAM_1), "suspend", True, f"{CAM_1} is suspended"),
        (("device", "resume", CAM_1), "resume", True, f"{CAM_1} is resumed"),
        (("device", "suspend", CAM_1), "suspend", False, "refused: no device"),
        (("rounds", "pause"), "pause-rounds", True, "rounds are paused"),
        (("rounds", "resume"), "resume-rounds", True, "rounds go on"),
        (("rounds", "note"), "note", True, "the note stands in the journal"),
        (("device", "cap", CAM_1, "--width", "0.5"), "cap-width", True, "trains 0.5 at most"),
        (("device", "cap", CAM_1, "--width", "none"), "cap-width", True, "any width that fits"),
        (("device", "roll-back", CAM_1), "roll-back", True, "goes back to the release"),
        (("device", "roll-forward", CAM_1), "roll-forward", True, "gets again"),
        (("device", "re-profile", CAM_1), "re-profile", True, "asked to measure itself"),
        (("device", "retire", CAM_1), "retire", True, f"{CAM_1} is retired"),
        (("rounds", "pause"), "pause-rounds", False, "slimfleet rounds: refused: no device"),
    ],
)
async def test_a_command_waits_for_its_own_answer(party, slimfleet, words, action, done, said):
    server = await party.join(SERVER, COMMANDS)
    await say(
        server, ResultTopic(OPERATOR), CommandResult(command_id="an-older-one", done=not done)
    )

    async def answer():
        asked = decode((await server.message(COMMANDS)).payload, Command)
        detail = "" if done else f"no device {asked.device!r} in this fleet"
        result = CommandResult(command_id=asked.command_id, done=done, detail=detail)
        await say(server, ResultTopic(OPERATOR), result)
        return asked

    answering = asyncio.ensure_future(answer())
    found, out, err = await slimfleet(
        *(*words, "--reason", "bearing is being changed", "--timeout", "20")
    )
    asked = await answering
    assert found == (0 if done else 1)
    assert asked.device == ("" if words[0] == "rounds" else CAM_1)
    assert said in (out if done else err)
    assert asked.action is OperatorAction(action)
    assert asked.reason == "bearing is being changed"
    assert asked.width == (0.5 if "0.5" in words else 0.0)


async def test_a_silent_server_is_no_success(party, slimfleet):
    await party.join(SERVER)
    code, out, err = await slimfleet(
        *("device", "suspend", CAM_1, "--reason", "x", "--timeout", "1")
    )
    assert (code, out) == (1, "")
    assert "no answer within 1 s" in err


async def test_the_broker_command_serves_until_it_is_asked_to_stop(tmp_path):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "slimfleet", "broker", "run", "--fleet", FLEET),
        *("--folder", str(tmp_path), "--devices", CAM_1, "--port", str(free_port())),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert line.startswith(f"broker of fleet {FLEET} at mqtt://127.0.0.1:")
        assert {path.name for path in (tmp_path / "passwords").iterdir()} == {
            CAM_1,
            SERVER,
            "operator",
        }
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
