"""A small fleet of real processes: broker, server and agents, started as a user starts them.

::

    with RealFleet(tmp_path, [RealDevice("press"), RealDevice("lathe")]) as fleet:
        fleet.start_all()
        fleet.until_finished()

Everything is followed from outside, through the server's journal. Whatever happens, leaving the
block ends every process and fails where one of their children outlived them.
"""

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import psutil
import pytest

from broker.address import BrokerAddress
from broker.codec import decode_on
from broker.embedded import EmbeddedBroker
from broker.errors import BrokerConfigError
from broker.link import Received
from broker.mosquitto import find_program
from broker.mqtt import Credentials, MqttLink
from broker.permissions import device_permissions, operator_permissions, server_permissions
from broker.topics import parse_topic, topic_for
from coordinator.fleet import Campaign, Phase, confirmed
from journal import events as e
from journal.chain import Record, verify
from journal.reader import JournalReader
from slimfleet import watch
from slimfleet.demo.files import _write
from slimfleet.demo.watching import CampaignWatcher
from slimmable.samples import Samples
from tests.fakes.mosquitto_from_files import MosquittoFromFiles

FLEET = "plant"
SERVER = "server"
OPERATOR = "operator"
BROKER = "broker"
POLL_S = 0.02
PATIENCE_S = 120.0
END_S = 15.0
PORTION = 5  # every fifth window of a person: enough to train and measure something
OPTIONS = {
    "sensors": len(watch.SENSORS),
    "length": watch.WINDOW,
    "classes": list(watch.EXERCISES),
    "channels": [8, 16, 16],
    "granules": [1, 2, 2],
}


class Broker(Protocol):
    """What a fleet needs of a broker that runs as our child."""

    @property
    def address(self) -> BrokerAddress: ...

    @property
    def pid(self) -> int | None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class RealDevice:
    """One device.

    Attributes:
        name: its id.
        person: whose recordings it holds.
        trains: whether it has a [train] section.
        emulate: machine that it stands for.
        config: tables that are merged into its ``agent.toml``.
        prelude: Python that is run in the agent's process before the agent.
    """

    name: str
    person: int = 1
    trains: bool = True
    emulate: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    prelude: str = ""


