import json
import stat

import msgspec
import pytest

from edge_agent.probe import ProbeResult
from exporter.report import ExportReport, FormRow, WidthRow, WrittenFile
from profiler.profile import Benchmark, WidthCost
from slimfleet import cli
from slimfleet.commands import broker as broker_command
from slimfleet.commands import export as export_command
from slimfleet.commands import profile as profile_command
from slimfleet.exit_codes import ExitCode
from slimfleet.operator_link import read_access
from tests.fakes.toy_onnx import always

AGENT_TOML = """
device = "pump-1"
fleet = "pumps"
trusted_keys = ["slimfleet-ed25519 AAAA"]
[broker]
url = "mqtts://broker.plant:8884"
username = "pump-1"
password_file = "of-the-device"
ca_file = "ca.pem"
protocol = "5"
[train]
data = "own.npz"
memory_mb = 100
[demo]
emulate = "raspberry-pi-4"
"""
SERVER_TOML = """
validation = "validation.npz"
[broker]
url = "mqtt://broker.plant"
[campaign]
fleet = "pumps"
model = "cnn1d"
"""


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logs", lambda *_, **__: None)


@pytest.fixture
def command(capsys):
    """Run a command line; return its exit code, output and complaints."""

    def call(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def working_runtime(monkeypatch):
    async def answer():
        return ProbeResult(ok=True, latency_s=0.001, detail="onnxruntime 1 works", runtime="1")

    monkeypatch.setattr(profile_command, "probe_runtime", answer)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("device",),
        ("profile",),
        ("export",),
        ("broker",),
        ("broker", "config"),
        ("broker", "run"),
    ],
)
def test_every_command_has_help_with_an_example(command, arguments):
    code, out, _ = command(*arguments, "--help")
    assert code == 0
    assert "example:\n  slimfleet " + arguments[0] in out


# --- who asks, and where ------------------------------------------------------------------------


def access(monkeypatch, *arguments):
    """Return how ``status`` would connect."""
    seen = []
    monkeypatch.setattr(
        "slimfleet.commands.status.read_access",
        lambda given: seen.append(given) or read_access(given),
    )

    async def collect(found, timeout_s):
        seen.append(found)
        raise KeyboardInterrupt

    monkeypatch.setattr("slimfleet.commands.status._collect", collect)
    assert cli.main(["status", *map(str, arguments)]) == cli.INTERRUPTED
    return seen[-1]


def test_an_agent_configuration_gives_broker_and_fleet_but_not_the_user(tmp_path, monkeypatch):
    (tmp_path / "agent.toml").write_text(AGENT_TOML)
    found = access(monkeypatch, "--config", tmp_path / "agent.toml")
    assert str(found.address) == "mqtts://broker.plant:8884"
    assert (found.fleet, found.operator, found.protocol) == ("pumps", "operator", "5")
    assert found.credentials.username == "operator"
    assert found.credentials.password is None  # the device's own stays with the device
    assert found.credentials.ca_file == tmp_path / "ca.pem"


def test_a_server_configuration_serves_as_well_and_arguments_come_first(tmp_path, monkeypatch):
    (tmp_path / "server.toml").write_text(SERVER_TOML)
    (tmp_path / "secret").write_text("hush\n")
    monkeypatch.chdir(tmp_path)
    found = access(
        monkeypatch,
        *("--config", "server.toml", "--fleet", "valves", "--user", "anna"),
        *("--password-file", "secret", "--broker", "mqtt://other"),
    )
    assert str(found.address) == "mqtt://other:1883"
    assert (found.fleet, found.operator) == ("valves", "anna")
    assert found.credentials.password == "hush"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fleet", "pumps"), "--broker is missing"),
        (("--broker", "mqtt://127.0.0.1"), "--fleet is missing"),
        (("--broker", "http://x", "--fleet", "pumps"), "is not a broker URL"),
        (("--config", "/no/such/server.toml"), "cannot read it"),
        (
            ("--broker", "mqtt://x", "--fleet", "pumps", "--password-file", "/no/such"),
            "password_file",
        ),
    ],
)
def test_a_missing_or_wrong_argument_is_a_wrong_configuration(command, arguments, said):
    code, out, err = command("status", *arguments)
    assert code == ExitCode.BAD_CONFIGURATION
    assert said in err
    assert err.count("\n") == 1
    assert not out


def test_a_name_that_may_not_stand_in_a_topic_is_refused_at_once(command):
    code, _, err = command("device", "suspend", "pump/#", "--reason", "x", "--fleet", "pumps")
    assert code == ExitCode.USAGE
    assert "use 1 to 64 of a-z, 0-9 and '-'" in err


