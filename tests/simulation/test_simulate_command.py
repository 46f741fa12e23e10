"""``slimfleet simulate``: a small experiment from its file to its tables."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from journal.reader import DATABASE
from slimfleet import cli
from slimfleet.config import ConfigError
from slimfleet.simulation import cell
from slimfleet.simulation.experiment import (
    cells,
    deal,
    fingerprint,
    read_data,
    read_experiment,
    settings_of,
)
from slimfleet.simulation.grid import Grid
from slimfleet.simulation.tables import groups
from slimmable.model import load_model
from slimmable.torch_device import torch_device
from tests.unit.test_simulation import blobs

pytestmark = pytest.mark.torch

EXPERIMENT = """
partitions = ["homogeneous", "classes(2)"]
devices = [3]
seeds = [0]
widest = [1.0, 0.5]
riders = ["zero"]

[data]
path = "data.npz"

[campaign]
model = "mlp"
options = { input_shape = [6], classes = ["a", "b", "c"], hidden = [16] }
widths = [0.5, 1.0]
training = { steps = 8, batch_size = 8, learning_rate = 0.1 }
rounds = { budget = 2 }
rewards = { ladder = [0.5, 1.0] }
contributions = { coalitions = 4 }
"""

NOT_THERE = "cuda:99"


@pytest.fixture
def folder(tmp_path):
    samples = blobs(200, 1)
    np.savez(tmp_path / "data.npz", x=samples.x, y=samples.y, recording=samples.recording)
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    return tmp_path


def simulate(folder, *more):
    return cli.main(
        ["simulate", str(folder / "experiment.toml"), "--out", str(folder / "out"), *more]
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def changed(folder, old, new):
    assert old in EXPERIMENT
    (folder / "experiment.toml").write_text(EXPERIMENT.replace(old, new))


def test_an_experiment_gives_tables_and_a_page_and_goes_on_where_it_was(folder, capsys):
    assert simulate(folder, "--workers", "2") == 0
    out = folder / "out"
    devices = rows(out / "devices.csv")
    assert [(row["partition"], row["device"], row["rider"]) for row in devices] == [
        (scheme, f"device-{n}", "zero" if n == 3 else "")
        for scheme in ("homogeneous", "classes(2)")
        for n in (1, 2, 3)
    ]
    assert {row["width"] for row in devices if row["rider"]} == {"0.0"}
    assert len(rows(out / "rounds.csv")) == 4
    assert float(rows(out / "widths.csv")[1]["test_score"]) > 0.7
    page = (out / "report.html").read_text()
    assert "classes(2)" in page
    assert "<svg" in page
    assert "http-equiv" in page
    assert "homogeneous" in capsys.readouterr().out
    assert (out / "cells" / "homogeneous_3-devices_seed-0" / "journal" / DATABASE).exists()

    assert simulate(folder) == 4
    assert "add --resume" in capsys.readouterr().err
    tables = (out / "devices.csv").read_bytes()
    lost = out / "cells" / "classes-2_3-devices_seed-0.json"
    kept = out / "cells" / "homogeneous_3-devices_seed-0.json"
    lost.unlink()
    before = kept.stat().st_mtime_ns
    assert simulate(folder, "--resume") == 0
    assert "1 of 2 campaigns were finished before" in capsys.readouterr().err
    assert kept.stat().st_mtime_ns == before
    assert (out / "devices.csv").read_bytes() == tables


def test_the_example_is_one():
    example = Path(__file__).parents[2] / "examples" / "experiment.toml"
    experiment = read_experiment(example)
    assert len(cells(experiment)) == 6
    model = settings_of(experiment, cells(experiment)[0])
    assert load_model(model.model, model.options).input_shape == (1, 28, 28)


def test_a_device_that_can_never_train_stands_in_the_tables_with_the_reason(folder):
    slow = """[data]
path = "data.npz"

[[tiers]]
name = "quick"
count = 2
step_s = 0.01

