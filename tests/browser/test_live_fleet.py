"""The page beside a real fleet: broker, server, monitor and two agents, each a process."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import expect

from broker.messages import Participation, Standing
from broker.topics import DownTopic, ServerSays
from journal import events as e
from tests.fakes.real_fleet import OPERATOR, SERVER, RealDevice, RealFleet

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(300),
]
expect.set_options(timeout=60_000)
PRESS, LATHE = "press", "lathe"
MONITOR = "monitor"
CAMPAIGN = {
    "rounds": {"budget": 500, "quorum": 1, "minimum": 500, "min_devices": 2, "patience": 500},
    "presence": {"heartbeat_s": 1.0, "grace_s": 2.0, "late_after": 2.0, "offline_after": 4.0},
    "labels": {PRESS: {"site": "north"}, LATHE: {"site": "south"}},
}
LEASE_S = 1.0 * 4.0 + 2.0


class Watched(RealFleet):
    """A fleet with its page, an operator called anna and a viewer called ben."""

    url = ""

    def start_monitor(self):
        self.access(OPERATOR)
        for name, role in (("anna", "operator"), ("ben", "viewer")):
            made = self.run(
                *("monitor", "token", "create", "--config", str(self.config(SERVER))),
                *("--name", name, "--role", role, "--out-file", str(self.folder / name)),
            )
            assert made.returncode == 0, made.stderr
        with (self.logs / "monitor.log").open("ab") as log:
            self.running[MONITOR] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "slimfleet", "monitor"),
                    *("--config", str(self.config(SERVER)), "--port", "0"),
                    *("--operator", OPERATOR),
                    *("--password-file", str(self.folder / OPERATOR / "password")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env(),
            )
        found = self.wait(lambda: re.search(r"http://\S+", self.log(MONITOR)), "the page's address")
        self.url = found.group()

    def told(self, topic):
        """Return what is retained on a topic; the browser's event loop runs in this thread."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self.retained, topic).result()[topic]

    def acts(self):
        """Return how many commands of operators the journal holds by now."""
        self.watcher.refresh()
        return len(self.events(e.OperatorActed))

    def token(self, name):
        return (self.folder / name).read_text().strip()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live") / "fleet"
    with Watched(folder, [RealDevice(PRESS), RealDevice(LATHE, person=2)], campaign=CAMPAIGN) as it:
        it.start(SERVER)
        it.until(lambda state: state.phase, "the campaign's start")
        it.start_monitor()
        yield it


@pytest.fixture
def signed_in(fleet, open_page):
    """Return what opens a page and signs somebody in, as a person does."""

    def come_in(name, view=""):
        open_page.expect("401")  # the page asks who it is, and is told that it must sign in
        page = open_page(f"{fleet.url}{view}")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_label("Password or token").fill(fleet.token(name))
        page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
        expect(page.locator("#who")).to_contain_text(name)
        return page

    yield come_in
    open_page.close()


def row(page, device):
    return page.locator("table.fleet tbody tr").filter(has=page.get_by_role("link", name=device))


def act(page, label, reason):
    page.get_by_role("button", name=label).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Reason").fill(reason)
    dialog.get_by_role("button", name=label).click()
    expect(dialog).to_have_count(0)


def test_the_table_fills_while_a_real_fleet_runs(fleet, signed_in):
    page = signed_in("anna")
    expect(row(page, PRESS)).to_contain_text("never-seen")  # its labels name it
    for name in (PRESS, LATHE):
        fleet.start(name)
    for name, site in ((PRESS, "north"), (LATHE, "south")):
        expect(row(page, name)).to_contain_text("online")
        expect(row(page, name)).to_contain_text("takes part")
        expect(row(page, name)).to_contain_text(site)
        expect(row(page, name)).to_contain_text("update of round")
        expect(row(page, name).locator(".c-participation")).to_contain_text("%")
    expect(page.locator("#now")).to_contain_text("online")
    page.get_by_role("link", name="Rounds", exact=True).click()
    expect(page.locator("main")).to_contain_text("aggregated")
    expect(page.locator("tbody tr.opens").first).to_be_visible()


def test_an_operators_action_reaches_the_device_and_the_audit_log(fleet, signed_in):
    page = signed_in("anna", f"#/device/{PRESS}")
    act(page, "Suspend", "bearing is being changed")
    fleet.until(lambda state: state.devices[PRESS].suspended, "the suspension")
    expect(page.get_by_role("heading", level=1)).to_contain_text("suspended")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    standing = DownTopic(PRESS, ServerSays.STANDING)
    told = fleet.wait(lambda: _suspended(fleet.told(standing)), "what the device is told")
    assert "bearing is being changed" in told.reason
    page.goto(f"{fleet.url}#/audit?kind=operator-acted")
    entry = page.locator(".entries > li").first
    expect(entry).to_contain_text("suspend")
    entry.locator("summary").click()
    expect(entry.locator("pre")).to_contain_text("bearing is being changed")
    page.goto(f"{fleet.url}#/device/{PRESS}")
    act(page, "Resume", "bearing is new")
    fleet.until(lambda state: not state.devices[PRESS].suspended, "the end of the suspension")
    expect(page.get_by_role("heading", level=1)).to_contain_text("online")


