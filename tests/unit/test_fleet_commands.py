"""`slimfleet top`, `rounds`, `device`, `rewards` and `metrics --once` over a journal."""

import json

import pytest

from broker.messages import Telemetry
from journal import events as e
from journal.store import Journal
from slimfleet.cli import main
from slimfleet.exit_codes import ExitCode
from tests.unit.test_fleet_text import reward
from tests.unit.test_fleet_view import accepted, born, closed, opened
from tests.unit.test_journal_feed import change
from tests.unit.test_metrics import started

EVENTS = [
    started(),
    born("a"),
    born("b"),
    opened(1, "a", "b"),
    accepted(1, "a"),
    closed(1, "a"),
    e.EntitlementsRevised(
        round=1, rule="fair", note="", rewards=(reward("a"), reward("b", -0.1)), widths={}
    ),
]
# Command -> what it shows of this journal.
WORDS = {
    "top": "2 of 2 devices, by name",
    "rounds": "quorum missed",
    "device": "Timeline",
    "rewards": "+0.5000",
}
SHOWN = (["top"], ["rounds"], ["device", "a"], ["rewards"])


@pytest.fixture
def data(tmp_path):
    """Return the data folder of a server."""
    with Journal.open(tmp_path / "data" / "journal") as journal:
        for at, event in enumerate(EVENTS):
            journal.append([event], float(at))
        journal.add_telemetry("a", 3.0, Telemetry(inferences=5, latency_p95_s=0.02))
    return tmp_path / "data"


@pytest.fixture
def call(capsys):
    def called(*arguments):
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return called


@pytest.mark.parametrize("command", SHOWN)
def test_each_table_is_printed_in_80_columns_and_nothing_is_wrong(call, data, command):
    code, out, err = call(*command, "--journal", str(data))
    assert (code, err) == (ExitCode.DONE, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert WORDS[command[0]] in out


@pytest.mark.parametrize("command", [*SHOWN, ["metrics", "--once"]])
def test_of_a_damaged_journal_the_rest_is_shown_and_the_loss_is_said(call, data, command):
    change(data / "journal", "DELETE FROM events WHERE idx >= 5")
    code, out, err = call(*command, "--journal", str(data))
    assert code == ExitCode.FAILURE
    assert "THE JOURNAL IS DAMAGED: journal record 5: missing, and so are all to 6" in err
    assert err.count("\n") == 1
    assert len(out) > 20


def test_the_machine_readable_forms_hold_the_data_of_the_page(call, data):
    _, out, _ = call("top", "--json", "--journal", str(data))
    document = json.loads(out)
    assert [row["device"] for row in document["devices"]] == ["a", "b"]
    assert document["overview"]["fleet"] == "pumps"
    assert document["devices"][0]["latency_p95_s"] == 0.02
    _, out, _ = call("rounds", "--json", "--journal", str(data))
    assert json.loads(out)[0]["funnel"]["aggregated"] == 1
    _, out, _ = call("device", "a", "--json", "--journal", str(data))
    assert json.loads(out)["inferences"] == 5
    _, out, _ = call("rewards", "--json", "--journal", str(data))
    assert [row["width"] for row in json.loads(out)] == [0.5, 0.5]


def test_a_device_that_nobody_knows_is_answered_with_those_that_are_known(call, data):
    code, out, err = call("device", "c", "--journal", str(data))
    assert (code, out) == (ExitCode.BAD_CONFIGURATION, "")
    assert "no device c in this fleet; it has a, b" in err


@pytest.mark.parametrize("command", SHOWN)
def test_a_folder_without_a_journal_is_an_error_with_what_to_do(call, tmp_path, command):
    code, _, err = call(*command, "--journal", str(tmp_path))
    assert code == ExitCode.BAD_CONFIGURATION
    assert "holds no journal; name the `folder` of server.toml" in err


@pytest.mark.parametrize("command", [["rounds"], ["device", "a"]])
def test_where_the_journal_is_has_to_be_said(call, command):
    code, _, err = call(*command)
    assert code == ExitCode.BAD_CONFIGURATION
    assert "--config server.toml, or --journal FOLDER" in err


@pytest.mark.parametrize("command", [["rounds"], ["device", "a"]])
def test_one_place_is_enough(call, data, command):
    code, _, err = call(*command, "--config", "server.toml", "--journal", str(data))
    assert code == ExitCode.BAD_CONFIGURATION
    assert "give one of them" in err


@pytest.mark.parametrize("command", [["top"], ["rewards"], ["metrics"]])
def test_where_the_journal_is_is_asked_for_by_the_others_too(call, command):
    with pytest.raises(SystemExit, match="2"):
        call(*command)


def test_the_configuration_of_the_server_leads_to_its_journal(call, data, tmp_path):
    config = tmp_path / "server.toml"
    config.write_text(
        'folder = "data"\nvalidation = "v.npz"\n[broker]\nurl = "mqtt://127.0.0.1"\n'
        '[campaign]\nfleet = "pumps"\nmodel = "cnn1d"\nwidths = [0.5, 1.0]\n',
        encoding="utf-8",
    )
    code, out, _ = call("rounds", "--config", str(config))
    assert code == ExitCode.DONE
    assert out.startswith("fleet pumps")


def test_metrics_are_printed_once_for_a_look(call, data):
    code, out, _ = call("metrics", "--once", "--journal", str(data), "--device-limit", "1")
    assert code == ExitCode.DONE
    assert "slimfleet_device_series_omitted 2.0" in out
    assert 'device="a"' not in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "nowhere"],
        ["--listen", "127.0.0.1:99999"],
        ["--otlp", "collector:4318"],
        ["--interval", "0"],
        ["--device-limit", "many"],
    ],
)
def test_metrics_refuse_what_cannot_be_meant(call, data, arguments):
    with pytest.raises(SystemExit, match="2"):
        call("metrics", "--journal", str(data), *arguments)


def test_top_sorts_and_filters_from_the_command_line(call, data):
    _, out, _ = call("top", "--once", "--filter", "b", "--sort", "p", "--journal", str(data))
    assert "1 of 2 devices, by participation; filter: b" in out
    assert out.splitlines()[-1].split()[0] == "b"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["device", "suspend"], "a device alone"),
        (["device", "nonsense", "a", "--reason", "why"], "a device alone"),
        (["device", "suspend", "a"], "required: --reason"),
        (["rounds", "pause"], "required: --reason"),
        (["rounds", "nonsense"], "invalid choice"),
    ],
)
def test_an_action_still_needs_all_that_it_needs(call, capsys, command, complaint):
    with pytest.raises(SystemExit, match="2"):
        call(*command, "--broker", "mqtt://127.0.0.1:1", "--fleet", "pumps")
    assert complaint in capsys.readouterr().err


def test_without_a_server_whoever_was_there_is_stale_and_with_one_online(call, data):
    with Journal.open(data / "journal") as journal:
        here = e.PresenceChanged(device="a", state=e.LinkState.ONLINE, cause="heard")
        journal.append([here], 9.0)
        _, out, _ = call("top", "--journal", str(data))
        assert "1 of 2 devices there" in out
        assert "no server writes" not in out
        _, out, _ = call("metrics", "--once", "--journal", str(data))
        assert "slimfleet_server_up 1.0" in out
    _, out, _ = call("top", "--journal", str(data))
    assert "0 of 2 devices there" in out
    assert "! no server writes this journal: what follows is its last word" in out
    _, out, _ = call("metrics", "--once", "--journal", str(data))
    assert "slimfleet_server_up 0.0" in out
    assert 'slimfleet_device_up{device="a"} 0.0' in out