[[tiers]]
name = "hopeless"
step_s = 1e5
"""
    changed(folder, '[data]\npath = "data.npz"\n', slow)
    text = (folder / "experiment.toml").read_text().replace(', "classes(2)"', "")
    (folder / "experiment.toml").write_text(text.replace('riders = ["zero"]', "riders = []"))
    assert simulate(folder) == 0
    found = {row["device"]: row for row in rows(folder / "out" / "devices.csv")}
    assert found["device-3"]["width"] == "0.0"
    assert found["device-3"]["rounds"] == "0"
    assert found["device-3"]["reason"]
    assert float(found["device-1"]["width"]) > 0


def test_a_result_of_another_experiment_is_not_kept(folder):
    experiment = read_experiment(folder / "experiment.toml")
    changed(folder, "steps = 8", "steps = 9")
    other = read_experiment(folder / "experiment.toml")
    changed(folder, "seeds = [0]", "seeds = [0, 1]")
    longer = read_experiment(folder / "experiment.toml")
    first = cells(experiment)[0]
    assert fingerprint(experiment, first) != fingerprint(other, first)
    assert fingerprint(experiment, first) == fingerprint(longer, first)
    assert len(cells(longer)) == 4
    moved = msgspec.structs.replace(experiment, torch_device="cuda")
    assert fingerprint(experiment, first) == fingerprint(moved, first)


DISTILLED = 'path = "data.npz"\npool_share = 0.2'
TAUGHT = '"a", "b", "c"], hidden = [16] }\naggregation.distillation = { rule = "feddf", steps = 4 }'


def test_a_share_of_the_recordings_is_the_pool_of_the_server(folder):
    plain = read_experiment(folder / "experiment.toml")
    changed(folder, 'path = "data.npz"', DISTILLED)
    with pytest.raises(ConfigError, match="a pool is not used"):
        read_experiment(folder / "experiment.toml")
    text = EXPERIMENT.replace('"a", "b", "c"], hidden = [16] }', TAUGHT)
    (folder / "experiment.toml").write_text(text.replace('path = "data.npz"', DISTILLED))
    experiment = read_experiment(folder / "experiment.toml")
    dealt = deal(experiment, cells(experiment)[0], *read_data(experiment, folder))
    everybody = [dealt.test, dealt.validation, *(device.samples for device in dealt.devices)]
    samples = np.concatenate([dealt.pool, *(part.x for part in everybody)])
    assert len(np.unique(samples, axis=0)) == len(samples) == 200
    assert fingerprint(plain, cells(plain)[0]) != fingerprint(experiment, cells(plain)[0])
    assert simulate(folder, "--workers", "2") == 0


def test_the_data_of_a_cell_is_dealt_without_overlap(folder):
    experiment = read_experiment(folder / "experiment.toml")
    samples, test = read_data(experiment, folder)
    dealt = deal(experiment, cells(experiment)[0], samples, test)
    everybody = [dealt.test, dealt.validation, *(device.samples for device in dealt.devices)]
    recordings = np.concatenate([part.recording for part in everybody])
    assert len(np.unique(recordings)) == len(recordings) == 200


def test_the_command_line_overrides_the_torch_device_of_the_file(folder, capsys):
    assert simulate(folder, "--torch-device", NOT_THERE) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert f"torch_device = '{NOT_THERE}': torch" in line
    assert not (folder / "out").exists()
    changed(folder, "seeds = [0]", f'seeds = [0]\ntorch_device = "{NOT_THERE}"')
    assert simulate(folder, "--torch-device", "cpu", "--workers", "1") == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is a GPU here")
def test_without_a_gpu_auto_is_the_cpu_to_the_last_bit(folder):
    out, found = folder / "out", []
    for name in ("cpu", "auto"):
        assert simulate(folder, "--torch-device", name, "--workers", "2") == 0
        found.append([(out / table).read_bytes() for table in ("devices.csv", "widths.csv")])
        shutil.rmtree(out)
    assert found[0] == found[1]


def test_a_cell_is_played_on_the_torch_device_of_its_experiment(folder, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    played_on = []
    monkeypatch.setattr(cell, "play", lambda order: played_on.append(torch_device()))
    changed(folder, "seeds = [0]", 'seeds = [0]\ntorch_device = "cuda:1"')
    order = cell.Order(
        experiment=read_experiment(folder / "experiment.toml"),
        partition="homogeneous",
        devices=3,
        seed=0,
        base="",
        result="",
        keep="",
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(msgspec.to_builtins(order))))
    cell.main()
    assert json.loads(capsys.readouterr().out) == {"kind": "done"}
    assert played_on == [torch.device("cuda:1")]


def test_a_killed_cell_is_named_and_the_finished_ones_are_kept(folder, monkeypatch):
    experiment = read_experiment(folder / "experiment.toml")
    grid = Grid(experiment, folder, folder / "out")

    def kill(cell, rounds, _budget):
        if cell.partition == "classes(2)" and rounds == 1:
            for child in grid._children:
                child.kill()

    with pytest.raises(ValueError, match=r"classes-2_3-devices_seed-0: .*SIGKILL.*--resume"):
        grid.play(grid.cells, 1, kill)
    assert [cell.partition for cell in grid.finished()] == ["homogeneous"]
    grid = Grid(experiment, folder, folder / "out")
    grid.play([cell for cell in grid.cells if cell not in grid.finished()], 1, lambda *_: None)
    assert [group.partition for group in groups(grid.finished())] == ["homogeneous", "classes(2)"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"homogeneous"', '"iid"', "'iid' is no partition; write one like"),
        ("devices = [3]", "devices = []", "devices is empty"),
        ("devices = [3]", "devices = [1]", "somebody must be honest"),
        ("devices = [3]", "devices = [90]", "leaves one of 90 devices with 1, and 10"),
        ("seeds = [0]", "seeds = [0, 0]", "seeds names one of its entries twice"),
        ("seeds = [0]", "seeds = [-1]", "must not be below 0"),
        (
            "seeds = [0]",
            'seeds = [0]\ntorch_device = "gpu"',
            "torch_device = 'gpu': no such torch device",
        ),
        ("seeds = [0]", f'seeds = [0]\ntorch_device = "{NOT_THERE}"', f"'{NOT_THERE}': torch"),
        ("seeds = [0]", "seed = [0]", "unknown key 'seed': did you mean 'seeds'"),
        ("0.5]\nriders", "0.1]\nriders", "widest: 0.1 must be from 0.5 to 1"),
        ('["zero"]', '["lazy"]', "no rider 'lazy'"),
        ('"data.npz"', '"nothing.npz"', "cannot read"),
        ('"data.npz"', '"data.npz"\nrecordings = 500', "there are 180"),
        ('"data.npz"', '"data.npz"\nminimum = 0', "data.minimum"),
        ('"data.npz"', '"data.npz"\ntest_share = 0.0', "above 0 and below 1"),
        ("[campaign]", '[campaign]\nfleet = "x"', "campaign.fleet: the simulation sets it"),
        ("budget = 2", "budget = 0", "rounds.budget"),
        ("budget = 2", "quorum = 9", "rounds.quorum = 9 with 3 devices"),
        ("budget = 2", "budged = 2", "budged"),
        ('"a", "b", "c"', '"a", "b"', "labels run from 0 to 2"),
        ("partitions", "partitions = = ", "not valid TOML"),
    ],
)
def test_bad_input_is_one_line_and_its_own_exit_code(folder, capsys, old, new, why):
    changed(folder, old, new)
    assert simulate(folder, "--workers", "1") == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


def test_devices_that_keep_their_own_have_local_scores_and_earn_no_width(folder):
    changed(folder, "coalitions = 4", 'evaluator = "devices"')
    text = (folder / "experiment.toml").read_text()
    text = text.replace("learning_rate = 0.1 }", 'learning_rate = 0.1, private = ["layer.1.*"] }')
    (folder / "experiment.toml").write_text(text)
    assert simulate(folder) == 0
    devices = rows(folder / "out" / "devices.csv")
    assert {row["width"] for row in devices} == {"0.0"}
    assert {row["test_score"] for row in devices} == {""}
    assert all(0 <= float(row["local"]) <= 1 for row in devices if not row["rider"])
    assert "local accuracy" in (folder / "out" / "report.html").read_text()


UNLIKE = """
[[networks]]
model = "mlp"
options = { input_shape = [6], classes = ["a", "b", "c"], hidden = [12, 16] }

