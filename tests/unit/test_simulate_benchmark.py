"""The benchmark of the simulator: what is compared is comparable, and what fails says why."""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from benchmarks import peer_environment, simulate
from benchmarks.errors import BenchmarkError
from benchmarks.fashion_mnist import CLASSES
from benchmarks.simulate import FLOWER, OURS, POOL, TUNED, Played, write_experiment
from benchmarks.watched_run import watch
from slimmable.samples import Samples

ARGUMENTS = argparse.Namespace(
    samples=40,
    clients=4,
    rounds=2,
    repeats=1,
    crowd=0,
    crowd_only=False,
    folder=Path("nowhere"),
    cache=Path("none"),
)


def images(count):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 1, 28, 28)).astype(np.float32)
    return Samples(x, rng.integers(0, 10, count), np.arange(count))


def given_images(monkeypatch, count=50):
    monkeypatch.setattr(simulate, "read_fashion_mnist", lambda _folder, _part: images(count))


def peers_task():
    """Import the module of the peers, which stands outside of our packages."""
    spec = importlib.util.spec_from_file_location("peers_task", simulate.PEERS / "task.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def played(total, warm):
    return Played(total=total, first=3.0, warm=warm, cpu=1.0, peak=1e9, accuracy=0.8)


def test_every_client_gets_as_many_images_and_no_image_goes_to_two(monkeypatch, tmp_path):
    given_images(monkeypatch)
    write_experiment(tmp_path / "experiment.npz", ARGUMENTS)
    with np.load(tmp_path / "experiment.npz") as arrays:
        assert arrays["shards"].shape == (4, 10)
        assert len(np.unique(arrays["shards"])) == 40 == len(arrays["x"])
        assert len({x.tobytes() for x in arrays["x"]}) == 40


def test_more_images_than_there_are_is_an_error_in_words(monkeypatch, tmp_path):
    given_images(monkeypatch, count=30)
    with pytest.raises(BenchmarkError, match="40 of 30 images for 4 clients"):
        write_experiment(tmp_path / "experiment.npz", ARGUMENTS)


def test_the_crowd_alone_needs_no_images_and_no_peer():
    alone = argparse.Namespace(**{**vars(ARGUMENTS), "crowd_only": True, "crowd": 3})
    found = simulate.measure(alone)
    (table,) = found.tables
    assert [events for _, _, events, _ in table.rows[:2]] == [13, 13]
    assert [ratio.at_most for ratio in found.ratios] == [None]
    with pytest.raises(BenchmarkError, match="--crowd-only needs devices"):
        simulate.measure(argparse.Namespace(**{**vars(alone), "crowd": 0}))


def test_one_round_has_no_warm_round():
    with pytest.raises(BenchmarkError, match="--rounds must be at least 2"):
        simulate.measure(argparse.Namespace(**{**vars(ARGUMENTS), "rounds": 1}))


@pytest.mark.torch
def test_peers_and_simulator_train_the_same_network_by_the_same_rule():
    from benchmarks.fairness.network import cnn
    from benchmarks.simulate_ours import settings_for

    task, ours = peers_task(), cnn(classes=CLASSES)
    theirs = sorted(tuple(tensor.shape) for tensor in task.network().parameters())
    assert theirs == sorted(ours.spec.shape(name, 1.0) for name in ours.spec.parameters)
    assert sum(int(np.prod(shape)) for shape in theirs) == 105_866
    training = settings_for(5, 1000).training
    assert (training.learning_rate, training.momentum, training.batch_size) == (
        task.RATE,
        task.MOMENTUM,
        task.BATCH,
    )
    assert training.steps * training.batch_size >= 1000


def test_without_flower_the_rest_is_measured_and_the_reason_stands_in_one_line(
    monkeypatch, tmp_path
):
    given_images(monkeypatch)
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution\n")
    monkeypatch.setattr(peer_environment.venv, "create", mock.Mock())
    monkeypatch.setattr(peer_environment.subprocess, "run", mock.Mock(return_value=failed))
    monkeypatch.setattr(simulate, "_play", lambda *_: played(9.0, 1.0))
    given = argparse.Namespace(**{**vars(ARGUMENTS), "cache": tmp_path})
    result = simulate.measure(given)
    assert result.notes[0] == "flower-1.41.0 cannot be installed: ERROR: No matching distribution"
    assert [row[0] for row in result.tables[0].rows] == [OURS, POOL]
    assert {ratio.limit_name for ratio in result.ratios} == {POOL}


def test_an_installed_peer_is_not_installed_again(monkeypatch, tmp_path):
    done = subprocess.CompletedProcess([], 0, "", "")

    def create(home, **_):
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (home / "lib" / version / "site-packages").mkdir(parents=True)

    install = mock.Mock(return_value=done)
    monkeypatch.setattr(peer_environment.venv, "create", create)
    monkeypatch.setattr(peer_environment.subprocess, "run", install)
    first = peer_environment.peer_python(tmp_path, "peer", ["peer==1"])
    assert peer_environment.peer_python(tmp_path, "peer", ["peer==1"]) == first
    assert install.call_count == 1


def test_a_peer_borrows_from_the_environment_that_runs_today(monkeypatch, tmp_path):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    monkeypatch.setattr(
        peer_environment.venv,
        "create",
        lambda home, **_: (home / "lib" / version / "site-packages").mkdir(parents=True),
    )
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(peer_environment.subprocess, "run", mock.Mock(return_value=done))
    for ours in ("an-old-clone", "here"):
        monkeypatch.setattr(peer_environment.sysconfig, "get_path", lambda _kind, ours=ours: ours)
        python = peer_environment.peer_python(tmp_path, "peer", ["peer==1"])
    [borrowed] = python.parent.parent.rglob("zz-borrowed.pth")
    assert borrowed.read_text() == "here\n"


def test_ratios_are_of_runs_of_the_same_turn_and_held_against_the_goals():
    found = {
        OURS: [played(8.0, 0.9), played(16.0, 1.8)],
        FLOWER: [played(25.0, 2.0), played(50.0, 4.0)],
        TUNED: [played(20.0, 1.5), played(40.0, 3.0)],
        POOL: [played(9.0, 0.8), played(18.0, 1.6)],
    }
    ratios = list(simulate._ratios(found, 0, []))
    met = {(ratio.limit_name, ratio.name.split(",")[0]): ratio.met for ratio in ratios}
    assert met[FLOWER, "total"] is True
    assert met[FLOWER, "warm round"] is True
    assert met[POOL, "warm round"] is False
    assert met[TUNED, "total"] is None
    assert ratios[0].measured == pytest.approx(0.32)


def test_a_watched_program_is_timed_with_its_children(tmp_path):
    child = "import time; block = bytearray(60_000_000); time.sleep(0.6)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run = watch([sys.executable, "-c", parent], {}, tmp_path, limit_s=30.0)
    assert run.peak > 60_000_000
    assert run.wall > 0.6


def test_a_program_that_fails_is_an_error_with_its_last_line(tmp_path):
    with pytest.raises(BenchmarkError, match="nothing to do here"):
        watch([sys.executable, "-c", "raise SystemExit('nothing to do here')"], {}, tmp_path, 30.0)


def test_a_program_that_takes_too_long_is_ended(tmp_path):
    program = "import time; print('still here', flush=True); time.sleep(60)"
    with pytest.raises(BenchmarkError, match="still here"):
        watch([sys.executable, "-c", program], {}, tmp_path, limit_s=0.5)


def test_what_is_trained_more_than_by_the_peers_is_said_and_where_nothing_is_too():
    said = simulate._batches(1000)
    assert "every program takes 16 steps a client and round" in said
    assert "1024 samples (2.4% more work), where the others' last batch has 40" in said
    assert simulate._batches(1024) == (
        "every program takes 16 steps of 64 samples a client and round"
    )