def test_a_command_without_a_reason_is_refused(command):
    code, _, err = command("device", "suspend", "pump-1", "--reason", "  ", "--fleet", "pumps")
    assert code == ExitCode.USAGE
    assert "say why" in err


@pytest.mark.parametrize("width", ["0.5x", "-1", "2", "nan", ""])
def test_a_cap_that_is_no_width_is_refused_at_once(command, width):
    code, _, err = command("device", "cap", "pump-1", "--width", width, "--reason", "hot")
    assert code == ExitCode.USAGE
    assert "is no width: use one of the grid, or none" in err


@pytest.mark.parametrize("arguments", [("cap", "pump-1"), ("retire", "pump-1", "--width", "0.5")])
def test_a_width_belongs_to_a_cap_and_to_nothing_else(command, arguments):
    code, _, err = command("device", *arguments, "--reason", "hot", "--fleet", "pumps")
    assert code == ExitCode.BAD_CONFIGURATION
    assert "--width W|none belongs to slimfleet device cap" in err


# --- profile ------------------------------------------------------------------------------------


def test_a_profile_without_a_model_shows_facts_and_inference(command, working_runtime):
    code, out, _ = command("profile")
    assert code == ExitCode.DONE
    assert "onnxruntime 1 works" in out
    assert "give --model and --data" in out


def test_a_profile_as_json_says_that_it_is_emulated(command, working_runtime):
    code, out, _ = command("profile", "--json", "--emulate", "raspberry-pi-4")
    document = json.loads(out)
    assert code == ExitCode.DONE
    assert document["emulated"] == "raspberry-pi-4"
    assert document["memory_budget"] == 2**30
    assert document["runtime"]["ok"] is True


def test_a_machine_that_cannot_infer_is_a_failure(command, monkeypatch):
    async def crash():
        return ProbeResult(ok=False, latency_s=0.0, detail="died (SIGILL)", code="crashed")

    monkeypatch.setattr(profile_command, "probe_runtime", crash)
    code, out, _ = command("profile")
    assert code == ExitCode.FAILURE
    assert "FAILS: died (SIGILL)" in out


def test_training_steps_are_timed_on_the_data_of_the_configuration(
    command, working_runtime, tmp_path, monkeypatch
):
    (tmp_path / "agent.toml").write_text(AGENT_TOML)
    asked = {}

    class Trainer:
        def __init__(self, settings):
            asked["settings"] = settings

        async def profile(self, model, options, widths, batch_size):
            asked["profile"] = (model, options, widths, batch_size)
            costs = tuple(WidthCost(width, 0.01, 50 * 2**20) for width in widths)
            return Benchmark("toy", "0" * 64, batch_size, 99, costs)

        async def close(self):
            asked["closed"] = True

    monkeypatch.setattr(profile_command, "TrainerProcess", Trainer)
    monkeypatch.setattr(profile_command, "training_obstacle", lambda: "")
    code, out, _ = command(
        *("profile", "--config", tmp_path / "agent.toml", "--model", "toy", "--widths", "1,0.5"),
        *("--options", '{"length": 5}', "--batch-size", 8),
    )
    assert code == ExitCode.DONE
    assert asked["profile"] == ("toy", {"length": 5}, (0.5, 1.0), 8)
    assert asked["settings"].data == tmp_path / "own.npz"
    assert asked["settings"].factor > 1  # emulation of the configuration
    assert asked["closed"]
    assert "99 samples" in out
    assert "10.0 ms" in out
    assert "EMULATED" in out


def test_what_was_profiled_is_remembered_until_it_is_asked_afresh(
    command, working_runtime, tmp_path, monkeypatch
):
    (tmp_path / "agent.toml").write_text(AGENT_TOML)
    asked = []

    class Trainer:
        def __init__(self, settings):
            self.budget = settings.profile_s

        async def profile(self, model, options, widths, batch_size):
            asked.append((widths, self.budget))
            costs = tuple(WidthCost(width, 0.01, 50 * 2**20) for width in widths)
            return Benchmark("toy", "0" * 64, batch_size, 99, costs)

        async def close(self):
            pass

    monkeypatch.setattr(profile_command, "TrainerProcess", Trainer)
    monkeypatch.setattr(profile_command, "training_obstacle", lambda: "")
    plain = ("profile", "--config", tmp_path / "agent.toml", "--model", "toy", "--widths", "0.5,1")
    tables = [
        command(*plain, *more)[1]
        for more in ((), ("--json",), ("--fresh",), ("--fresh", "--budget", "7"))
    ]
    assert [widths for widths, _ in asked] == [(0.5, 1.0), (0.5,), (0.5, 1.0), (0.5, 1.0)]
    assert [budget for _, budget in asked] == [60.0, 60.0, 60.0, 7.0]
    assert [cost["width"] for cost in json.loads(tables[1])["costs"]] == [0.5, 1.0]
    assert "inference is not emulated" in tables[0]


