"""A small fleet of real devices, nothing emulated, on a machine that does other work too.

The demo's server, agents, people and network, but each agent is the machine itself: its rounds take
wall time. The other work is processes that never wait, from before the first profile to the end.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from benchmarks.demo_run import records_of
from benchmarks.errors import BenchmarkError
from broker.child import bound_to_parent
from broker.embedded import EmbeddedBroker
from broker.permissions import device_permissions, server_permissions
from coordinator.fleet import Phase
from journal.chain import Record
from journal.disk import make_folder
from slimfleet.demo import files
from slimfleet.demo.interruption import Interruption
from slimfleet.demo.processes import ProcessGroup
from slimfleet.demo.scenario import Scenario, make_scenario, write_data
from slimfleet.demo.watching import CampaignWatcher
from slimfleet.keys import load_identity, public_key

SERVER = "server"
POLL_S = 0.25
LIMIT_S = 900.0
HOG = "x = 1.0\nwhile True:\n    x = x * 1.0000001 % 7.0"


@dataclass(frozen=True)
class LoadedFleet:
    """What to run.

    Attributes:
        devices: agents; they share the machine with each other too.
        rounds: of the campaign.
        steps: gradient steps of a round.
        hogs: processes that keep a core busy.
        late: whether they start only when half of the rounds are over.
        seed: of the campaign.
    """

    devices: int
    rounds: int
    steps: int
    hogs: int
    late: bool = False
    seed: int = 0


def run_fleet(wanted: LoadedFleet) -> Sequence[Record]:
    """Run the campaign and return its journal.

    Raises:
        BenchmarkError: a process ended early, or it took longer than a quarter of an hour.
    """
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slimfleet-loaded-")))
        plan = _scenario(work, wanted)
        write_data(plan)
        interruption = stack.enter_context(Interruption())
        if not wanted.late:
            stack.enter_context(hogs(wanted.hogs))
        url, passwords = _broker(stack, plan)
        group = stack.enter_context(ProcessGroup(make_folder(work / "logs"), interruption))
        _start(group, plan, url, passwords)
        watcher = CampaignWatcher(work / SERVER / "data" / "journal")
        deadline = time.monotonic() + LIMIT_S
        begun = not wanted.late
        while watcher.state.phase is not Phase.FINISHED:
            time.sleep(POLL_S)
            watcher.refresh()
            current = watcher.state.round
            if not begun and current and current.number > wanted.rounds // 2:
                stack.enter_context(hogs(wanted.hogs))
                begun = True
            for name, status in group.dead().items():
                raise BenchmarkError(f"{name} ended with {status}: {group.last_log_line(name)}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"the fleet was not done after {LIMIT_S:.0f} s")
        group.end_all()
        return list(records_of(work / SERVER / "data"))


@contextmanager
def hogs(number: int) -> Iterator[None]:
    """Keep so many cores busy inside the block."""
    children = [
        subprocess.Popen(
            bound_to_parent([sys.executable, "-c", HOG]),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(number)
    ]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def _scenario(work: Path, wanted: LoadedFleet) -> Scenario:
    plan = make_scenario(work, devices=wanted.devices, rounds=wanted.rounds, seed=wanted.seed)
    members = tuple(
        replace(one, device=f"{number}-real", machine="none", free_rider=False)
        for number, one in enumerate(plan.devices, 1)
    )
    settings = msgspec.structs.replace(
        plan.settings,
        training=msgspec.structs.replace(plan.settings.training, steps=wanted.steps),
        rounds=msgspec.structs.replace(
            plan.settings.rounds, minimum=wanted.rounds, deadline_s=120.0
        ),
    )
    return replace(plan, devices=members, settings=settings.check())


def _broker(stack: ExitStack, plan: Scenario) -> tuple[str, dict[str, str]]:
    may = {one.device: device_permissions(plan.fleet, one.device) for one in plan.devices}
    may[SERVER] = server_permissions(plan.fleet)
    passwords = {name: os.urandom(16).hex() for name in may}
    broker = EmbeddedBroker(
        make_folder(plan.folder / "broker"),
        users={name: (passwords[name], allowed) for name, allowed in may.items()},
    )
    stack.enter_context(broker)
    return str(broker.address), passwords


def _start(group: ProcessGroup, plan: Scenario, url: str, passwords: dict[str, str]) -> None:
    config = files.server_toml(plan, url, passwords[SERVER])
    group.start(SERVER, "server", "--config", str(config))
    identity = load_identity(plan.folder / SERVER / "data", os.urandom)
    for one in plan.devices:
        path = files.agent_toml(
            plan, one, url, passwords[one.device], public_key(identity), noise=0.0
        )
        group.start(one.device, "agent", "--config", str(path))
