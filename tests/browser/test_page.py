"""The page over a written journal: every view, keyboard, phone, hostile names, broken links."""

import contextlib
import re
import subprocess
import sys
import time

import pytest
from playwright.sync_api import expect

from benchmarks.written_journal import names, write_journal
from broker.messages import ContradictionKind
from journal import events as e
from journal.store import Journal
from tests.unit.test_journal_feed import change

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]
expect.set_options(timeout=45_000)
# A name stands in topics, so that it holds no slash; words of devices may hold anything.
HOSTILE_NAME = '<img src=x onerror="alert(1)">\u202eevil\u0007'
HOSTILE = '<img src=x onerror="alert(1)">\u202eevil\u0007<script>alert(2)</script>'
VIEWS = ("fleet", "rounds", "rewards", "versions", "audit", "rounds/3", "device/machine-0003")
# What a person would read out of each control; a browser's own computation of names is not asked.
NAMELESS = """
() => [...document.querySelectorAll("a, button, input, select, textarea, summary, [tabindex='0']")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length
    || one.title || one.getAttribute("aria-labelledby")))
  .map((one) => one.outerHTML.slice(0, 200))
"""


class Served:
    """`slimfleet monitor` as a process over a journal."""

    def __init__(self, journal, port=0):
        self.journal = journal
        self.port = port

    def start(self):
        command = [sys.executable, "-m", "slimfleet", "monitor", "--journal", str(self.journal)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdout=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().split()[-1]
        self.port = int(self.url.rstrip("/").rsplit(":", 1)[1])

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()


@contextlib.contextmanager
def serving(journal):
    served = Served(journal)
    served.start()
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    journal = tmp_path_factory.mktemp("written") / "journal"
    write_journal(journal, names(40), rounds=6, began=time.time() - 3600)
    with serving(journal) as found:
        yield found


def rows(page):
    return page.locator("table.fleet tbody tr:not(.section)")


@pytest.mark.parametrize("view", VIEWS)
def test_views_fit_every_screen_and_all_that_they_hold_has_a_name(served, open_page, view):
    page = open_page(f"{served.url}#/{view}")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        expect(page.locator("#connection")).to_contain_text("live")
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        expect(page.get_by_text("Asking")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(NAMELESS) == []
    for landmark in ("banner", "navigation", "main"):
        assert page.get_by_role(landmark).count() == 1
    assert page.locator("[id]").evaluate_all(
        "all => all.length === new Set(all.map(x => x.id)).size"
    )
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_screen_reader_finds_rows_columns_and_their_order(served, open_page):
    page = open_page(served.url)
    expect(rows(page)).to_have_count(40)
    table = page.get_by_role("table", name="Devices of the fleet")
    assert table.get_by_role("row").count() == 42  # two of the head
    assert table.get_by_role("rowheader").count() == 40
    head = table.get_by_role("columnheader", name="Device")
    expect(head).to_have_attribute("aria-sort", "ascending")
    first = table.get_by_role("row").nth(2)
    assert first.get_by_role("cell").count() == 18
    assert table.get_by_role("columnheader").count() == 19 + 4  # four heads stand above others


@pytest.mark.parametrize("width", [360, 1280])
def test_names_stay_in_sight_while_the_table_scrolls_sideways(served, open_page, width):
    page = open_page(served.url, width=width)
    expect(rows(page)).to_have_count(40)
    name = rows(page).first.locator("th")
    before = name.bounding_box()
    page.locator(".wide").evaluate("box => { box.scrollLeft = 600; }")
    assert name.bounding_box() == before
    assert rows(page).first.locator("td").first.bounding_box()["x"] < 0


def test_chips_filter_the_fleet_by_state_and_show_counts(served, open_page):
    page = open_page(served.url)
    expect(rows(page)).to_have_count(40)
    gone = page.get_by_role("button", name="offline")
    expect(gone).to_contain_text("2")
    gone.click()
    expect(rows(page)).to_have_count(2)
    expect(gone).to_have_attribute("aria-pressed", "true")
    expect(rows(page).first).to_contain_text("no sign of life for 90 s")


def test_what_was_filtered_sorted_and_grouped_is_there_after_a_reload(served, open_page):
    page = open_page(served.url)
    page.get_by_label("Filter").fill("machine-001")
    page.get_by_label("Group by site").check()
    page.get_by_role("button", name="Straggler").click()
    expect(rows(page)).to_have_count(10)
    before = rows(page).locator("th").all_text_contents()
    page.reload()
    expect(rows(page)).to_have_count(10)
    assert rows(page).locator("th").all_text_contents() == before
    expect(page.locator("tr.section")).to_have_count(4)
    expect(page.locator("th.c-straggler[scope=col]")).to_have_attribute("aria-sort", "descending")
    expect(page.get_by_label("Filter")).to_have_value("machine-001")


def test_sorting_puts_missing_values_last_either_way(served, open_page):
    page = open_page(served.url)
    expect(rows(page)).to_have_count(40)
    button = page.get_by_role("button", name="Straggler")
    orders = []
    for _ in range(2):
        button.click()
        shown = rows(page).locator(".c-straggler").all_text_contents()
        assert shown[-4:] == ["\N{EN DASH}"] * 4  # every tenth never finished a round
        orders.append([float(one) for one in shown[:-4]])
    assert orders[0] == sorted(orders[0], reverse=True)
    assert orders[1] == sorted(orders[1])


def test_the_keyboard_opens_a_device_and_back_comes_back(served, open_page):
    page = open_page(served.url)
    expect(rows(page)).to_have_count(40)
    rows(page).first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("machine-0001")
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    page.go_back()
    expect(rows(page)).to_have_count(40)


def test_escape_closes_a_dialog_and_gives_the_focus_back(served, open_page):
    page = open_page(served.url)
    button = page.get_by_role("button", name="Sign in")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button).to_be_focused()


def test_the_first_tab_skips_to_the_content(served, open_page):
    page = open_page(served.url)
    expect(rows(page)).to_have_count(40)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.url.endswith("#/fleet") or "#" not in page.url


def test_nobody_who_is_not_signed_in_sees_a_button_that_acts(served, open_page):
    page = open_page(f"{served.url}#/device/machine-0001")
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    assert page.locator("[data-action]").count() == 0


def test_a_device_page_tells_facts_profile_rewards_and_why(served, open_page):
    page = open_page(f"{served.url}#/device/machine-0009")
    for heading in (
        "Now",
        "Why this width",
        "Releases and slots",
        "Rounds",
        "Profile",
        "Contribution and reward",
        "Last errors",
        "Timeline",
    ):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    expect(page.locator(".explanation")).to_contain_text("Its rounds")
    expect(page.locator("main")).to_contain_text("not confirmed")
    expect(page.locator("main")).to_contain_text("0 of 6 eligible rounds")


def test_a_round_opens_to_its_tasks(served, open_page):
    page = open_page(f"{served.url}#/rounds")
    page.get_by_role("link", name="4", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Round 4")
    expect(page.locator("tbody tr.opens")).to_have_count(40)
    funnel = page.locator(".halves .bars").first.locator(".bar-value").all_inner_texts()
    assert [int(one) for one in funnel] == [40, 40, 36, 36, 36, 36]
    expect(page.locator("canvas")).to_have_count(1)


def test_the_numbers_of_a_chart_can_be_read(served, open_page):
    page = open_page(f"{served.url}#/rounds")
    figure = page.locator("figure", has_text="Score of the widest width")
    figure.get_by_text("Numbers").click()
    expect(figure.locator("tbody tr")).to_have_count(6)
    expect(figure.locator("tbody tr").first).to_contain_text("0.82")


def test_the_audit_is_filtered_and_goes_on_to_older_entries(served, open_page):
    page = open_page(f"{served.url}#/audit")
    expect(page.locator(".entries > li")).to_have_count(50)
    page.get_by_role("button", name="Older entries").click()
    expect(page.locator(".entries > li")).to_have_count(100)
    page.get_by_label("Kind").fill("round-closed")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".entries > li")).to_have_count(6)
    page.reload()
    expect(page.locator(".entries > li")).to_have_count(6)
    page.locator(".entries summary").first.click()
    expect(page.locator(".entries pre").first).to_contain_text("all have answered")
    expect(page.locator(".entries .hash").first).to_contain_text(re.compile(r"hash [0-9a-f]{64}"))


