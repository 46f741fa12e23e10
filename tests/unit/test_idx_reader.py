"""Labelled images from a pair of idx files."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.idx_reader import _read_array
from slimmable.readers import read_samples
from slimmable.samples import SamplesError


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + (array.tobytes())
    )


@pytest.fixture
def folder(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3) * 10
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([3, 1, 0, 1], np.uint8)))
    return tmp_path


def test_images_come_as_samples_packed_or_not(folder):
    samples = read_samples(folder, "idx")
    assert samples.x.shape == (4, 1, 2, 3)
    assert samples.x.max() == np.float32(230 / 255)
    np.testing.assert_array_equal(samples.y, [3, 1, 0, 1])
    centred = read_samples(folder, "idx", {"part": "train", "mean": 0.5, "deviation": 2.0})
    np.testing.assert_allclose(centred.x, (samples.x - 0.5) / 2, atol=1e-7)


def test_what_is_no_pair_of_files_is_refused(folder):
    with pytest.raises(SamplesError, match="there is no .*t10k-images"):
        read_samples(folder, "idx", {"part": "t10k"})
    with pytest.raises(SamplesError, match="above 0"):
        read_samples(folder, "idx", {"deviation": 0.0})
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(SamplesError, match="do not belong together"):
        read_samples(folder, "idx")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(SamplesError, match="cannot be unpacked"):
        read_samples(folder, "idx")


@given(st.binary(max_size=40), st.integers(0, 39))
def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path_factory, noise, cut):
    folder = tmp_path_factory.mktemp("idx")
    whole = idx(np.arange(24, dtype=np.uint8).reshape(4, 2, 3))
    for damaged in (noise, whole[:cut]):
        (folder / "a").write_bytes(damaged)
        if damaged != whole:
            try:
                _read_array(folder, "a")
            except SamplesError:
                continue
            assert damaged[:3] == bytes([0, 0, 8])  # noise that happens to be one
