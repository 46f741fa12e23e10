"""The page's server in this process, asked without a network."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import httpx
from starlette.routing import Route

from broker.messages import Command, CommandResult
from journal.reader import JournalReader
from journal.store import Journal
from monitor.feed import JournalFeed
from monitor.web.app import make_app
from monitor.web.assets import Assets
from monitor.web.gate import Access
from monitor.web.gate_rules import Place
from monitor.web.people import People
from monitor.web.person import Person, Role
from monitor.web.secret_hash import hash_password, hash_token
from monitor.web.watch import FleetWatch
from tests.unit.test_fleet_view import accepted, born, closed, opened

HERE = Place()
EVERYWHERE = Place(frozenset(["fleet.example"]), loopback=False, tls=True)
ANNA_TOKEN, BEN_TOKEN = "slimfleet_of-anna", "slimfleet_of-ben"
PASSWORD = "correct horse battery"
HOSTILE = "<script>alert(1)</script>"
EVENTS = [
    born("a"),
    born("b"),
    born(HOSTILE),
    opened(1, "a", "b"),
    accepted(1, "a"),
    closed(1, "a"),
]


def person(name, role, token=""):
    return Person(name=name, role=role, secret=hash_token(token), made_at=1.0)


@lru_cache
def carl():
    return Person(name="carl", role=Role.VIEWER, secret=hash_password(PASSWORD), made_at=1.0)


def action(kind="suspend", device="a", reason="bearing", **more):
    return {"action": kind, "device": device, "reason": reason, **more}


@dataclass
class FakeDesk:
    """Answers as the server would."""

    server_online: bool | None = True
    obstacle: str = ""
    answer: CommandResult | Exception | None = field(
        default_factory=lambda: CommandResult(command_id="", done=True)
    )
    asked: list[Command] = field(default_factory=list)

    async def ask(self, command):
        self.asked.append(command)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Page:
    """A browser that knows what to show, and the server's parts to look at."""

    def __init__(self, folder, place, *, people, desk, events, explain):
        self.now = 1000.0
        self.desk = desk
        self.place = place
        self.journal = folder / "journal"
        if events is not None:
            with Journal.open(self.journal) as journal:
                for at, event in enumerate(events):
                    journal.append([event], float(at))
        self.people = People(folder / "people.json")
        if people:
            self.people.add(person("anna", Role.OPERATOR, ANNA_TOKEN))
            self.people.add(person("ben", Role.VIEWER, BEN_TOKEN))
            self.people.add(carl())
        assets = folder / "assets"
        assets.mkdir()
        (assets / "index.html").write_text("<!doctype html>")
        (assets / "app.js").write_text("export {};")
        (assets / "secret.key").write_text("none of the page's")
        self.watch = FleetWatch(JournalFeed(self.journal), desk, lambda: self.now)
        self.access = Access(self.people, place, clock=lambda: self.now, port=8480)
        self.app = make_app(
            self.watch,
            JournalReader(self.journal),
            explain,
            self.access,
            Assets(assets),
            [Route("/broken", self._broken)],
        )
        self.csrf = ""
        self.client: httpx.AsyncClient

    async def _broken(self, _request):
        raise RuntimeError("a mistake of ours")

    @property
    def origin(self):
        return "https://fleet.example" if self.place.tls else "http://127.0.0.1:8480"

    async def request(self, method, path, **options):
        shown = {} if method == "GET" else {"Origin": self.origin, "X-CSRF-Token": self.csrf}
        headers = shown | options.pop("headers", {})
        return await self.client.request(method, path, headers=headers, **options)

    async def get(self, path, **options):
        return await self.request("GET", path, **options)

    async def post(self, path, **options):
        return await self.request("POST", path, **options)


@asynccontextmanager
async def serving(
    folder, place=HERE, *, people=True, desk=None, events=EVENTS, explain=lambda name: None
):
    """Serve a small fleet that has played a round."""
    folder.mkdir(exist_ok=True)
    page = Page(
        folder, place, people=people, desk=desk or FakeDesk(), events=events, explain=explain
    )
    await page.watch.refresh()
    transport = httpx.ASGITransport(page.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=page.origin) as client:
        page.client = client
        yield page


async def signed_in(page, **credentials):
    """Sign in, and keep what further requests have to show."""
    answer = await page.post("/login", json=credentials)
    assert answer.status_code == 200, answer.text
    page.csrf = answer.json()["csrf"]
    return answer