def test_versions_show_who_runs_what_and_what_nobody_confirmed(served, open_page):
    page = open_page(f"{served.url}#/versions")
    expect(page.locator("main")).to_contain_text("Now: 40 devices")
    expect(page.locator(".bars")).to_contain_text("unknown 5c5c5c5c5c5c")
    expect(page.locator(".bars")).to_contain_text("unconfirmed")
    expect(page.locator("canvas")).to_have_count(1)


def test_the_table_is_exported_for_a_spreadsheet(served, open_page):
    page = open_page(served.url)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    text = download.value.path().read_text(encoding="utf-8")
    assert text.startswith("device,site,link")
    assert len(text.splitlines()) == 41


def test_a_device_that_nobody_knows_is_said(served, open_page):
    open_page.expect("404")
    page = open_page(f"{served.url}#/device/nobody")
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("there is no device")


def test_words_from_devices_are_shown_and_never_obeyed(tmp_path, open_page):
    write_journal(tmp_path / "journal", names(19), rounds=3, text=HOSTILE)
    with Journal.open(tmp_path / "journal") as journal:
        journal.append(
            [
                e.DeviceBorn(device=HOSTILE_NAME, session=1, agent="", can_train=True, running=""),
                e.PresenceChanged(device=HOSTILE_NAME, state=e.LinkState.ONLINE, cause=HOSTILE),
                e.MessageRefused(sender=HOSTILE_NAME, channel=HOSTILE, reason=HOSTILE),
                e.WorkFailed(job=HOSTILE, detail=HOSTILE),
                e.RoundsHeld(reason=HOSTILE, resting={}),
            ],
            2e9,
        )
    with serving(tmp_path / "journal") as served:
        page = open_page(f"{served.url}#/fleet?group=site")
        expect(rows(page)).to_have_count(20)
        shown = page.locator("table.fleet").inner_text()
        assert "<img src=x onerror=" in shown
        assert "\\u202eevil\\u0007" in shown
        assert not re.search("[\u202e\u0007]", page.content())
        rows(page).filter(has=page.locator("th a", has_text="evil")).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("\\u202eevil")
        expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
        for view in VIEWS:
            page.goto(f"{served.url}#/{view}")
            expect(page.locator("#connection")).to_contain_text("live")
            expect(page.get_by_text("Asking")).to_have_count(0)
            assert page.locator("main img, main script, main style").count() == 0
            assert not re.search("[\u202e\u0007]", page.content())
            assert page.evaluate("document.documentElement.scrollWidth") == 1280
        open_page.close()