def test_exported_files_are_measured_on_a_device_without_torch(command, working_runtime, tmp_path):
    onnx, manifest = always(1)
    (tmp_path / "toy-w0.50.onnx").write_bytes(onnx)
    (tmp_path / "toy-w0.50.manifest.json").write_bytes(msgspec.json.encode(manifest))
    code, out, _ = command("profile", "--files", tmp_path)
    assert code == ExitCode.DONE
    assert "time of one inference" in out
    assert "float32" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--model", "cnn1d"), ExitCode.BAD_CONFIGURATION, "--data is missing"),
        (("--budget", "-1"), ExitCode.USAGE, "no number of seconds"),
        (("--budget", "inf"), ExitCode.USAGE, "no number of seconds"),
        (("--budget", "soon"), ExitCode.USAGE, "no number of seconds"),
        (("--data", "x.npz"), ExitCode.BAD_CONFIGURATION, "--model is missing"),
        (("--emulate", "raspberry-pi-44"), ExitCode.BAD_CONFIGURATION, "did you mean"),
        (("--options", "[]"), ExitCode.USAGE, "must be a JSON object"),
        (("--options", "{"), ExitCode.USAGE, "not JSON"),
        (("--widths", "0.5,2"), ExitCode.USAGE, "no list of widths"),
        (("--widths", "wide"), ExitCode.USAGE, "no list of widths"),
        (("--widths", "nan"), ExitCode.USAGE, "no list of widths"),
        (("--batch-size", "0"), ExitCode.USAGE, "no number above 0"),
    ],
)
def test_a_wrong_profile_argument_is_named(command, working_runtime, arguments, code, said):
    found, _, err = command("profile", *arguments)
    assert found == code
    assert said in err


# --- export -------------------------------------------------------------------------------------


def export_report():
    """Return a report of two widths, the wider one over a device's budget."""
    forms = [
        FormRow(
            "fp32",
            WrittenFile("toy-w0.25.onnx", "toy-w0.25.manifest.json", "ab", 900),
            None,
            900,
            0.000023,
            0.000031,
            0.843,
            3e-8,
            True,
            "",
            "",
        ),
        FormRow("fp32", None, None, 12_345, 0.15, 0.2, None, 0.0, False, "150 ms > 20 ms", ""),
    ]
    widths = (
        WidthRow(0.25, 12, "none", "fp32", "fp32", "fp32: int8 is off", True, {}, (forms[0],)),
        WidthRow(
            1.0, 1200, "none", "", "fp32", "over budget: 150 ms > 20 ms", False, {}, (forms[1],)
        ),
    )
    return ExportReport(
        model="toy",
        spec_hash="00",
        weights="toy.safetensors",
        fleet="",
        round=0,
        task="regression",
        classes=(),
        scale="",
        score_name="accuracy",
        score_data="test.npz, 100 samples",
        budget="latency<=20ms",
        machine="x86_64, onnxruntime 1.23.0",
        threads=1,
        calls=50,
        widths=widths,
    )


def test_an_export_prints_one_line_per_width(command, monkeypatch, tmp_path):
    monkeypatch.setattr(export_command.command, "run", lambda _: export_report())
    arguments = ("export", "--model", "toy", "--widths", "1", "--out", tmp_path)
    code, out, _ = command(*arguments)
    assert code == ExitCode.DONE
    assert out == (
        "toy; weights: toy.safetensors\n"
        "latency: one sample on THIS machine (x86_64, onnxruntime 1.23.0), one thread, 50\n"
        "  calls\n"
        "score: accuracy, test.npz, 100 samples\n"
        "device budget: latency<=20ms\n"
        "\n"
        "width  form  score  median     p95     size  params  front\n"
        " 0.25  fp32  0.843   23 us   31 us    900 B      12      *  recommended\n"
        "    1  fp32      -  150 ms  200 ms  12.3 kB    1.2k         over budget\n"
        "front *: no other file scores better, runs faster and is smaller\n"
        "\n"
        "why\n"
        "    1  over budget: 150 ms > 20 ms\n"
        f"\nwritten to {tmp_path}\n"
    )
    code, out, _ = command(*arguments, "--json")
    document = json.loads(out)
    assert [row["digest"] for row in document["widths"]] == ["ab", None]
    assert [row["recommended"] for row in document["widths"]] == [True, False]


