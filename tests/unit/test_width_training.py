import argparse
import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fashion_mnist, width_training
from benchmarks.errors import BenchmarkError
from benchmarks.fashion_mnist import read_fashion_mnist, read_idx
from benchmarks.results import as_text
from benchmarks.width_training_tables import SeedRun, means_table, ratios, seeds_table

pytestmark = pytest.mark.torch


def idx(array):
    lengths = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


def zipped(content):
    return gzip.compress(content, mtime=0)  # no clock in the names of tests


def write(path, array):
    path.write_bytes(zipped(idx(array)))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 96), ("t10k", 40)):
        labels = rng.integers(10, size=count)
        images = rng.integers(256, size=(count, 28, 28)) // 4 + 15 * labels[:, None, None]
        write(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
    return tmp_path


# --- the files ------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 99))
def test_what_was_written_is_read(tmp_path_factory, shape, seed):
    path = tmp_path_factory.mktemp("idx") / "some.gz"
    array = np.random.default_rng(seed).integers(256, size=shape)
    write(path, array)
    np.testing.assert_array_equal(read_idx(path), array)


def test_images_are_centred_and_each_is_a_recording(folder):
    samples = read_fashion_mnist(folder, "train")
    raw = read_idx(folder / "train-images-idx3-ubyte.gz")
    assert samples.x.shape == (96, 1, 28, 28)
    assert samples.x[3, 0, 5, 7] == pytest.approx((raw[3, 5, 7] / 255 - 0.2860) / 0.3530)
    assert samples.recording.tolist() == list(range(96))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "apt install dataset-fashion-mnist"),
        (b"no gzip", "cannot be read"),
        (zipped(idx(np.zeros((2, 3))))[:-12], "cannot be read"),
        (zipped(b"\x00\x00\x0d\x01"), "no idx file of unsigned bytes"),
        (zipped(b"\x00"), "no idx file"),
        (zipped(idx(np.zeros((2, 3)))[:-1]), "is cut off"),
        (zipped(idx(np.zeros((2, 3)))[:6]), "is cut off"),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_said(tmp_path, content, message):
    path = tmp_path / "some.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BenchmarkError, match=message):
        read_idx(path)


def test_images_and_labels_that_do_not_belong_together_are_refused(folder):
    write(folder / "train-labels-idx1-ubyte.gz", np.zeros(5))
    with pytest.raises(BenchmarkError, match="do not belong together"):
        read_fashion_mnist(folder, "train")


# --- the benchmark --------------------------------------------------------------------------------


@pytest.fixture
def measure(folder, monkeypatch):
    monkeypatch.setattr(width_training, "SUBSET", 64)
    monkeypatch.setattr(width_training, "HELD_BACK", 32)
    monkeypatch.setattr(width_training, "PROBES", 2)
    monkeypatch.setattr(width_training, "PROBE_STEPS", 1)

    def call(*more):
        parser = argparse.ArgumentParser()
        width_training.add_arguments(parser)
        given = ["--data", str(folder), "--seeds", "0", "--epochs", "1", "--batch", "16", *more]
        return width_training.measure(parser.parse_args(given))

    return call


def test_every_width_is_compared_at_about_equal_cpu_time(measure):
    result = measure()
    assert [row[1] for row in result.tables[0].rows] == [0.25, 0.5, 0.75, 1.0]
    [(_, dense_steps, dense_s, steps, _)] = result.tables[2].rows
    assert dense_steps == 4
    assert steps > dense_steps
    assert dense_s > 0
    assert "64 images train, 40 test images measure" in result.notes
    assert "width_training" in as_text(result, {}, "again")


@pytest.mark.parametrize(
    "more",
    [
        ("--rule", "sandwich", "--random-widths", "0"),
        ("--distillation", "0.5"),
        ("--draw-weights", "1,1,1,2"),
    ],
)
def test_other_rules_can_be_compared_on_images_that_are_held_back(measure, more):
    result = measure("--held-back", "--full", *more)
    assert "64 images train, 32 held-back training images measure" in result.notes


def test_numbers_that_no_training_can_use_are_said(measure):
    with pytest.raises(BenchmarkError, match="learning rate -1"):
        measure("--learning-rate", "-1")


def test_data_that_is_not_installed_is_said(measure, tmp_path):
    with pytest.raises(BenchmarkError, match="apt install dataset-fashion-mnist"):
        measure("--data", str(tmp_path / "elsewhere"))


def test_half_a_point_less_is_within_and_more_is_not():
    dense = dict.fromkeys((0.25, 0.5, 0.75, 1.0), 88.0)
    ours = {0.25: 87.5, 0.5: 87.49, 0.75: 88.0, 1.0: 90.0}
    run = SeedRun(0, dense, ours, 10.0, 10.2, 5, 20)
    for table, place in ((seeds_table([run]), 5), (means_table([run]), 4)):
        assert [row[place] for row in table.rows] == ["yes", "NO", "yes", "yes"]
    assert [one.met for one in ratios([run])] == [True, False, True, True, True]


def test_the_reader_knows_the_classes():
    assert len(fashion_mnist.CLASSES) == len(set(fashion_mnist.CLASSES)) == 10