class RealFleet:
    """Broker, server and agents in one folder.

    Args:
        folder: everybody's files go below it.
        devices: the agents.
        campaign: tables that are merged into the campaign's settings.
        broker: "embedded", or "mosquitto", or "mosquitto-tls".
        server: what is merged into ``server.toml`` itself.
        environment: further variables of every process.
        prepare: writes the data of everybody; the watch data where None.
    """

    def __init__(
        self,
        folder: Path,
        devices: Sequence[RealDevice],
        *,
        campaign: Mapping[str, Any] | None = None,
        broker: str = "embedded",
        server: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        prepare: "Callable[[RealFleet], None] | None" = None,
    ) -> None:
        self.folder = folder
        self.devices = {device.name: device for device in devices}
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.data = folder / SERVER / "data"
        self.journal = self.data / "journal"
        self.passwords = {user: secrets.token_hex(12) for user in (*self.devices, SERVER, OPERATOR)}
        self.watcher = CampaignWatcher(self.journal)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.snapshots: list[list[Record]] = []
        self._family: set[psutil.Process] = set()
        self._environment = dict(environment or {})
        self._campaign = merged(small_campaign(len(devices)), campaign or {})
        self._campaign.setdefault("options", OPTIONS if self._campaign["model"] == "cnn1d" else {})
        self._server = dict(server or {})
        self._prepare = prepare or write_watch_data
        self.ca_file = ""
        self.broker = self._make_broker(broker)

    # --- setting up ------------------------------------------------------------------------------

    def _make_broker(self, kind: str) -> Broker:
        folder = self.folder / BROKER
        if kind == "embedded":
            users = {device: device_permissions(FLEET, device) for device in self.devices}
            users[SERVER] = server_permissions(FLEET)
            users[OPERATOR] = operator_permissions(FLEET, OPERATOR)
            folder.mkdir()
            return EmbeddedBroker(
                folder, users={user: (self.passwords[user], may) for user, may in users.items()}
            )
        try:
            find_program("mosquitto")
        except BrokerConfigError as error:
            pytest.skip(f"NOT TESTED on mosquitto: {error}")
        broker = MosquittoFromFiles(
            folder, FLEET, self.passwords, operators=[OPERATOR], tls=kind == "mosquitto-tls"
        )
        self.ca_file = str(broker.ca_file) if broker.ca_file else ""
        return broker

    def __enter__(self) -> Self:
        try:
            self.broker.start()
            self._prepare(self)
            self._write_server()
            key = self.run("server", "--config", str(self.config(SERVER)), "--public-key")
            assert key.returncode == 0, key.stderr
            self.public_key = key.stdout.strip()
            for device in self.devices.values():
                self._write_agent(device)
        except BaseException:
            self.broker.stop()
            raise
        return self

    def config(self, name: str) -> Path:
        """Return the configuration file of the server or of an agent."""
        return self.folder / name / f"{'server' if name == SERVER else 'agent'}.toml"

    def _write_server(self) -> None:
        document = {
            "validation": "validation.npz",
            "folder": "data",
            "broker": self.access(SERVER),
            "campaign": self._campaign,
        }
        write_toml(self.config(SERVER), merged(document, self._server))

    def _write_agent(self, device: RealDevice) -> None:
        document: dict[str, Any] = {
            "device": device.name,
            "fleet": FLEET,
            "folder": "data",
            "trusted_keys": [self.public_key],
            "broker": self.access(device.name),
            "infer": {"telemetry_s": 0.5, "evaluations": {"own": "own.npz"}},
        }
        if device.trains:
            document["train"] = {"data": "own.npz"}
        if device.emulate:
            document["demo"] = {"emulate": device.emulate}
        write_toml(self.config(device.name), merged(document, device.config))

    def access(self, user: str) -> dict[str, str]:
        """Write a user's password and return the [broker] section that names it."""
        path = self.folder / user / "password"
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.passwords[user] + "\n")
        section = {"url": str(self.broker.address), "password_file": path.name}
        return section | ({"ca_file": self.ca_file} if self.ca_file else {})

    # --- processes -------------------------------------------------------------------------------

    def start_all(self) -> None:
        """Start server and agents."""
        for name in (SERVER, *self.devices):
            self.start(name)

    def start(self, name: str, *options: str, prelude: str | None = None) -> None:
        """Start the broker, the server or an agent, as the command line does."""
        if name == BROKER:
            self.broker.start()
            return
        if prelude is None:
            prelude = self.devices[name].prelude if name in self.devices else ""
        program = ["-m", "slimfleet"]
        if prelude:
            program = ["-c", f"{prelude}\nfrom slimfleet.cli import main\nraise SystemExit(main())"]
        command = "server" if name == SERVER else "agent"
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *program, command, "--config", str(self.config(name)), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._env(),
            )

    def run(self, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "slimfleet", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=self._env(),
        )

    def _env(self) -> dict[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self._environment}

    def kill(self, name: str) -> None:
        """End a process as a power failure would, and remember what the journal held."""
        if name == BROKER:
            self.broker.kill()
        else:
            self._note_children(name)
            process = self.running.pop(name)
            process.kill()
            process.wait()
        self.watcher.refresh()
        self.snapshots.append(list(self.watcher.records))

    def terminate(self, *names: str) -> dict[str, int]:
        """Ask processes to end and return their statuses."""
        for name in names:
            self._note_children(name)
            self.running[name].send_signal(signal.SIGTERM)
        statuses = {}
        for name in names:
            try:
                statuses[name] = self.running[name].wait(END_S)
            except subprocess.TimeoutExpired:
                pytest.fail(f"{name} did not end within {END_S:g} s of SIGTERM{self.last_logs()}")
            del self.running[name]
        return statuses

    @contextlib.contextmanager
    def frozen(self, name: str):
        """Stop a process for the time of the block, as if it was suspended."""
        pid = self.broker.pid if name == BROKER else self.running[name].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
                os.kill(pid, signal.SIGCONT)

    def kill_when(self, name: str, moment: Callable[[Campaign], object], what: str) -> None:
        """Kill a process at a moment of the campaign that may be over within milliseconds.

        The process is frozen first, then looked at again: a moment that passed is waited for again.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.until(moment, what, deadline - time.monotonic())
            with self.frozen(name):
                self.watcher.refresh()
                if moment(self.state):
                    self.kill(name)
                    return

    def children(self, name: str) -> list[psutil.Process]:
        """Return the processes that a process started, and theirs."""
        found: list[psutil.Process] = psutil.Process(self.running[name].pid).children(True)
        return found

    def _note_children(self, name: str) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family.update(self.children(name))

    def orphans(self, seconds: float = END_S) -> list[psutil.Process]:
        """Return the children of ended processes that still run after a while."""
        _, alive = psutil.wait_procs(self._family, timeout=seconds)
        return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for name in self.running:
            self._note_children(name)
        for process in self.running.values():
            process.kill()
            process.wait()
        self.running.clear()
        self.broker.stop()
        orphans = self.orphans()
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        assert kind or not orphans, f"outlived their parents: {orphans}"

    # --- watching --------------------------------------------------------------------------------

    @property
    def state(self) -> Campaign:
        """The campaign, as the journal last told it."""
        return self.watcher.state

    def events(self, kind: type[Any]) -> list[Any]:
        """Return every event of a kind."""
        return [r.event for r in self.watcher.records if isinstance(r.event, kind)]

    def until(
        self, condition: Callable[[Campaign], Any], what: str, seconds: float = PATIENCE_S
    ) -> Any:
        """Wait until something is true of the campaign, and return it."""
        return self.wait(lambda: condition(self.state), what, seconds)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
        """Wait until something is true, while every process lives, and return it."""
        deadline = time.monotonic() + seconds
        while True:
            self.watcher.refresh()
            if found := condition():
                return found
            for name, process in self.running.items():
                if process.poll() is not None:
                    pytest.fail(f"{name} ended: {process.returncode}; {what}{self.last_logs()}")
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {seconds:.0f} s{self.last_logs()}")
            time.sleep(POLL_S)

    def until_finished(self, seconds: float = PATIENCE_S) -> None:
        """Wait until the campaign is over."""
        self.until(lambda state: state.phase is Phase.FINISHED, "the campaign's end", seconds)

    def log(self, name: str) -> str:
        """Return everything that a process wrote."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def last_logs(self, lines: int = 12) -> str:
        """Return the last lines of every log."""
        return "".join(
            "\n--- {}\n{}".format(
                path.name, "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            )
            for path in sorted(self.logs.iterdir())
        )

    def retained(self, *topics: Any) -> dict[Any, Any]:
        """Return what an operator is told on topics where something is retained."""
        return asyncio.run(self._listen(topics))

    async def _listen(self, topics: Sequence[Any]) -> dict[Any, Any]:
        ca = Path(self.ca_file) if self.ca_file else None
        link = MqttLink(
            self.broker.address,
            OPERATOR,
            Credentials(OPERATOR, self.passwords[OPERATOR], ca_file=ca),
            None,
            random.Random(1),
        )
        await link.subscribe([topic_for(FLEET, topic) for topic in topics])
        await link.start()
        found: dict[Any, Any] = {}
        try:
            async with asyncio.timeout(20):
                async for event in link.events():
                    if isinstance(event, Received):
                        topic = parse_topic(FLEET, event.topic)
                        found[topic] = decode_on(topic, event.payload)
                    if len(found) == len(topics):
                        break
        finally:
            await link.stop()
        return found


# --- what must hold however a campaign went ------------------------------------------------------


def check_history(fleet: RealFleet) -> list[Record]:
    """Check that nothing was lost or changed by any kill, and return the whole journal."""
    records = list(JournalReader(fleet.journal).records())
    verify(records)
    for before in fleet.snapshots:
        assert records[: len(before)] == before, "the journal changed what it held before a kill"
    events = [record.event for record in records]
    opened = [event.round for event in events if isinstance(event, e.RoundOpened)]
    assert opened == sorted(set(opened)), "a round was opened twice"
    closed = {event.round: event for event in events if isinstance(event, e.RoundClosed)}
    for event in events:
        # Below the quorum nothing is aggregated, and the round's entry says so.
        if isinstance(event, e.UpdateAccepted) and closed[event.round].aggregated:
            assert event.device in closed[event.round].aggregated, f"lost: {event}"
    scored = [event.round for event in events if isinstance(event, e.RoundScored)]
    assert scored == sorted(set(scored)), "a round was scored twice"
    return records


def check_everybody_confirmed(state: Campaign, *names: str) -> None:
    """Check that these devices, and all others that were sent a model, run it."""
    for device in state.devices.values():
        if device.device in names:
            assert device.deployed, f"{device.device} was sent no model"
        if device.deployed and device.deployed.digest:
            assert confirmed(device), f"{device.device}: {device.report}"


# --- pieces --------------------------------------------------------------------------------------


def small_campaign(devices: int) -> dict[str, Any]:
    """Return the settings of a campaign that takes seconds."""
    return {
        "fleet": FLEET,
        "model": "cnn1d",
        "widths": [0.5, 1.0],
        "training": {"steps": 8, "batch_size": 16},
        "rounds": {
            "budget": 2,
            "minimum": 2,
            "deadline_s": 60.0,
            "quorum": 1,
            "min_devices": devices,
            "gather_s": 60.0,
            "retry_s": 0.5,
        },
        # Everybody who helped at all gets something: who earns what is not the question here.
        "rewards": {"ladder": [0.25, 0.5, 1.0], "cutoff": 0.0},
        "presence": {"heartbeat_s": 1.0, "grace_s": 2.0},
        "releases": {"delivery_s": 60.0},
    }


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with the changes made in it, table by table."""
    result = dict(table)
    for key, value in changes.items():
        inner = result.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            result[key] = merged(inner, value)
        else:
            result[key] = value
    return result


def write_watch_data(fleet: RealFleet) -> None:
    """Give the server and each device a part of one person's windows."""
    write_portion(fleet.folder / SERVER / "validation.npz", watch.VALIDATION_PERSON)
    for device in fleet.devices.values():
        write_portion(fleet.folder / device.name / "own.npz", device.person)


def write_portion(path: Path, person: int) -> Samples:
    """Write a part of a person's windows, and return it."""
    whole = watch.person_samples(person)
    part = Samples(whole.x[::PORTION], whole.y[::PORTION], whole.recording[::PORTION])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=part.x, y=part.y, recording=part.recording)
    return part


def write_toml(path: Path, document: Mapping[str, Any]) -> None:
    """Write a configuration file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, dict(document))


def json_of(text: str) -> Any:
    """Return the document that a command printed."""
    return json.loads(text)