@pytest.mark.parametrize(
    ("name", "code"),
    [("ParityError", ExitCode.NO_ACCEPTABLE_MODEL), ("InjectionError", ExitCode.FAILURE)],
)
def test_an_export_that_fails_has_its_exit_code(command, monkeypatch, tmp_path, name, code):
    from exporter import errors

    def fail(_):
        raise getattr(errors, name)("width 0.5 differs")

    monkeypatch.setattr(export_command.command, "run", fail)
    found, out, err = command("export", "--model", "toy", "--widths", "1", "--out", tmp_path)
    assert (found, out) == (code, "")
    assert err == "slimfleet: width 0.5 differs\n"


# --- broker -------------------------------------------------------------------------------------


def test_a_mosquitto_configuration_is_written_with_what_to_do_next(command, tmp_path):
    out_folder = tmp_path / "mosquitto"
    arguments = ("broker", "config", "mosquitto", "--fleet", "pumps", "--out", out_folder)
    code, out, _ = command(*arguments, "--operators", "anna,ben")
    assert code == ExitCode.DONE
    config = (out_folder / "mosquitto.conf").read_text()
    assert f"acl_file {out_folder / 'acl'}" in config
    assert f"password_file {out_folder / 'passwords'}" in config
    assert "listener 1883 127.0.0.1" in config
    acl = (out_folder / "acl").read_text()
    for user in ("server", "anna", "ben"):
        assert f"user {user}\n" in acl
        assert (
            f"mosquitto_passwd {'-c ' * (user == 'server')}{out_folder / 'passwords'} {user}" in out
        )
    assert stat.S_IMODE((out_folder / "acl").stat().st_mode) == 0o600
    assert "without tls" in out.lower()
    code, _, err = command(*arguments)
    assert code == ExitCode.BAD_CONFIGURATION
    assert "--force" in err
    assert command(*arguments, "--force")[0] == ExitCode.DONE


def test_a_configuration_with_client_certificates_asks_for_no_password(command, tmp_path):
    code, out, _ = command(
        *("broker", "config", "mosquitto", "--fleet", "pumps", "--out", tmp_path, "--port", 9000),
        *("--tls-cert", "b.crt", "--tls-key", "b.key", "--client-ca", "ca.crt", "--crl", "x.crl"),
    )
    config = (tmp_path / "mosquitto.conf").read_text()
    assert code == ExitCode.DONE
    assert "password_file" not in config
    assert "require_certificate true" in config
    assert "listener 9000\n" in config
    assert "crlfile" in config
    assert "common name is its user name" in out
    assert "mosquitto_passwd" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--tls-cert", "b.crt"), ExitCode.BAD_CONFIGURATION, "go together"),
        (("--client-ca", "ca.crt"), ExitCode.BAD_CONFIGURATION, "need TLS"),
        (
            ("--tls-cert", "c", "--tls-key", "k", "--crl", "x"),
            ExitCode.BAD_CONFIGURATION,
            "--client-ca too",
        ),
        (("--operators", "anna,anna"), ExitCode.BAD_CONFIGURATION, "anna is twice"),
        (("--operators", "server"), ExitCode.BAD_CONFIGURATION, "server is twice"),
        (("--operators", "Anna"), ExitCode.USAGE, "use 1 to 64"),
        (("--port", "70000"), ExitCode.USAGE, "is no port"),
    ],
)
def test_a_wrong_broker_argument_is_named(command, tmp_path, arguments, code, said):
    found, _, err = command(
        "broker", "config", "mosquitto", "--fleet", "pumps", "--out", tmp_path, *arguments
    )
    assert found == code
    assert said in err
    assert not list(tmp_path.iterdir())


def test_passwords_are_made_once_and_read_by_their_owner_only(tmp_path):
    first = broker_command.make_passwords(tmp_path / "passwords", {"server": 0, "pump-1": 0})
    texts = {user: path.read_text() for user, path in first.items()}
    assert texts["server"] != texts["pump-1"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in first.values()} == {0o600}
    again = broker_command.make_passwords(tmp_path / "passwords", {"server": 0, "pump-2": 0})
    assert again["server"].read_text() == texts["server"]