def test_a_cap_and_a_note_are_asked_for_on_the_page_and_shown_with_their_author(fleet, signed_in):
    page = signed_in("anna", f"#/device/{PRESS}")
    page.get_by_role("button", name="Cap width").click()
    page.get_by_role("dialog").get_by_label("Widest training width").select_option("0.5")
    page.get_by_role("dialog").get_by_label("Reason").fill("it gets too warm")
    page.get_by_role("dialog").get_by_role("button", name="Cap width").click()
    fleet.until(lambda state: state.devices[PRESS].width == 0.5, "the cap")
    expect(page.locator("main")).to_contain_text("it gets too warm")
    page.get_by_role("button", name="Add a note").click()
    page.get_by_role("dialog").get_by_label("Note").fill("fan ordered")
    page.get_by_role("dialog").get_by_role("button", name="Add a note").click()
    notes = page.locator("section", has=page.get_by_role("heading", name="Notes"))
    expect(notes).to_contain_text("fan ordered")
    expect(notes).to_contain_text("anna")


def test_a_retired_device_is_told_as_such_and_offered_to_come_back(fleet, signed_in):
    page = signed_in("anna", f"#/device/{PRESS}")
    act(page, "Retire", "sold")
    expect(page.get_by_role("heading", level=1)).to_contain_text("retired")
    offered = page.locator("[data-action]")
    expect(offered).to_have_text(["Resume", "Add a note"])
    act(page, "Resume", "bought back")
    expect(page.get_by_role("heading", level=1)).to_contain_text("online")


def test_without_a_reason_nothing_is_done(fleet, signed_in):
    page = signed_in("anna", f"#/device/{PRESS}")
    before = fleet.acts()
    page.get_by_role("button", name="Suspend").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("   ")
    dialog.get_by_role("button", name="Suspend").click()
    expect(dialog.get_by_role("alert")).to_contain_text("say why")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert fleet.acts() == before


def test_rounds_are_paused_and_the_page_says_by_whom(fleet, signed_in):
    page = signed_in("anna", "#/rounds")
    act(page, "Pause rounds", "night shift")
    expect(page.locator("#banners")).to_contain_text("Rounds are paused")
    expect(page.locator("#banners")).to_contain_text("night shift")
    fleet.until(lambda state: state.paused, "the pause")
    expect(page.get_by_role("button", name="Resume rounds")).to_be_visible()


def test_a_viewer_sees_everything_and_cannot_act(fleet, signed_in, open_page):
    page = signed_in("ben", f"#/device/{PRESS}")
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    assert page.locator("[data-action]").count() == 0
    before = fleet.acts()
    open_page.expect("403")  # somebody who writes the request by hand is refused by the server
    status = page.evaluate(FORGED, PRESS)
    assert status == 403
    assert fleet.acts() == before


def test_who_is_no_longer_signed_in_is_asked_again_and_nothing_is_done(fleet, signed_in):
    page = signed_in("anna", f"#/device/{PRESS}")
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    before = fleet.acts()
    page.context.clear_cookies()
    page.get_by_role("button", name="Suspend").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("too late")
    page.get_by_role("dialog").get_by_role("button", name="Suspend").click()
    expect(page.get_by_role("dialog")).to_contain_text("Password or token")
    assert page.locator("[data-action]").count() == 0
    assert fleet.acts() == before


def test_a_wrong_token_is_refused_in_words(fleet, open_page):
    open_page.expect("401")
    page = open_page(fleet.url)
    page.get_by_label("Password or token").fill("nonsense")
    page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("not known")
    assert page.locator("table.fleet").count() == 0


def test_a_killed_agent_turns_offline_with_its_reason_within_the_lease(fleet, signed_in):
    page = signed_in("anna")
    expect(row(page, LATHE)).to_contain_text("online")
    fleet.kill(LATHE)
    gone = fleet.until(lambda _: _gone(fleet), "the end of the lease")
    last_sign = max(at for at, event in _heard(fleet) if at < gone.at)
    expect(row(page, LATHE)).to_contain_text("offline")
    expect(row(page, LATHE)).to_contain_text(gone.event.cause)
    assert gone.event.cause
    # By the server's own clock; a second for the watch that looks at leases.
    assert gone.at - last_sign <= LEASE_S + 1.0
    page.get_by_role("button", name="offline").click()
    expect(page.locator("table.fleet tbody tr")).to_have_count(1)


def test_a_server_that_is_away_is_told_and_nobody_counts_as_there(fleet, signed_in):
    page = signed_in("anna")
    expect(row(page, PRESS)).to_contain_text("online")
    fleet.kill(SERVER)
    expect(page.get_by_role("alert")).to_contain_text("Server OFFLINE")
    expect(row(page, PRESS)).to_contain_text("stale")
    fleet.start(SERVER)
    expect(page.locator("#banners")).not_to_contain_text("OFFLINE")
    expect(row(page, PRESS)).to_contain_text("online")


def _suspended(standing: Standing):
    return standing if standing.participation is Participation.SUSPENDED else None


def _gone(fleet):
    records = [
        record
        for record in fleet.watcher.records
        if isinstance(record.event, e.PresenceChanged) and record.event.device == LATHE
    ]
    return records[-1] if records and records[-1].event.state is e.LinkState.OFFLINE else None


def _heard(fleet):
    """Return signs of life of the lathe that the journal holds, with the server's time."""
    for record in fleet.watcher.records:
        if getattr(record.event, "device", "") == LATHE:
            yield record.at, record.event


FORGED = """
async (device) => {
  const me = await (await fetch("api/me")).json();
  const answer = await fetch("api/actions", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": me.csrf },
    body: JSON.stringify({ action: "suspend", device, reason: "because" }),
  });
  return answer.status;
}
"""
