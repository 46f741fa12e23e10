"""The monitor process: wires the page to a journal, a broker, the people and a socket."""

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.explanation import UnknownDeviceError, explain
from journal.reader import JournalReader
from monitor.feed import JournalFeed
from monitor.web.app import make_app
from monitor.web.gate import Access as PageAccess
from monitor.web.people import People
from monitor.web.serving import Address, PageServer, open_socket
from monitor.web.sessions import Limits
from monitor.web.watch import FleetWatch, NoDesk
from slimfleet.command_desk import CommandDesk
from slimfleet.commands.explain import explanation_lines
from slimfleet.config import ConfigError
from slimfleet.operator_link import Access
from slimfleet.stopping import stop_on_signal

if TYPE_CHECKING:
    from journal.chain import Head

EXPLANATIONS = 64
"""So many are kept until the journal goes on: each replays all of it."""


@dataclass(frozen=True)
class MonitorPlan:
    """What a monitor serves, and where.

    Attributes:
        journal: folder of the journal.
        address: of the page.
        people: file of users and tokens.
        limits: of sessions.
        access: to the broker; None = the page can only be read.
        answer_s: how long to wait for the server's answer to an action.
    """

    journal: Path
    address: Address
    people: Path
    limits: Limits
    access: Access | None
    answer_s: float


async def run_monitor(plan: MonitorPlan, started: Callable[[str], None] | None = None) -> None:
    """Serve the page until a signal asks to stop.

    Args:
        plan: what and where.
        started: is called with the page's URL once it is served.

    Raises:
        ConfigError: others could reach the page, and nobody could sign in.
        ServingError: the address is taken, or certificate and key cannot be used.
        AccessError: the file of people cannot be used.
    """
    people = People(plan.people)
    _check_door(plan, people)
    with open_socket(plan.address) as listening:
        await _serve(plan, people, listening, started)


async def _serve(
    plan: MonitorPlan,
    people: People,
    listening: socket.socket,
    started: Callable[[str], None] | None,
) -> None:
    port = int(listening.getsockname()[1])
    desk = CommandDesk(plan.access, plan.answer_s) if plan.access else None
    watch = FleetWatch(JournalFeed(plan.journal), desk or NoDesk())
    access = PageAccess(people, plan.address.place(), plan.limits, port=port)
    app = make_app(watch, JournalReader(plan.journal), explainer(plan.journal), access)
    server = PageServer(app, plan.address, listening)
    stopped = asyncio.Event()

    async def stop() -> None:
        watch.end()
        stopped.set()

    working = [asyncio.ensure_future(watch.follow())]
    if desk is not None:
        working.append(asyncio.ensure_future(desk.run()))
    try:
        async with stop_on_signal(stop):
            if started is not None:
                started(plan.address.url(port))
            serving = asyncio.ensure_future(server.serve(stopped))
            await asyncio.wait([serving, *working], return_when=asyncio.FIRST_COMPLETED)
            await stop()
            await serving
            for task in working:
                if task.done():
                    task.result()  # it ends by a failure only
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


def _check_door(plan: MonitorPlan, people: People) -> None:
    place = plan.address.place()
    if place.loopback:
        people.everybody()  # says now what would keep everybody out later
        return
    if not people.everybody():
        raise ConfigError(
            f"{plan.address.host} can be reached by others and nobody could sign in: first run"
            " slimfleet monitor user add NAME, or slimfleet monitor token create --name NAME"
        )
    if not place.tls:
        sys.stderr.write(
            "slimfleet monitor: without TLS passwords and tokens can be read on the way: give"
            " --cert-file and --key-file, or stand behind a proxy and give --public-url https://\n"
        )


def explainer(journal: Path) -> Callable[[str], Mapping[str, Any] | None]:
    """Return a function that explains a device's width as `slimfleet explain` does.

    It may be called from any thread, by one at a time.
    """
    reader = JournalReader(journal)
    known: dict[str, tuple[Head, Mapping[str, Any] | None]] = {}

    def explained(device: str) -> Mapping[str, Any] | None:
        head = reader.head()
        if device not in known or known[device][0] != head:
            while len(known) >= EXPLANATIONS:
                known.pop(next(iter(known)))
            known[device] = head, _explained(reader, device)
        return known[device][1]

    return explained


def _explained(reader: JournalReader, device: str) -> Mapping[str, Any] | None:
    history = ((record.at, record.event) for record in reader.records())
    try:
        found = explain(history, device)
    except UnknownDeviceError:
        return None
    return {**msgspec.to_builtins(found), "text": explanation_lines(found)}