def test_a_monitor_that_comes_back_is_noticed_and_nothing_is_missed(tmp_path, open_page):
    write_journal(tmp_path / "journal", names(3), rounds=1)
    open_page.expect("ERR_CONNECTION_REFUSED")
    open_page.expect("ERR_INCOMPLETE_CHUNKED_ENCODING")
    with serving(tmp_path / "journal") as served:
        page = open_page(served.url)
        expect(rows(page)).to_have_count(3)
        served.stop()
        expect(page.locator("#connection")).to_contain_text("connection lost")
        with Journal.open(tmp_path / "journal") as journal:
            gone = e.PresenceChanged(device="machine-0001", state=e.LinkState.OFFLINE, cause="cut")
            born = e.DeviceBorn(device="newcomer", session=1, agent="", can_train=True, running="")
            journal.append([gone, born], time.time())
        served.start()
        expect(page.locator("#connection")).to_contain_text("live")
        expect(rows(page)).to_have_count(4)
        expect(rows(page).filter(has_text="machine-0001")).to_contain_text("offline")
        open_page.close()


# Nothing that the first connection says gets through once it is dead, and nobody is told.
DEAF = """
const listen = EventSource.prototype.addEventListener;
EventSource.prototype.addEventListener = function (kind, listener) {
  window.first ??= this;
  listen.call(this, kind, (event) => {
    if (!(window.dead && this === window.first)) listener(event);
  });
};
"""


