import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.samples import Samples, SamplesError, split_recordings, windows


def samples(labels, recordings):
    x = np.arange(len(labels), dtype=np.float32)[:, None]
    return Samples(x, np.array(labels), np.array(recordings))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 1), np.float32), np.zeros(2), "equally many"),
        (np.zeros((0, 1), np.float32), np.zeros(0), "no samples"),
        (np.array([[np.nan]], np.float32), np.zeros(1), "inputs hold NaN"),
        (np.zeros((1, 1), np.float32), np.array([np.inf]), "targets hold NaN"),
        (np.zeros((1, 1), np.float32), np.array(["a"]), "targets hold NaN"),
        (np.zeros((1, 1), np.float64), np.zeros(1), "float64"),
        (np.zeros((1, 1), np.uint8), np.zeros(1), "uint8"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(x, y, message):
    with pytest.raises(SamplesError, match=message):
        Samples(x, y, np.zeros(len(x), np.int64))


def test_samples_are_taken_by_index_by_mask_and_by_recording():
    all_of_them = samples([0, 1, 0, 1], [5, 5, 6, 7])
    assert len(all_of_them) == 4
    assert all_of_them.take(np.array([2, 0])).recording.tolist() == [6, 5]
    assert all_of_them.take(all_of_them.y == 1).recording.tolist() == [5, 7]
    assert all_of_them.in_recordings([5, 7]).x[:, 0].tolist() == [0, 1, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=2, max_size=12))
def test_a_recording_is_never_split_and_both_halves_hold_every_class_they_can(recordings):
    labels = [label for label, count in recordings for _ in range(count)]
    numbers = [n for n, (_, count) in enumerate(recordings) for _ in range(count)]
    calibration, measurement = split_recordings(samples(labels, numbers))
    first, second = set(calibration.recording.tolist()), set(measurement.recording.tolist())
    assert not first & second
    assert first | second == set(range(len(recordings)))
    assert abs(len(first) - len(second)) <= 1
    for label in set(labels):
        if sum(label == other for other, _ in recordings) > 1:
            assert label in calibration.y
            assert label in measurement.y


def test_a_single_recording_cannot_be_split():
    with pytest.raises(SamplesError, match="one recording"):
        split_recordings(samples([0, 0], [3, 3]))


@given(st.integers(1, 40), st.integers(1, 10), st.integers(1, 10))
def test_windows_are_stretches_of_the_signal_a_stride_apart(steps, length, stride):
    signal = np.arange(steps * 2, dtype=np.float64).reshape(steps, 2)
    if length > steps:
        with pytest.raises(SamplesError, match="shorter"):
            windows(signal, length, stride)
        return
    cut = windows(signal, length, stride)
    assert cut.dtype == np.float32
    assert cut.shape[1:] == (2, length)
    assert (len(cut) - 1) * stride + length <= steps < len(cut) * stride + length
    for number, window in enumerate(cut):
        start = number * stride
        np.testing.assert_array_equal(window, signal[start : start + length].T)


@pytest.mark.parametrize(("length", "stride"), [(0, 1), (1, 0), (4, -1)])
def test_windows_without_length_or_stride_are_refused(length, stride):
    with pytest.raises(SamplesError, match="at least 1"):
        windows(np.zeros((9, 1)), length, stride)
