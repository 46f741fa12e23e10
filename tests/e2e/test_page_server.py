"""The page of a real fleet, over HTTP: what it shows happens, and what is asked of it is done."""

import json
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psutil
import pytest

from broker.child import free_port
from broker.messages import Participation
from broker.topics import DownTopic, ServerSays
from journal import events as e
from tests.fakes.real_fleet import OPERATOR, SERVER, RealDevice, RealFleet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(240),
]
PRESS, LATHE = "press", "lathe"
# Two rounds and then a pause of an operator would end the story too early.
CAMPAIGN = {"rounds": {"budget": 500, "retry_s": 1.0}, "training": {"steps": 4}}


@dataclass
class Browser:
    """Somebody who uses the page."""

    client: httpx.Client
    csrf: str = ""

    def get(self, path):
        return self.client.get(path)

    def act(self, action, device="", reason="the bearing is being changed", **more):
        return self.client.post(
            "/api/actions",
            json={"action": action, "device": device, "reason": reason, **more},
            headers={"X-CSRF-Token": self.csrf, "Origin": str(self.client.base_url).rstrip("/")},
        )


class Story:
    """A fleet whose server serves the page too."""

    def __init__(self, fleet, port):
        self.fleet = fleet
        self.url = f"http://127.0.0.1:{port}"
        self.tokens = {}

    def make_token(self, name, role):
        made = self.fleet.run(
            *("monitor", "token", "create", "--name", name, "--role", role),
            *("--config", str(self.fleet.config(SERVER))),
        )
        assert made.returncode == 0, made.stderr
        self.tokens[name] = made.stdout.strip()

    @contextmanager
    def browser(self, name=""):
        with httpx.Client(base_url=self.url, timeout=30) as client:
            found = Browser(client)
            if name:
                answer = client.post("/login", json={"token": self.tokens[name]})
                assert answer.status_code == 200, answer.text
                found.csrf = answer.json()["csrf"]
            yield found

    def served(self):
        """Return whether the page is served and has read the journal."""
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).json() == {"ok": True}
        except httpx.TransportError:
            return False

    def page_process(self):
        """Return the page's process."""
        for process in self.fleet.children(SERVER):
            if "monitor" in process.cmdline()[2:5]:
                return process
        return None

    def until_row(self, browser, device, **wanted):
        """Wait until the page says so of a device."""

        def found():
            row = browser.get(f"/api/devices/{device}").json()
            return all(row.get(key) == value for key, value in wanted.items()) and row

        return self.fleet.wait(found, f"{device} is {wanted} on the page")


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    port = free_port()
    section = {"port": port, "operator": OPERATOR, "password_file": f"../{OPERATOR}/password"}
    with RealFleet(
        tmp_path_factory.mktemp("page"),
        [RealDevice(PRESS), RealDevice(LATHE, person=2)],
        campaign=CAMPAIGN,
        server={"monitor": section},
    ) as fleet:
        fleet.access(OPERATOR)
        found = Story(fleet, port)
        found.make_token("anna", "operator")
        found.make_token("ben", "viewer")
        fleet.start(SERVER, "--monitor")
        fleet.wait(found.served, "the page")
        for device in (PRESS, LATHE):
            fleet.start(device)
        yield found
        fleet.terminate(SERVER)
        assert not found.served()


def test_a_real_fleet_fills_the_table_and_trains(story):
    with story.browser("ben") as ben:
        for device in (PRESS, LATHE):
            row = story.until_row(ben, device, link="online", takes_part="takes-part")
            assert row["training_width"] > 0
        overview = story.fleet.wait(
            lambda: (found := ben.get("/api/overview").json())["rounds_counted"] and found,
            "a round on the page",
        )
        assert (overview["devices"], overview["server_online"]) == (2, True)


def test_nobody_looks_or_acts_without_signing_in_and_a_viewer_does_not_act(story):
    with story.browser() as stranger, story.browser("ben") as ben:
        assert stranger.get("/api/overview").status_code == 401
        assert stranger.act("suspend", PRESS).status_code == 401
        assert ben.act("suspend", PRESS).status_code == 403
    assert not story.fleet.events(e.OperatorActed)


def test_what_an_operator_asks_for_reaches_the_device_and_the_journal_says_who(story):
    with story.browser("anna") as anna:
        answer = anna.act("suspend", PRESS)
        assert (answer.status_code, answer.json()) == (200, {"done": True, "detail": ""})
        story.until_row(anna, PRESS, link="suspended")
        topic = DownTopic(PRESS, ServerSays.STANDING)
        said = story.fleet.retained(topic)[topic]
        assert said.participation is Participation.SUSPENDED
        story.fleet.watcher.refresh()
        [acted] = story.fleet.events(e.OperatorActed)
        assert (acted.action, acted.device, acted.operator) == ("suspend", PRESS, OPERATOR)
        assert (acted.on_behalf_of, acted.reason) == ("anna", "the bearing is being changed")
        entries = anna.get("/api/audit?kind=operator-acted").json()["entries"]
        assert entries[0]["event"]["on_behalf_of"] == "anna"
        assert anna.act("resume", PRESS).status_code == 200
        story.until_row(anna, PRESS, link="online")


def test_a_cap_and_a_note_are_seen_on_the_page(story):
    with story.browser("anna") as anna:
        widths = anna.get("/api/actions").json()["widths"]
        assert widths == [0.5, 1.0]
        assert anna.act("cap-width", PRESS, width=widths[0]).status_code == 200
        row = story.until_row(anna, PRESS, training_width=0.5)
        assert "held at 0.5 at most by anna via operator" in row["cap"]
        assert anna.act("note", PRESS, reason="new sensor").status_code == 200
        story.until_row(anna, PRESS, link="online")
        notes = story.fleet.wait(
            lambda: anna.get(f"/api/devices/{PRESS}").json()["notes"], "the note"
        )
        assert notes[0]["text"] == "anna via operator: new sensor"


def test_what_the_server_refuses_is_passed_on(story):
    with story.browser("anna") as anna:
        answer = anna.act("suspend", "nobody")
        assert answer.status_code == 409
        assert "no device 'nobody'" in answer.json()["detail"]


def test_a_page_that_is_open_is_told_that_a_device_was_killed_and_why_it_counts_as_gone(story):
    with story.browser("ben") as ben, ben.client.stream("GET", "/events") as stream:
        lines = stream.iter_lines()
        snapshot = next(line for line in lines if line.startswith("data: "))
        rows = {row["device"]: row for row in json.loads(snapshot[6:])["devices"]}
        assert rows[LATHE]["link"] in ("online", "late")
        story.fleet.kill(LATHE)
        for line in lines:  # heart beats never end it: the test's time does
            if line.startswith("data: ["):
                for row in json.loads(line[6:]):
                    rows[row["device"]] |= row
            if rows[LATHE]["link"] == "offline":
                break
        assert rows[LATHE]["link_cause"]
        assert "offline" in rows[LATHE]["alarms"]


def test_a_page_that_is_killed_leaves_the_fleet_alone_and_comes_back(story):
    page = story.page_process()
    page.kill()
    psutil.wait_procs([page], timeout=10)
    story.fleet.wait(story.served, "the page again")
    assert story.page_process().pid != page.pid
    with story.browser("ben") as ben:
        assert ben.get("/api/overview").json()["devices"] == 2