def test_a_connection_that_died_without_a_sign_is_replaced(tmp_path, open_page):
    write_journal(tmp_path / "journal", names(3), rounds=1)
    with serving(tmp_path / "journal") as served:
        page = open_page(served.url)
        page.clock.install()
        page.add_init_script(DEAF)
        page.reload()
        expect(rows(page)).to_have_count(3)
        page.evaluate("window.dead = true")
        with Journal.open(tmp_path / "journal") as journal:
            born = e.DeviceBorn(device="newcomer", session=1, agent="", can_train=True, running="")
            journal.append([born], time.time())
        for _ in range(3):
            page.clock.run_for(35_000)
        expect(rows(page)).to_have_count(4)
        open_page.close()


def test_an_address_that_names_no_view_shows_the_fleet(served, open_page):
    page = open_page(f"{served.url}#/constructor/%")
    expect(rows(page)).to_have_count(40)


def test_what_happens_is_shown_without_a_reload(tmp_path, open_page):
    write_journal(tmp_path / "journal", names(3), rounds=1)
    with serving(tmp_path / "journal") as served:
        page = open_page(served.url)
        expect(rows(page)).to_have_count(3)
        with Journal.open(tmp_path / "journal") as journal:
            gone = e.PresenceChanged(device="machine-0002", state=e.LinkState.OFFLINE, cause="cut")
            journal.append([gone, e.RoundsHeld(reason="too few", resting={})], time.time())
        expect(rows(page).filter(has_text="machine-0002")).to_contain_text("cut")
        expect(page.get_by_role("button", name="offline")).to_contain_text("1")
        expect(page.locator("#banners")).to_contain_text("No round opens for the moment. too few")
        open_page.close()


def test_a_damaged_journal_is_said_on_every_view(tmp_path, open_page):
    write_journal(tmp_path / "journal", names(3), rounds=1)
    change(tmp_path / "journal", "DELETE FROM events WHERE idx >= 20")
    with serving(tmp_path / "journal") as served:
        page = open_page(f"{served.url}#/audit")
        expect(page.locator("#banners")).to_contain_text("The journal is damaged")
        expect(page.locator("main")).to_contain_text("The chain is broken")
        open_page.close()


def test_a_device_that_denies_the_journal_is_told_until_it_is_settled(tmp_path, open_page):
    write_journal(tmp_path / "journal", names(3), rounds=1)
    denies = e.ContradictionReported(
        device="machine-0001",
        kind=ContradictionKind.SMALLER_TREE,
        kept_size=90,
        kept_root="ab" * 32,
        seen_size=20,
        seen_root="cd" * 32,
        proven=True,
    )
    with serving(tmp_path / "journal") as served:
        page = open_page(f"{served.url}#/audit")
        expect(page.locator("main")).to_contain_text("The chain holds")
        with Journal.open(tmp_path / "journal") as journal:
            journal.append([denies], time.time())
            expect(page.locator("#banners")).to_contain_text("1 device kept a checkpoint")
            expect(page.locator("main")).to_contain_text("machine-0001 denies this journal")
            expect(page.locator("main")).to_contain_text("kept a checkpoint of 90 records")
            settled = e.ContradictionSettled(device="machine-0001", reason="restored from a copy")
            journal.append([settled], time.time())
            expect(page.locator("#banners")).not_to_contain_text("checkpoint")
            expect(page.locator("main")).not_to_contain_text("denies this journal")
        open_page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(served, open_page, scheme):
    page = open_page(served.url, color_scheme=scheme)
    expect(rows(page)).to_have_count(40)
    assert page.evaluate(CONTRASTS) == []


# WCAG 2.2, success criterion 1.4.3: 4.5 : 1 for ordinary text.
CONTRASTS = """
() => {
  const numbers = (text) => text.match(/[0-9.]+/g).map(Number);
  const part = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const poor = new Set();
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.closest(".unseen, .skip, svg")) continue;
    const [a, b] = [light(numbers(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.add(`${one.className || one.tagName}: ${ratio.toFixed(2)}`);
  }
  return [...poor];
}
"""
