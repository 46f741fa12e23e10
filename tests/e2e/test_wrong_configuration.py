"""What a user gets wrong, said in one line with an exit code; what may heal is waited for."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from broker.child import free_port
from broker.embedded import EmbeddedBroker
from broker.envelope import generate_signing_key, public_key_of, public_key_text
from broker.permissions import device_permissions
from slimfleet.exit_codes import ExitCode
from tests.fakes.real_fleet import FLEET, merged, write_toml

pytestmark = [pytest.mark.slow]
KEY = public_key_text(public_key_of(generate_signing_key()))
DEVICE = "press"
AGENT = {
    "device": DEVICE,
    "fleet": FLEET,
    "folder": "data",
    "trusted_keys": [KEY],
    "broker": {"url": "mqtt://127.0.0.1:1"},
    "train": {"data": "own.npz"},
}
SERVER = {
    "validation": "validation.npz",
    "folder": "data",
    "broker": {"url": "mqtt://127.0.0.1:1"},
    "campaign": {
        "fleet": FLEET,
        "model": "mlp",
        "options": {"input_shape": [3], "classes": ["good", "worn"]},
    },
}
PATIENCE_S = 60.0
RETRIES = 3


def run(folder, command, document):
    """Run an agent or a server that is expected to end at once."""
    path = folder / f"{command}.toml"
    if isinstance(document, str):
        path.write_text(document)
    else:
        write_toml(path, document)
    return subprocess.run(
        [sys.executable, "-m", "slimfleet", command, "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [
        ("agent", {"trusted_key": [KEY]}, "'trusted_key': did you mean 'trusted_keys'?"),
        ("agent", {"broker": {"url": "http://127.0.0.1"}}, "write mqtt://host:1883"),
        (
            "agent",
            {"broker": {"url": "mqtt://u:hush@127.0.0.1"}},
            "password in it: give them apart",
        ),
        ("agent", {"broker": {"password_file": "none"}}, "write the password into it"),
        ("agent", {"broker": {"url": "mqtts://localhost", "ca_file": "none.pem"}}, "none.pem"),
        ("agent", {"trusted_keys": ["slimfleet-ed25519 AAAA"]}, "not a key"),
        ("agent", {"demo": {"emulate": "raspbery-pi-4"}}, "did you mean 'raspberry-pi-4'?"),
        ("server", {"campaign": {"rounds": {"budgt": 3}}}, "did you mean 'budget'?"),
        ("server", {"campaign": {"secure_aggregation": True}}, "exclusive"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_what_to_write(tmp_path, command, changes, said):
    document = merged(AGENT if command == "agent" else SERVER, changes)
    answer = run(tmp_path, command, document)
    assert answer.returncode == ExitCode.BAD_CONFIGURATION, answer.stderr
    assert said in answer.stderr.splitlines()[-1]
    assert "Traceback" not in answer.stderr
    assert "hush" not in answer.stderr
    assert not answer.stdout


def test_a_file_that_is_no_toml_is_named(tmp_path):
    answer = run(tmp_path, "agent", "device = \n")
    assert answer.returncode == ExitCode.BAD_CONFIGURATION
    assert "agent.toml: not valid TOML" in answer.stderr


def test_a_missing_configuration_is_named_and_a_missing_argument_is_wrong_usage(tmp_path):
    there_is_none = [sys.executable, "-m", "slimfleet", "agent", "--config", str(tmp_path / "x")]
    answer = subprocess.run(there_is_none, capture_output=True, text=True, check=False)
    assert answer.returncode == ExitCode.BAD_CONFIGURATION
    assert "check the path" in answer.stderr
    answer = subprocess.run(there_is_none[:-2], capture_output=True, text=True, check=False)
    assert answer.returncode == ExitCode.USAGE
    assert "--config" in answer.stderr


@pytest.mark.torch
def test_a_server_without_its_validation_data_ends_and_says_so(tmp_path):
    answer = run(tmp_path, "server", SERVER)
    assert answer.returncode == ExitCode.BAD_CONFIGURATION, answer.stderr
    assert "validation.npz: No such file" in answer.stderr
    assert answer.stderr.count("\n") == 1


class Waiting:
    """An agent that cannot get to its broker."""

    def __init__(self, folder, document):
        write_toml(folder / "agent.toml", document)
        self.log = folder / "agent.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "slimfleet", "agent", "--config", folder / "agent.toml"],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def complaints(self):
        return [line for line in self.log.read_text().splitlines() if "broker connection" in line]

    def until_complained(self, times):
        deadline = time.monotonic() + PATIENCE_S
        while len(self.complaints()) < times:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def cpu_s(self):
        used = psutil.Process(self.process.pid).cpu_times()
        return used.user + used.system


def test_a_broker_that_is_not_there_is_waited_for_without_a_busy_loop(tmp_path):
    url = f"mqtt://127.0.0.1:{free_port()}"
    with Waiting(tmp_path, merged(AGENT, {"broker": {"url": url}})) as agent:
        agent.until_complained(1)
        before = agent.cpu_s()
        agent.until_complained(RETRIES)
        assert agent.cpu_s() - before < 0.1 * RETRIES
        complaint = agent.complaints()[0]
        assert url in complaint
        assert "is it running?" in complaint
        # The missing data was said as well; it is no reason not to infer.
        assert "train.data: there is no" in agent.log.read_text()
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(PATIENCE_S) == ExitCode.DONE


@pytest.mark.mqtt
def test_a_wrong_password_is_said_and_the_device_goes_on_trying_slowly(tmp_path):
    users = {DEVICE: ("right", device_permissions(FLEET, DEVICE))}
    (tmp_path / "broker").mkdir()
    (tmp_path / "password").write_text("rosebud\n")
    with EmbeddedBroker(tmp_path / "broker", users=users) as broker:
        access = {"url": str(broker.address), "password_file": "password"}
        with Waiting(tmp_path, merged(AGENT, {"broker": access})) as agent:
            agent.until_complained(1)
            assert "check the user name, the password" in agent.complaints()[0]
            assert "rosebud" not in agent.log.read_text()
            agent.process.send_signal(signal.SIGTERM)
            assert agent.process.wait(PATIENCE_S) == ExitCode.DONE
            assert len(agent.complaints()) == 1


def test_an_operators_command_does_not_wait_for_a_broker_that_is_not_there(tmp_path):
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "slimfleet", "status", "--fleet", FLEET),
            *("--broker", f"mqtt://127.0.0.1:{free_port()}"),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert answer.returncode == ExitCode.BROKER_UNREACHABLE
    assert answer.stderr.count("\n") == 1
