"""What we ship for Prometheus, read by Prometheus itself."""

import re
import subprocess
import urllib.error

import pytest

from broker.messages import Telemetry
from journal import events as e
from journal.store import Journal
from monitor.exposition import exposition
from monitor.grafana_dashboard import dashboard
from tests.fakes.prometheus import ROOT, RULES, get, metrics_of, program, prometheus, until
from tests.unit.test_fleet_text import HOSTILE, reward
from tests.unit.test_fleet_view import accepted, born, closed, opened
from tests.unit.test_metrics import SEEN, fleet, started

pytestmark = [pytest.mark.slow]
CASES = sorted((ROOT / "tests" / "prometheus").glob("*_test.yml"))
EVENTS = [
    started(labels={"a": {"site": HOSTILE}}),
    born("a"),
    born("b"),
    e.PresenceChanged(device="a", state=e.LinkState.ONLINE, cause="heard"),
    e.PresenceChanged(device="b", state=e.LinkState.OFFLINE, cause='last "will" \\'),
    opened(1, "a", "b"),
    accepted(1, "a"),
    closed(1, "a"),
    e.EntitlementsRevised(round=1, rule="", note="", rewards=(reward("a"),), widths={}),
]


def promtool(*arguments, text=None):
    done = subprocess.run(
        [program("promtool"), *arguments], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return (done.stdout + done.stderr).decode()


def test_a_real_exposition_follows_the_conventions():
    view = fleet()
    view.hear("a", 21.0, Telemetry(inferences=7, memory_bytes=1, running="x"))
    assert promtool("check", "metrics", text=exposition(view, SEEN, version="1")) == ""


def test_the_rules_are_sound():
    assert re.search(r"SUCCESS: (\d+) rules found", promtool("check", "rules", str(RULES)))


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_every_rule_fires_when_it_should_and_is_silent_when_it_should_be(cases):
    promtool("test", "rules", str(cases))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("prometheus")
    with Journal.open(found / "data" / "journal") as journal:
        for at, event in enumerate(EVENTS):
            journal.append([event], float(at))
        journal.add_telemetry("a", 3.0, Telemetry(inferences=5))
    return found


@pytest.fixture(scope="module")
def page(folder):
    program("prometheus")
    with metrics_of(["--journal", str(folder / "data")], folder) as url:
        yield url


@pytest.fixture(scope="module")
def server(page, folder):
    with prometheus(page, folder) as found:
        yield found


def test_prometheus_reads_what_we_serve_hostile_text_and_all(server):
    assert server.value("sum(slimfleet_devices)") == 2
    assert server.value('sum(slimfleet_devices{link="offline"})') == 1
    assert server.value('slimfleet_participation_ratio{device="a"}') == 1
    assert server.value('slimfleet_presence_transitions_total{cause=~".*will.*"}') == 1
    labels = server.ask("label/site/values")
    assert any("evil<script>" in label for label in labels)
    assert all(label.isprintable() for label in labels)


def test_every_query_of_the_dashboard_is_answered(server):
    found = 0
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$__rate_interval", "1m").replace("$site", ".*")
            instance = server.ask("label/instance/values")[0]
            server.ask("query", query=query.replace("$instance", instance))
            found += 1
    assert found > 20


def test_every_rule_is_evaluated_without_an_error(server, folder):
    def rules():
        (group,) = server.ask("rules")["groups"]
        return group["rules"]

    until(
        lambda: all(rule["health"] != "unknown" for rule in rules()),
        "every rule was evaluated",
        folder / "prometheus.log",
    )
    assert len(rules()) == RULES.read_text().count("- alert:")
    assert [(rule["name"], rule["lastError"]) for rule in rules() if rule["health"] != "ok"] == []


def test_what_is_new_in_the_journal_shows_with_the_next_scrape(server, folder):
    with Journal.open(folder / "data" / "journal") as journal:
        journal.append([born("c")], 60.0)
    server.until("sum(slimfleet_devices)", 3)


def test_there_is_nothing_but_the_page_of_metrics(page):
    for other in ("/", "/metrics/../../etc/passwd", "/api"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(page.removesuffix("/metrics") + other)
