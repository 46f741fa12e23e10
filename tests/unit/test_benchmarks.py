import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest

from benchmarks import __main__ as command_line
from benchmarks import demo_accuracy, demo_run, prediction
from benchmarks.errors import BenchmarkError
from benchmarks.learning import CampaignRun
from benchmarks.results import Ratio, Result, Table, as_json, as_text, cell_text, table_lines
from broker.messages import TrainingSettings
from journal import events as e
from journal.store import Journal
from slimfleet.demo.scenario import make_scenario, write_data

pytestmark = pytest.mark.torch

MACHINE = {"machine": "2 cores"}
TABLE = Table("Speed", ("what", "MB/s"), (("copy", 1234.5), ("a longer name", None)))
RESULT = Result("transfer", "speed", (TABLE,), (Ratio("a", 2.0, "b", 4.0, "s", at_most=0.5),))


def training():
    return TrainingSettings(
        steps=1, batch_size=1, learning_rate=0.1, momentum=0.0, weight_decay=0.0, widths=(1.0,)
    )


def round_of(predicted, observed):
    """Return the events of one round: device -> seconds."""
    tasks = tuple(
        e.RoundTask(device=name, width=1.0, predicted_s=s, seed=0) for name, s in predicted.items()
    )
    opened = e.RoundOpened(
        round=1, base="", tasks=tasks, not_invited={}, budget_s=4.0, quorum=1, training=training()
    )
    return [opened, *(accepted(name, s) for name, s in observed.items())]


def accepted(device, seconds):
    return e.UpdateAccepted(
        round=1,
        device=device,
        width=1.0,
        blob="",
        digest="",
        size=100,
        samples=1,
        steps=1,
        loss=0.0,
        download_s=0.0,
        train_s=0.0,
        round_s=seconds,
    )


def journal_with(folder, events):
    with Journal.open(folder / "journal") as journal:
        journal.append(events, at=1.0)
    return folder


# --- the command line -----------------------------------------------------------------------------


def test_the_overview_names_every_benchmark(capsys):
    assert command_line.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in command_line.BENCHMARKS)


def test_an_unknown_benchmark_is_refused_with_the_known_ones(capsys):
    assert command_line.main(["transfr"]) == 2
    assert "transfer" in capsys.readouterr().err


