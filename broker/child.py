"""A broker as a child process: started, watched, ended, and never left behind."""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from broker.address import BrokerAddress
from broker.errors import BrokerConfigError

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02


class BrokerProcess:
    """One child process that ends no later than this process.

    A normal exit ends it through `atexit`; where Linux offers it, the kernel kills it when this
    process dies by SIGKILL. That signal is bound to the *thread* that started the child, so each
    child is started by a thread of its own, which lives as long as the child.

    Args:
        name: for messages to people.
        command: program and arguments.
        log: file that takes all output; appended to.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self._name = name
        self._command = list(command)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the child runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The child's process id, or None before the first start."""
        return self._process.pid if self._process is not None else None

    def start(self, answers: Callable[[], bool]) -> None:
        """Start the child and return when ``answers`` says that it serves; blocks until then.

        Raises:
            BrokerConfigError: it cannot be started, ended at once, or does not answer in time.
        """
        if self.running:
            return
        self._spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers():
            if not self.running:
                raise BrokerConfigError(
                    f"{self._name} ended while starting: {self._last_words()}; see {self._log}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise BrokerConfigError(
                    f"{self._name} does not answer after {START_TIMEOUT_S:g} s; see {self._log}"
                )
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Ask the child to end and return when it has; kill it where it does not."""
        if self._process is not None and self.running:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """Kill the child as a power failure would, and return when it is gone."""
        if self._process is not None:
            if self.running:
                self._process.kill()
            self._process.wait()
        atexit.unregister(self.kill)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child, for example to make it read its files again."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def _spawn(self) -> None:
        started: list[subprocess.Popen[bytes] | OSError] = []
        ready = threading.Event()

        def keep() -> None:
            try:
                with self._log.open("ab") as log:
                    process = subprocess.Popen(
                        _bound_to_parent(self._command),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # Ctrl-C is for us: we end it in order
                    )
            except OSError as error:
                started.append(error)
                ready.set()
                return
            started.append(process)
            ready.set()
            process.wait()

        threading.Thread(target=keep, name=f"keeper of {self._name}", daemon=True).start()
        ready.wait()
        if isinstance(started[0], OSError):
            raise BrokerConfigError(
                f"{self._name} cannot be started: {started[0]}; check {self._command[0]}"
            ) from started[0]
        self._process = started[0]
        atexit.register(self.kill)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()
            if lines:
                return lines[-1].strip()
        return "it said nothing"


def _bound_to_parent(command: list[str]) -> list[str]:
    if sys.platform == "linux" and (setpriv := shutil.which("setpriv")) is not None:
        return [setpriv, "--pdeathsig", "KILL", "--", *command]
    return command


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def mqtt_answers(address: BrokerAddress) -> bool:
    """Return whether something at ``address`` answers a CONNECT, even by refusing it.

    With TLS only the TCP port is tried: the handshake is for those who hold certificates.
    """
    body = b"\x00\x04MQTT\x04\x02\x00\x0a" + b"\x00\x05probe"  # 3.1.1, clean session, keepalive 10
    try:
        with socket.create_connection((address.host, address.port), timeout=1.0) as probe:
            if address.tls:
                return True
            probe.sendall(b"\x10" + bytes([len(body)]) + body)
            return probe.recv(1) == b"\x20"  # CONNACK
    except OSError:
        return False


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # an older file would keep its older mode
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
