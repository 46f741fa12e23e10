"""`slimfleet monitor` from the command line: who may use the page, and where it may be served."""

import asyncio
import socket
import stat
import sys

import pytest

from journal.store import Journal
from monitor.web.gate_rules import misdirected
from monitor.web.people import FILE, People
from monitor.web.person import Role
from monitor.web.secret_hash import fits, hash_token
from monitor.web.serving import Address, ServingError, open_socket
from slimfleet.cli import main
from slimfleet.commands.monitor import _place, _plan
from slimfleet.config import ConfigError, ServerConfig, read_config
from slimfleet.exit_codes import ExitCode
from slimfleet.monitor_child import child_kept, monitor_command
from slimfleet.monitor_config import MonitorSection
from tests.unit.test_fleet_view import born

PASSWORD = "correct horse battery"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound to it here


@pytest.fixture
def folder(tmp_path):
    with Journal.open(tmp_path / "data" / "journal") as journal:
        journal.append([born("a")], 0.0)
    return tmp_path / "data"


def monitor(*arguments):
    return main(["monitor", *map(str, arguments)])


def test_a_token_is_made_shown_once_and_revoked(folder, capsys):
    assert (
        monitor("token", "create", "--name", "anna", "--role", "operator", "--journal", folder) == 0
    )
    token = capsys.readouterr().out.strip()
    people = People(folder / FILE)
    assert people.by_token(hash_token(token)).role is Role.OPERATOR
    assert token not in (folder / FILE).read_text()
    monitor("token", "list", "--journal", folder)
    shown = capsys.readouterr().out
    assert shown.split()[:3] == ["anna", "operator", "since"]
    assert monitor("--journal", folder, "token", "revoke", "anna") == 0
    assert people.known() == {}


def test_a_token_goes_into_a_new_file_that_only_its_owner_reads(folder, tmp_path, capsys):
    file = tmp_path / "token"
    create = ("token", "create", "--name", "anna", "--out-file", file, "--journal", folder)
    assert monitor(*create) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text().strip()
    assert token not in "".join(capsys.readouterr())
    assert People(folder / FILE).by_token(hash_token(token)).role is Role.VIEWER
    assert monitor(*create) == ExitCode.BAD_CONFIGURATION  # the file is there
    assert file.read_text().strip() == token


def test_where_the_name_is_taken_no_token_is_left_lying_about(folder, tmp_path, capsys):
    monitor("token", "create", "--name", "anna", "--journal", folder)
    file = tmp_path / "token"
    again = ("token", "create", "--name", "anna", "--out-file", file, "--journal", folder)
    assert monitor(*again) == ExitCode.BAD_CONFIGURATION
    assert "anna is there already" in capsys.readouterr().err
    assert not file.exists()


def test_a_user_is_added_with_a_password_and_removed(folder, tmp_path, capsys):
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    assert monitor("user", "add", "ben", "--password-file", file, "--journal", folder) == 0
    kept = People(folder / FILE).everybody()["ben"]
    assert kept.role is Role.VIEWER
    assert fits(PASSWORD, kept.secret)
    monitor("token", "list", "--journal", folder)
    assert "ben" not in capsys.readouterr().out.replace("ben may", "")
    monitor("user", "list", "--journal", folder)
    assert "ben" in capsys.readouterr().out
    assert monitor("user", "remove", "ben", "--journal", folder) == 0
    assert monitor("user", "remove", "ben", "--journal", folder) == ExitCode.BAD_CONFIGURATION


@pytest.mark.parametrize(
    ("content", "said"), [("short\n", "at least 12"), ("", "cannot read a password")]
)
def test_a_password_that_is_none_adds_nobody(folder, tmp_path, capsys, content, said):
    file = tmp_path / "password"
    file.write_text(content)
    added = monitor("user", "add", "ben", "--password-file", file, "--journal", folder)
    assert added == ExitCode.BAD_CONFIGURATION
    assert said in capsys.readouterr().err
    assert not (folder / FILE).exists()


