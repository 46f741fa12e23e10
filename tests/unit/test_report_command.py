"""``slimfleet report``: periods as people type them, and a page and tables of a real journal."""

import contextlib
import sqlite3
import time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.reader import DATABASE
from journal.store import Journal
from slimfleet.cli import main
from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode
from slimfleet.period import read_since, read_until
from tests.unit.test_fleet_view import accepted, born, closed, opened
from tests.unit.test_report_page import read

BERLIN = ZoneInfo("Europe/Berlin")
NOW = 1_764_590_400.0  # 2025-12-01 12:00 UTC
DAY = 86_400.0


@pytest.mark.parametrize(
    ("text", "ago"), [("7d", 7 * DAY), ("12h", 43_200.0), ("90m", 5400.0), ("2w", 14 * DAY)]
)
def test_a_span_is_counted_back_from_now(text, ago):
    assert read_since(text, NOW) == NOW - ago
    assert read_until(text, NOW) == NOW - ago


def test_a_date_begins_and_ends_with_its_midnight_in_the_servers_zone():
    midnight = 1_764_543_600.0  # of 2025-12-01 in Berlin
    assert read_since("2025-12-01", NOW, BERLIN) == midnight
    assert read_until("2025-12-01", NOW, BERLIN) == midnight + DAY


def test_a_day_with_25_hours_is_whole():
    assert read_until("2025-10-26", NOW, BERLIN) - read_since("2025-10-26", NOW, BERLIN) == 90_000


def test_a_date_with_a_time_is_that_moment_at_both_ends():
    for reading in (read_since, read_until):
        assert reading("2025-12-01T13:00", 0.0, BERLIN) == NOW
        assert reading("2025-12-01T12:00+00:00", 0.0, BERLIN) == NOW


@pytest.mark.parametrize("text", ["", "7", "d", "7y", "yesterday", "2025-13-01", "9999-12-31"])
def test_what_is_no_time_is_refused_with_what_to_write(text):
    with pytest.raises(ConfigError, match="write 12h, 7d, 2w, 2026-11-24"):
        read_until(text, NOW, BERLIN)


@given(st.text(max_size=30))
def test_no_text_whatever_ends_in_another_error(text):
    with contextlib.suppress(ConfigError):
        assert isinstance(read_since(text, NOW), float)


@pytest.fixture
def folder(tmp_path):
    now = time.time()
    with Journal.open(tmp_path / "server" / "journal") as journal:
        journal.append([born("a"), opened(1, "a"), accepted(1, "a"), closed(1, "a")], now - 9 * DAY)
        journal.append([opened(2, "a"), accepted(2, "a"), closed(2, "a")], now - DAY)
    return tmp_path / "server"


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.sqlite*")
    }


def test_page_and_tables_are_written_and_the_journal_is_left_as_it_is(folder, tmp_path, capsys):
    before = snapshot(folder)
    out, tables = tmp_path / "report.html", tmp_path / "tables"
    given = ["report", "--journal", str(folder), "--out", str(out), "--csv", str(tables)]
    assert main(given) == ExitCode.DONE
    assert "1 of 1 device rounds" in read(out.read_text()).text
    assert (tables / "devices.csv").read_text().splitlines()[1].startswith("a,,")
    assert str(out) in capsys.readouterr().out
    assert snapshot(folder) == before


def test_a_longer_period_has_more(folder, tmp_path):
    out = tmp_path / "report.html"
    given = ["report", "--journal", str(folder / "journal"), "--out", str(out)]
    assert main([*given, "--since", "4w"]) == ExitCode.DONE
    assert "2 of 2 device rounds" in read(out.read_text()).text
    assert main([*given, "--since", "4w", "--until", "2d"]) == ExitCode.DONE
    assert "1 of 1 device rounds" in read(out.read_text()).text


def test_a_period_in_which_nothing_happened_is_said_and_no_failure(folder, tmp_path, capsys):
    out = tmp_path / "report.html"
    given = ["report", "--journal", str(folder), "--out", str(out), "--since", "1h"]
    assert main(given) == ExitCode.DONE
    assert "nothing happened in this time" in capsys.readouterr().err
    assert "Nothing happened in this time" in out.read_text()


def test_a_configuration_leads_to_the_journal(folder, tmp_path):
    config = tmp_path / "server.toml"
    config.write_text(
        'folder = "server"\nvalidation = "v.npz"\n[broker]\nurl = "mqtt://localhost"\n'
        '[campaign]\nfleet = "plant"\nmodel = "mlp"\noptions = { features = 3, classes = 2 }\n'
    )
    out = tmp_path / "report.html"
    assert main(["report", "--config", str(config), "--out", str(out)]) == ExitCode.DONE
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "r.html", "--since", "2h", "--until", "3h"], "is not before --until"),
        ([], "nothing to write"),
        (["--out", "nowhere/r.html"], "cannot be written"),
        (["--csv", "taken"], "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    folder, tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    assert main(["report", "--journal", str(folder), *arguments]) == ExitCode.BAD_CONFIGURATION
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_folder_without_a_journal_is_named(tmp_path, capsys):
    assert main(["report", "--journal", str(tmp_path), "--out", "r.html"]) == (
        ExitCode.BAD_CONFIGURATION
    )
    assert f"{tmp_path} holds no journal" in capsys.readouterr().err


def test_of_a_damaged_journal_what_is_intact_is_reported_and_the_loss_is_said(
    folder, tmp_path, capsys
):
    with sqlite3.connect(folder / "journal" / DATABASE) as connection:
        connection.execute("DROP TRIGGER events_are_not_deleted")
        connection.execute("DELETE FROM events WHERE idx >= 6")
    connection.close()
    out = tmp_path / "report.html"
    given = ["report", "--journal", str(folder), "--since", "30d", "--out", str(out)]
    assert main(given) == ExitCode.FAILURE
    assert "record 6: missing" in capsys.readouterr().err
    text = read(out.read_text()).text
    assert "this report is not complete" in text
    assert "1 of 1 device rounds" in text


def test_beside_a_writer_the_report_is_read_all_the_same(folder, tmp_path):
    out = tmp_path / "report.html"
    with Journal.open(folder / "journal") as journal:
        journal.append([opened(3, "a"), closed(3, "a")], time.time() - 60)
        assert main(["report", "--journal", str(folder), "--out", str(out)]) == ExitCode.DONE
    assert "2 of 2 device rounds" in read(out.read_text()).text
    assert {path.name for path in tmp_path.iterdir()} == {"server", "report.html"}
