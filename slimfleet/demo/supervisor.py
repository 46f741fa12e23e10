"""Runs the demonstration: broker, server and agents as processes, followed until they are done."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from broker.address import BrokerAddress
from broker.child import bound_to_parent
from broker.embedded import EmbeddedBroker
from broker.errors import LinkError
from broker.permissions import device_permissions, operator_permissions, server_permissions
from coordinator.fleet import Phase
from journal.disk import make_folder
from monitor.run_report import RunReport
from slimfleet.demo import files, scenario
from slimfleet.demo.crash import CrashTest
from slimfleet.demo.interruption import Interruption
from slimfleet.demo.outcome import run_report
from slimfleet.demo.processes import ProcessGroup
from slimfleet.demo.progress import Progress
from slimfleet.demo.results import collect_results
from slimfleet.demo.watching import CampaignWatcher
from slimfleet.keys import load_identity, public_key

POLL_S = 0.25
CONNECT_S = 5.0
SERVER = "server"
OPERATOR = "operator"


class DemoError(Exception):
    """The demonstration could not run to its end. The message says which process failed."""


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asked for.

    Attributes:
        broker: URL of a running broker, or "" for the embedded one.
        keep: leave the working folders of all processes in the results.
        crash: kill the server in the middle of a round.
        noise: standard deviation that the free-rider adds to its unchanged upload.
        limit_s: give up after this.
    """

    devices: int = 8
    rounds: int = 12
    seed: int = 0
    broker: str = ""
    out: Path = Path("demo-run")
    keep: bool = False
    crash: bool = False
    noise: float = 0.0
    limit_s: float = 600.0


def run_demo(options: DemoOptions) -> tuple[RunReport, Path]:
    """Run the demonstration; returns its report and the folder of its results.

    Raises:
        DemoError: a process ended early, or the time limit passed.
    """
    started = time.monotonic()
    out = _fresh_folder(options.out)
    work = out / "work" if options.keep else Path(tempfile.mkdtemp(prefix="slimfleet-demo-"))
    plan = scenario.make_scenario(
        work, devices=options.devices, rounds=options.rounds, seed=options.seed
    )
    with ExitStack() as stack:
        if not options.keep:
            stack.callback(shutil.rmtree, work, ignore_errors=True)
        interruption = stack.enter_context(Interruption())
        progress = stack.enter_context(Progress(plan, crash=options.crash))
        scenario.write_data(plan)
        with interruption.held():
            alone = stack.enter_context(_Alone(plan))
            url, passwords = _start_broker(stack, plan, options)
        group = stack.enter_context(ProcessGroup(make_folder(out / "logs"), interruption))
        if passwords:
            password_file = files.operator_password(plan, passwords[OPERATOR])
            progress.say(
                f"watch it from another terminal: slimfleet status --broker {url}"
                f" --fleet {plan.fleet} --user {OPERATOR} --password-file {password_file}"
            )
        server_config = files.server_toml(plan, url, passwords.get(SERVER, ""))
        group.start(SERVER, "server", "--config", str(server_config))
        _start_agents(group, plan, url, passwords, options.noise)
        watcher = CampaignWatcher(work / "server" / "data" / "journal")
        crash = CrashTest(
            lambda: group.kill(SERVER),
            lambda: group.start(SERVER, "server", "--config", str(server_config)),
        )
        deadline = started + options.limit_s
        while watcher.state.phase is not Phase.FINISHED:
            time.sleep(POLL_S)
            progress.show(watcher.state, watcher.refresh())
            if options.crash and crash.step(watcher.state, watcher.records):
                progress.say(crash.message)
            _check_alive(group)
            if time.monotonic() > deadline:
                raise DemoError(f"not finished after {options.limit_s:.0f} s; see {out / 'logs'}")
        if options.crash:
            progress.say(crash.verdict(watcher.records))
        report = run_report(
            plan,
            watcher.state,
            watcher.records,
            alone.scores(),
            time.monotonic() - started,
        )
        group.end_all()  # the server's journal is whole once nobody writes it
        collect_results(out, report, watcher, work / "server" / "data")
        return report, out


def _fresh_folder(wanted: Path) -> Path:
    folder, number = wanted.resolve(), 1
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = wanted.resolve().with_name(f"{wanted.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _start_broker(
    stack: ExitStack, plan: scenario.Scenario, options: DemoOptions
) -> tuple[str, Mapping[str, str]]:
    if options.broker:
        _check_reachable(options.broker)
        return options.broker, {}
    members = {m.device: device_permissions(plan.fleet, m.device) for m in plan.devices}
    members[SERVER] = server_permissions(plan.fleet)
    members[OPERATOR] = operator_permissions(plan.fleet, OPERATOR)
    passwords = {name: os.urandom(16).hex() for name in members}
    broker = EmbeddedBroker(
        make_folder(plan.folder / "broker"),
        users={name: (passwords[name], may) for name, may in members.items()},
    )
    stack.enter_context(broker)
    return str(broker.address), passwords


def _check_reachable(url: str) -> None:
    """Refuse a broker that does not answer now: the fleet would retry it for ever.

    Raises:
        LinkError: nothing listens there.
        BrokerConfigError: not a broker's URL.
    """
    address = BrokerAddress.parse(url)
    try:
        socket.create_connection((address.host, address.port), CONNECT_S).close()
    except OSError as error:
        raise LinkError(
            f"no broker answers at {url} ({error}); start it, or leave --broker out"
        ) from (error)


def _start_agents(
    group: ProcessGroup,
    plan: scenario.Scenario,
    url: str,
    passwords: Mapping[str, str],
    noise: float,
) -> None:
    identity = load_identity(plan.folder / "server" / "data", os.urandom)
    trusted = public_key(identity)
    for member in plan.devices:
        config = files.agent_toml(
            plan, member, url, passwords.get(member.device, ""), trusted, noise
        )
        group.start(member.device, "agent", "--config", str(config))


def _check_alive(group: ProcessGroup) -> None:
    for name, status in group.dead().items():
        raise DemoError(f"{name} ended with status {status}: {group.last_log_line(name)}")


class _Alone:
    """Trains the stand-alone models beside the fleet, for comparison only."""

    def __init__(self, plan: scenario.Scenario) -> None:
        self._plan = plan
        self._target = plan.folder / "alone.json"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        training = self._plan.settings.training
        settings = {
            "model": self._plan.settings.model,
            "options": self._plan.settings.options,
            "people": [member.person for member in self._plan.devices],
            "steps": training.steps * self._plan.settings.rounds.budget,
            "batch_size": training.batch_size,
            "learning_rate": training.learning_rate,
            "momentum": training.momentum,
            "weight_decay": training.weight_decay,
            "seed": self._plan.seed,
        }
        path = self._plan.folder / "alone-settings.json"
        path.write_text(json.dumps(settings))
        self._process = subprocess.Popen(
            bound_to_parent(
                [sys.executable, "-m", "slimfleet.demo.alone", str(path), str(self._target)]
            ),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def scores(self) -> dict[str, float]:
        """Return device -> accuracy on the unseen person; waits for what is not done."""
        assert self._process is not None
        if self._process.wait() != 0:
            raise DemoError("training the stand-alone models failed; its output is above")
        found = json.loads(self._target.read_text())
        return {m.device: float(found[str(m.person)]) for m in self._plan.devices}