def test_a_password_is_never_asked_for_where_there_is_no_terminal(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert monitor("user", "add", "ben", "--journal", folder) == ExitCode.BAD_CONFIGURATION
    assert "give --password-file" in capsys.readouterr().err


def test_where_others_could_reach_the_page_and_nobody_could_sign_in_it_is_not_served(
    folder, capsys
):
    for where in (("--host", EVERYWHERE), ("--public-url", "https://fleet.example")):
        ended = monitor("--journal", folder, "--port", "0", *where)
        assert ended == ExitCode.BAD_CONFIGURATION
        assert "nobody could sign in: first run" in capsys.readouterr().err


def test_without_a_journals_place_the_command_says_what_to_give(capsys):
    assert monitor() == ExitCode.BAD_CONFIGURATION
    assert "give --config server.toml, or --journal DIR" in capsys.readouterr().err


def test_half_of_a_certificate_is_refused(folder, tmp_path, capsys):
    assert monitor("--journal", folder, "--tls-cert", tmp_path) == ExitCode.BAD_CONFIGURATION
    assert "name both" in capsys.readouterr().err


def test_a_certificate_that_is_none_is_refused_in_one_line(folder, tmp_path, capsys):
    file = tmp_path / "page.pem"
    file.write_text("nonsense")
    ended = monitor("--journal", folder, "--port", 0, "--tls-cert", file, "--tls-key", file)
    assert ended == ExitCode.BAD_CONFIGURATION
    assert "cannot be used" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = monitor("--journal", folder, "--port", taken.getsockname()[1])
    assert ended == ExitCode.BAD_CONFIGURATION
    assert "choose another address or port" in capsys.readouterr().err


CONFIG = """
folder = "data"
validation = "v.npz"
[broker]
url = "mqtt://127.0.0.1"
[campaign]
fleet = "plant"
model = "mlp"
[monitor]
port = 9000
operator = "page"
password_file = "secret"
idle_minutes = 5.0
"""


def planned(tmp_path, *given, config=CONFIG):
    import argparse

    from slimfleet.commands import monitor as command

    file = tmp_path / "server.toml"
    file.write_text(config)
    (tmp_path / "secret").write_text("of the page\n")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args(["--config", str(file), *map(str, given)])
    section, folder, base = _place(arguments)
    return _plan(arguments, section, base, folder, folder / FILE)


def test_the_section_says_what_is_served_and_options_say_otherwise(tmp_path):
    plan = planned(tmp_path)
    assert (plan.address.host, plan.address.port) == ("127.0.0.1", 9000)
    assert plan.access.operator == "page"
    assert plan.access.credentials.password == "of the page"
    assert plan.limits.idle_s == 300
    assert plan.journal == tmp_path / "data" / "journal"
    other = planned(tmp_path, "--port", 0, "--host", "::1", "--operator", "anna")
    assert (other.address.host, other.address.port) == ("::1", 0)
    assert other.access.operator == "anna"
    assert other.address.loopback


def test_without_a_password_at_the_broker_the_page_can_only_be_read(tmp_path):
    config = CONFIG.replace('password_file = "secret"', "")
    assert planned(tmp_path, config=config).access is None
    assert planned(tmp_path, "--operator", "anna", config=config).access.operator == "anna"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"cert_file": "a"}, "name both"),
        ({"port": 70000}, "between 0 and 65535"),
        ({"idle_minutes": 0.0}, "must be above 0"),
        ({"session_hours": float("inf")}, "must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(section, said):
    with pytest.raises(Exception, match=said):
        MonitorSection(**section).check()


def test_the_sections_keys_are_checked_like_all_others(tmp_path):
    file = tmp_path / "server.toml"
    file.write_text(CONFIG.replace("port", "prot"))
    with pytest.raises(ConfigError, match=r"unknown key monitor\.'prot': did you mean 'port'"):
        read_config(file, ServerConfig)


def test_a_page_with_a_public_name_is_no_page_of_this_machine_alone():
    place = Address(public_url="https://Fleet.example/").place()
    assert not place.loopback
    assert place.tls
    assert misdirected("fleet.example", place) is None
    assert misdirected("evil.example", place) is not None
    with pytest.raises(ServingError, match="is no URL"):
        Address(public_url="fleet.example").place()
    assert Address(host=EVERYWHERE).place().loopback is False
    assert Address().url(5) == "http://127.0.0.1:5/"
    assert Address(host="::1").url(5) == "http://[::1]:5/"
    open_socket(Address(port=0)).close()


def test_the_servers_child_is_the_same_command():
    command = monitor_command("server.toml", "json", verbose=True)
    assert command[1:] == ["-m", "slimfleet", "monitor", "--config", "server.toml", "--log-format",
                           "json", "--verbose"]  # fmt: skip


async def test_a_child_that_ends_is_started_again_until_its_configuration_is_wrong(
    tmp_path, caplog
):
    log = tmp_path / "log"
    script = (
        f"log = open({str(log)!r}, 'a'); log.write('x');"
        f"raise SystemExit(1 if log.tell() < 3 else {ExitCode.BAD_CONFIGURATION:d})"
    )
    async with child_kept([sys.executable, "-c", script], pause_s=0.0) as kept:
        async with asyncio.timeout(20):
            await kept
    assert log.read_text() == "xxx"
    assert caplog.text.count("the page ended with status 1; it is started again") == 2
    assert "the fleet is served without it" in caplog.text


async def test_a_child_ends_with_its_server():
    came, gone = asyncio.Event(), asyncio.Event()

    async def met(reader, writer):
        came.set()
        await reader.read()
        gone.set()
        writer.close()

    async with await asyncio.start_server(met, "127.0.0.1", 0) as meeting:
        port = meeting.sockets[0].getsockname()[1]
        script = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.recv(1)"
        async with asyncio.timeout(20):
            async with child_kept([sys.executable, "-c", script]) as kept:
                await came.wait()
                assert not gone.is_set()
            await gone.wait()
    assert kept.cancelled()