[[networks]]
model = "mlp"
options = { input_shape = [6], classes = ["a", "b", "c"], hidden = [16] }
"""


def of_unlike_networks(folder, exchange):
    text = EXPERIMENT.replace('riders = ["zero"]', "").replace(
        "coalitions = 4", 'evaluator = "devices"'
    )
    text = text.replace("widest = [1.0, 0.5]", "").replace(
        "widths = [0.5, 1.0]", f'widths = [1.0]\nexchange = "{exchange}"'
    )
    (folder / "experiment.toml").write_text(text + UNLIKE)


def test_networks_of_unlike_architectures_are_dealt_in_turn(folder):
    of_unlike_networks(folder, "prototypes")
    assert simulate(folder) == 0
    devices = rows(folder / "out" / "devices.csv")
    assert {row["network"] for row in devices} == {"mlp"}
    assert all(0 <= float(row["local"]) <= 1 for row in devices)
    assert {row["score_name"] for row in [json.loads(p.read_text()) for p in results(folder)]} == {
        "local accuracy"
    }
    largest = max(int(row["uploaded_bytes"]) for row in rows(folder / "out" / "rounds.csv"))
    assert largest < 3 * (4 * 3 * 16 + 300)  # three devices, a row of 16 numbers for three classes


def test_an_experiment_of_public_samples_needs_a_share_of_the_data_for_them(folder, capsys):
    of_unlike_networks(folder, "public-scores")
    assert simulate(folder) != 0
    assert "data.pool_share in an experiment" in capsys.readouterr().err
    path = folder / "experiment.toml"
    path.write_text(path.read_text().replace("[data]", "[data]\npool_share = 0.2"))
    assert simulate(folder) == 0
    assert all(0 <= float(row["local"]) <= 1 for row in rows(folder / "out" / "devices.csv"))


def results(folder):
    return sorted((folder / "out").rglob("*devices_seed*.json"))


def test_networks_where_weights_are_exchanged_are_refused(folder, capsys):
    of_unlike_networks(folder, "weights")
    assert simulate(folder) != 0
    assert "devices have networks of their own only where knowledge is" in capsys.readouterr().err
