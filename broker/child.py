"""A broker as a child process: started, watched, ended, and never left behind."""

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.address import BrokerAddress
from broker.errors import BrokerConfigError

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02
LOWEST_PORT, HIGHEST_PORT = 20000, 32000
PORT_ATTEMPTS = 5


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
        if answers():
            raise BrokerConfigError(
                f"another broker answers where {self._name} shall: address already in use; stop it"
                " or choose another port"
            )
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
                        bound_to_parent(self._command),
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


class ChildBroker(ABC):
    """A broker that runs as our child, with all its files in one folder.

    All methods block for at most seconds; call them in a thread from asyncio.

    Args:
        name: for messages to people.
        folder: of this broker alone; holds configuration, store and log.
        log_name: of the log in it.
        port: of MQTT on loopback; 0 picks a free one, which then stays over restarts.
        tls: whether clients need TLS.
    """

    def __init__(
        self, name: str, folder: Path, log_name: str, *, port: int = 0, tls: bool = False
    ) -> None:
        self._name = name
        self._folder = folder
        self._log = folder / log_name
        self._port = port
        self._tls_on = tls
        self._process: BrokerProcess | None = None

    @abstractmethod
    def _prepare(self, port: int) -> list[str]:
        """Write every file that the broker reads and return the command that starts it."""

    @property
    def address(self) -> BrokerAddress:
        """Where clients connect to.

        Raises:
            BrokerConfigError: the broker was never started, so that its port is not known.
        """
        if not self._port:
            raise BrokerConfigError(f"{self._name} has no port before its first start")
        return BrokerAddress(LOOPBACK, self._port, tls=self._tls_on)

    @property
    def log(self) -> Path:
        """The broker's log."""
        return self._log

    @property
    def running(self) -> bool:
        """Whether the broker runs."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """The broker's process id, or None before the first start."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start, or start again on the same store and port; return when MQTT answers.

        Raises:
            BrokerConfigError: the program is missing, or the broker does not start.
        """
        if self.running:
            return
        attempts = 1 if self._port else PORT_ATTEMPTS
        for attempt in range(attempts):
            port = self._port or free_port()
            address = BrokerAddress(LOOPBACK, port, tls=self._tls_on)
            self._process = BrokerProcess(self._name, self._prepare(port), self._log)
            try:
                self._process.start(partial(mqtt_answers, address))
            except BrokerConfigError as error:
                # Somebody may take a free port between our look and the broker's.
                if attempt + 1 < attempts and "address already in use" in str(error).lower():
                    continue
                raise
            self._port = port
            return

    def stop(self) -> None:
        """End the broker in order; its store stays."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """Kill the broker (SIGKILL) as a power failure would; what it had not saved is lost."""
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> Self:
        """Start the broker."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the broker."""
        self.stop()


def bound_to_parent(command: list[str]) -> list[str]:
    """Return the command, killed by the kernel when the thread that starts it ends, where it can.

    Only Linux can; elsewhere the command comes back as it is.
    """
    if sys.platform == "linux" and (setpriv := shutil.which("setpriv")) is not None:
        return [setpriv, "--pdeathsig", "KILL", "--", *command]
    return command


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody uses now.

    It lies below the range that systems hand out to outgoing connections: while a broker is down,
    a client that tries again and again could otherwise be given the broker's own port.

    Raises:
        BrokerConfigError: a hundred ports in a row are taken.
    """
    for _ in range(100):
        port = LOWEST_PORT + secrets.randbelow(HIGHEST_PORT - LOWEST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise BrokerConfigError("no free port on loopback; name one in the broker's configuration")


def mqtt_answers(address: BrokerAddress) -> bool:
    """Return whether something at ``address`` answers a CONNECT, even by refusing it.

    With TLS only the TCP port is tried: the handshake is for those who hold certificates.
    """
    body = b"\x00\x04MQTT\x04\x02\x00\x0a" + b"\x00\x05probe"  # 3.1.1, clean session, keepalive 10
    try:
        with socket.create_connection((address.host, address.port), timeout=0.5) as probe:
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
