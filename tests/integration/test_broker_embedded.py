"""The embedded broker as a process: its files, its ports, its end."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from broker.address import BrokerAddress
from broker.child import free_port, mqtt_answers
from broker.embedded import EmbeddedBroker, nats_config
from broker.errors import BrokerConfigError
from broker.permissions import device_permissions
from tests.fakes.brokers import PASSWORDS, SERVER, embedded, permissions_of

pytestmark = pytest.mark.mqtt
WAIT_S = 10.0


def test_it_answers_when_started_and_keeps_its_port_over_restarts(tmp_path):
    broker = embedded(tmp_path)
    broker.start()
    address = broker.address
    assert mqtt_answers(address)
    broker.kill()
    assert not broker.running
    broker.start()
    assert broker.address == address
    broker.stop()
    assert not mqtt_answers(address)


def test_two_brokers_run_side_by_side(tmp_path):
    with embedded(tmp_path / "one") as one, embedded(tmp_path / "two") as two:
        assert one.address != two.address


def test_it_listens_on_loopback_only(tmp_path):
    with embedded(tmp_path) as broker:
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(broker.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
    assert set(listening) == {"127.0.0.1"}


def test_its_configuration_holds_passwords_and_is_for_its_owner_only(tmp_path):
    with embedded(tmp_path):
        mode = stat.S_IMODE((tmp_path / "nats-server.conf").stat().st_mode)
    assert mode == 0o600


def test_no_user_gets_in_by_the_other_port(tmp_path):
    with embedded(tmp_path) as broker:
        port = int(
            re.findall(r"client connections on 127\.0\.0\.1:(\d+)", broker.log.read_text())[-1]
        )
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            client.sendall(
                b'CONNECT {"verbose":true,"user":"%b","pass":"%b"}\r\nPING\r\n'
                % (SERVER.encode(), PASSWORDS[SERVER].encode())
            )
            answer = b""
            while chunk := client.recv(4096):
                answer += chunk
    assert b"Authorization Violation" in answer


def test_a_port_that_is_taken_is_reported(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        users = {SERVER: ("x", permissions_of(SERVER))}
        broker = EmbeddedBroker(tmp_path, users=users, port=other.getsockname()[1])
        with pytest.raises(BrokerConfigError, match=r"nats-server.*see .*nats-server\.log"):
            broker.start()
        assert not broker.running


def test_a_broker_that_answers_at_our_port_is_not_taken_for_ours(tmp_path):
    with embedded(tmp_path / "first") as first:
        users = {SERVER: ("x", permissions_of(SERVER))}
        second = EmbeddedBroker(tmp_path / "second", users=users, port=first.address.port)
        with pytest.raises(BrokerConfigError, match="another broker answers"):
            second.start()
        assert not second.running


def test_a_missing_program_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.embedded.shutil.which", lambda _name: None)
    monkeypatch.setattr("broker.embedded.sysconfig.get_path", lambda _name: str(tmp_path))
    monkeypatch.setattr("broker.embedded.sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("broker.embedded.importlib.metadata.files", lambda _name: None)
    with pytest.raises(BrokerConfigError, match="pip install"):
        embedded(tmp_path).start()


@pytest.mark.parametrize(("user", "password"), [("a b", "x"), ("a>", "x"), ("", "x"), ("a", "")])
def test_a_user_that_nats_cannot_hold_is_refused(tmp_path, user, password):
    users = {user: (password, device_permissions("plant", "cam-01"))}
    with pytest.raises(BrokerConfigError, match=r"user|password"):
        nats_config(users, port=1883, store=tmp_path)


def test_nobody_answers_at_a_free_port():
    assert not mqtt_answers(BrokerAddress("127.0.0.1", free_port()))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_broker_dies_with_its_parent(tmp_path, end):
    script = textwrap.dedent("""
        import sys, threading
        from pathlib import Path
        from broker.embedded import EmbeddedBroker
        broker = EmbeddedBroker(Path(sys.argv[1]), users={})
        starter = threading.Thread(target=broker.start)  # the thread that starts it ends first
        starter.start()
        starter.join()
        print(broker.pid, flush=True)
        threading.Event().wait()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as parent:
        assert parent.stdout is not None
        broker = psutil.Process(int(parent.stdout.readline()))
        assert broker.is_running()
        parent.send_signal(end)
        parent.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while broker.is_running() and broker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the broker outlived its parent"
        time.sleep(0.01)