@pytest.mark.parametrize("name", command_line.BENCHMARKS)
def test_every_benchmark_explains_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main([name, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("name", command_line.BENCHMARKS)
def test_every_benchmark_has_defaults_for_everything(name):
    assert command_line.parser_of(name).parse_args([]).json is False


@pytest.mark.parametrize(
    "wrong",
    [
        ["demo_accuracy", "--seeds", "a"],
        ["demo_accuracy", "--noises", "x,y"],
        ["demo_time", "--runs", "0"],
        ["transfer", "--megabytes", "-1"],
        ["export", "--network", "none"],
        ["latency", "--networks", "lstm,"],
    ],
)
def test_a_wrong_value_is_a_usage_error(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(wrong)
    assert ended.value.code == 2


def test_without_names_the_quick_ones_run_and_the_worst_status_counts(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(command_line, "_run_one", lambda name, _: ran.append(name) or len(ran) - 1)
    assert command_line.main([]) == len(ran) - 1
    assert ran == [name for name, (quick, _, _) in command_line.BENCHMARKS.items() if quick]


def test_named_ones_run_in_the_given_order_with_json_handed_on(monkeypatch):
    ran = []
    monkeypatch.setattr(command_line, "_run_one", lambda *one: ran.append(one) or 0)
    assert command_line.main(["transfer", "wire_bytes", "--json"]) == 0
    assert ran == [("transfer", ["--json"]), ("wire_bytes", ["--json"])]


def test_a_benchmark_that_cannot_measure_says_so_in_one_line(capsys, tmp_path):
    assert command_line.main(["prediction", "--run", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("prediction: no journal in")
    assert len(said.splitlines()) == 1


def test_the_command_starts_as_a_module():
    command = [sys.executable, "-m", "benchmarks", "--list"]
    assert "demo_time" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


# --- tables ---------------------------------------------------------------------------------------


def test_numbers_stand_to_the_right_and_words_to_the_left():
    assert table_lines(TABLE) == [
        "Speed",
        "  what           MB/s",
        "  copy           1234",
        "  a longer name     -",
    ]


def test_a_row_that_does_not_fit_its_columns_is_refused():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("Speed", ("what", "MB/s"), (("copy",),))


@pytest.mark.parametrize(
    ("cell", "text"), [(0.12345, "0.123"), (1234.5, "1234"), (7, "7"), (None, "-"), ("x", "x")]
)
def test_a_cell_is_short_but_loses_nothing_before_the_point(cell, text):
    assert cell_text(cell, 3) == text


def test_a_ratio_knows_whether_its_goal_is_met():
    assert Ratio("a", 3.0, "b", 2.0).met is None
    assert Ratio("a", 3.0, "b", 2.0, at_least=1.0).met is True
    assert Ratio("a", 3.0, "b", 2.0, at_most=1.0).met is False
    assert Ratio("a", 3.0, "b", 2.0, at_least=1.0, at_most=2.0).met is True


def test_the_text_says_what_was_measured_where_and_how_to_repeat_it():
    said = as_text(RESULT, MACHINE, "python -m benchmarks transfer")
    assert "2 cores" in said
    assert "again with: python -m benchmarks transfer" in said
    assert "0.5x" in said
    assert "<= 0.5x: met" in said


def test_the_json_is_one_line_with_the_same_figures():
    line = as_json(RESULT, MACHINE, "python -m benchmarks transfer")
    read = json.loads(line)
    assert "\n" not in line
    assert read["tables"][0]["rows"][0] == {"what": "copy", "MB/s": 1234.5}
    assert (read["ratios"][0]["ratio"], read["ratios"][0]["met"]) == (0.5, True)


def test_a_limit_of_nothing_gives_no_ratio_in_json():
    result = Result("x", "y", ratios=(Ratio("a", 1.0, "b", 0.0),))
    assert json.loads(as_json(result, {}, ""))["ratios"][0]["ratio"] is None


# --- what is read from a journal ------------------------------------------------------------------


def test_prediction_pairs_each_update_with_its_task(tmp_path, capsys):
    events = round_of({"press": 1.0, "8-free-rider": 1.0}, {"press": 1.25, "8-free-rider": 0.25})
    run = journal_with(tmp_path, events)

    assert command_line.main(["prediction", "--run", str(run), "--json"]) == 0

    read = json.loads(capsys.readouterr().out)
    rows = {row["device"]: row for row in read["tables"][0]["rows"]}
    assert rows["press"]["error (median)"] == "-20 %"
    # The free-rider trains nothing: its 0.25 s are what the prediction of the other lacks.
    assert read["ratios"][0]["measured"] == pytest.approx(20.0)
    assert "median |error| would be 0 %" in read["notes"][-1]


def test_an_error_is_a_share_of_what_was_observed():
    one = prediction.Observation("press", 1, 1.0, predicted_s=3.0, observed_s=4.0)
    assert one.error == -0.25
    assert prediction.in_hindsight([one])[0].error == 0.0


def test_a_journal_without_updates_is_refused(tmp_path, capsys):
    run = journal_with(tmp_path, round_of({"press": 1.0}, {}))
    assert command_line.main(["prediction", "--run", str(run)]) == 1
    assert "no update" in capsys.readouterr().err


def test_the_parts_of_a_run_are_told_apart_as_far_as_it_went():
    opened, update = round_of({"press": 1.0}, {"press": 1.0})
    stopped = e.TrainingStopped(round=1, reason="")
    events = ((1.0, e.ServerStarted(epoch=1)), (3.0, opened), (4.0, update), (9.0, stopped))
    records = [SimpleNamespace(at=at, event=event) for at, event in events]
    assert demo_run.phases(records[:-1]) == {}
    assert demo_run.phases(records) == {"train": 6.0}


# --- the demo's learning --------------------------------------------------------------------------


def quick_scenario(folder):
    """Return three people, the last a free-rider, one round of two steps, one reward width."""
    plan = make_scenario(folder, devices=3, rounds=1, seed=0)
    settings = msgspec.structs.replace(
        plan.settings,
        widths=(0.5, 1.0),
        training=msgspec.structs.replace(plan.settings.training, steps=2),
        rewards=msgspec.structs.replace(plan.settings.rewards, ladder=(1.0,)),
    )
    plan = replace(plan, settings=settings.check())
    write_data(plan)
    return plan


def test_learning_without_processes_ends_with_scored_onnx_files(tmp_path):
    plan = quick_scenario(tmp_path)
    names = [member.device for member in plan.devices]
    widths = dict(zip(names, (1.0, 0.5, 1.0), strict=True))

    learned = CampaignRun(plan, widths, 0.0, tmp_path / "templates").run()

    assert {name: learned.state.devices[name].width for name in names} == widths
    assert learned.state.weights_round == 1
    assert learned.delivered == (1.0,)
    assert 0.0 < learned.unseen[1.0] < 1.0
    run = demo_accuracy.SeedRun(0, 0.0, learned, dict.fromkeys(names, 0.01), names[-1])
    assert run.share(names[-1]) == 0.0
    assert set(run.honest_shares) == set(names[:-1])
    assert (run.delivered, run.best_alone) == (learned.unseen[1.0], 0.01)


# --- the fleet that counts bytes ------------------------------------------------------------------


def test_what_the_server_sends_does_not_grow_with_the_devices(capsys):
    assert command_line.main(["wire_bytes", "--devices", "1,3", "--rounds", "1", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    few, many = read["tables"][0]["rows"]
    assert few["server sends weights"] == many["server sends weights"] > 90_000
    assert many["own copies would be"] == 3 * few["own copies would be"]
    assert all(ratio["met"] for ratio in read["ratios"])


def test_widths_that_the_grid_does_not_offer_are_refused(capsys):
    assert command_line.main(["demo_accuracy", "--widths", "1,1"]) == 1
    assert "give 8 widths of the grid" in capsys.readouterr().err


def test_a_folder_without_a_journal_is_named(tmp_path):
    with pytest.raises(BenchmarkError, match="name a folder such as demo-run"):
        demo_run.records_of(tmp_path)
