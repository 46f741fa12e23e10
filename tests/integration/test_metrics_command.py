"""`slimfleet metrics` as a process: served, sent, and told when something is wrong."""

import shutil
import sys
import urllib.error

import pytest

from journal.store import Journal
from tests.fakes.prometheus import get, metrics_of, running, until
from tests.unit.test_fleet_view import born
from tests.unit.test_metrics import started
from tests.unit.test_otlp import collector

pytestmark = [pytest.mark.slow]


@pytest.fixture
def folder(tmp_path):
    with Journal.open(tmp_path / "data" / "journal") as journal:
        journal.append([started(), born("a")], 1.0)
    return tmp_path


def test_a_journal_that_cannot_be_read_for_now_is_no_page_and_then_one_again(folder):
    data = folder / "data"
    with metrics_of(["--journal", str(data)], folder) as url:
        assert b"slimfleet_journal_intact 1.0" in get(url)
        shutil.move(data, folder / "away")
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            get(url)
        assert b"no journal in" in refused.value.read()
        shutil.move(folder / "away", data)
        assert b"slimfleet_journal_intact 1.0" in get(url)


def test_an_address_that_is_taken_is_said_in_one_line(folder):
    place = ["--journal", str(folder / "data")]
    with metrics_of(place, folder) as url:
        address = url.removeprefix("http://").removesuffix("/metrics")
        log = folder / "second.log"
        command = [sys.executable, "-m", "slimfleet", "metrics", *place, "--listen", address]
        with running(command, log) as process:
            assert process.wait(60) == 4
    (line,) = log.read_text().splitlines()
    assert f"cannot listen on {address}" in line
    assert "another --listen" in line


def test_metrics_are_sent_to_a_collector_of_opentelemetry_until_it_is_told_to_end(folder):
    log = folder / "otlp.log"
    with collector() as (server, url):
        command = [sys.executable, "-m", "slimfleet", "metrics", "--otlp", url, "--interval", "1"]
        with running([*command, "--journal", str(folder / "data")], log) as process:
            until(lambda: len(server.got) >= 2, "two exports", log)
    assert process.returncode == 0, log.read_text()
    names = {
        one.name
        for request in server.got
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for one in scope.metrics
    }
    assert "slimfleet_devices" in names


def test_a_collector_that_is_away_is_said_once_and_tried_on(folder):
    log = folder / "away.log"
    command = [sys.executable, "-m", "slimfleet", "metrics", "--interval", "1"]
    place = ["--journal", str(folder / "data")]
    with (
        collector(status=400) as (server, url),
        running([*command, *place, "--otlp", url], log) as process,
    ):
        until(lambda: len(server.got) >= 3, "three attempts", log)
    assert process.returncode == 0
    (complaint,) = log.read_text().splitlines()
    assert url in complaint
    assert complaint.endswith("trying on")


def test_who_is_asked_to_end_while_a_collector_is_away_ends_at_once(folder):
    log = folder / "silent.log"
    place = ["--journal", str(folder / "data")]
    command = [sys.executable, "-m", "slimfleet", "metrics", *place, "--interval", "60"]
    with collector(status=503) as (server, url), running([*command, "--otlp", url], log) as process:
        until(lambda: server.got, "the first attempt", log)
    assert process.returncode == 0, log.read_text()
    assert log.read_text() == ""


def test_a_journal_that_is_away_for_a_while_does_not_end_the_export(folder):
    log, data = folder / "moved.log", folder / "data"
    command = [sys.executable, "-m", "slimfleet", "metrics", "--interval", "1"]
    with (
        collector() as (server, url),
        running([*command, "--journal", str(data), "--otlp", url], log) as process,
    ):
        until(lambda: server.got, "an export", log)
        shutil.move(data, folder / "away")
        until(lambda: "no journal in" in log.read_text(), "a complaint", log)
        shutil.move(folder / "away", data)
        until(lambda: "goes on" in log.read_text(), "an export", log)
    assert process.returncode == 0
    assert len(log.read_text().splitlines()) == 2
