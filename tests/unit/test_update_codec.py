"""Updates in fewer bits: what they say, what they leave out, and what a forged one can do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.slicing import slice_state
from slimmable.state import StateError, decode_state, encode_state
from slimmable.update_codec import (
    UpdateEncoding,
    decode_change,
    decode_update,
    encode_update,
    encoded_share,
)
from tests.unit.test_aggregation import SPEC, WIDTHS, random_state

FEWER = [one for one in UpdateEncoding if one is not UpdateEncoding.FLOAT32]
SHAPES = {name: SPEC.shape(name, 0.5) for name in SPEC.parameters}
widths, seeds = st.sampled_from(WIDTHS), st.integers(0, 2**32 - 1)


def slices(seed, width, size=1.0):
    """A slice before and after a training that changed it by about ``size``."""
    rng = np.random.default_rng(seed)
    received = slice_state(random_state(rng), SPEC, width)
    trained = {
        name: (array + size * rng.standard_normal(array.shape)).astype(np.float32)
        if name in SPEC.parameters
        else array
        for name, array in received.items()
    }
    return received, trained


def encoded(received, trained, encoding, seed=0, **more):
    rng = np.random.default_rng(seed)
    return encode_update(trained, received, SPEC.parameters, encoding, rng, **more)


def there_and_back(received, trained, width, encoding, **more):
    payload = encoded(received, trained, encoding, **more).payload
    return decode_update(payload, lambda: received, SPEC, width)


@given(seeds, widths)
def test_full_precision_is_the_state_dict_itself(seed, width):
    received, trained = slices(seed, width)
    payload = encoded(received, trained, UpdateEncoding.FLOAT32).payload
    assert payload == encode_state(trained)
    assert decode_change(payload, SPEC, width) is None
    found = decode_update(payload, lambda: received, SPEC, width)
    assert all((found[name] == trained[name]).all() for name in SPEC.tensors)


@pytest.mark.parametrize(
    ("encoding", "relative", "of_largest", "least"),
    [
        (UpdateEncoding.FLOAT16, 2.0**-11, 0.0, 2.0**-25),
        (UpdateEncoding.BFLOAT16, 2.0**-8, 0.0, 0.0),
        (UpdateEncoding.INT8, 0.0, 1 / 127, 0.0),
    ],
)
@given(seed=seeds, width=widths, size=st.sampled_from([1e-4, 1.0, 30.0]))
def test_no_change_is_rounded_by_more_than_the_encoding_allows(
    encoding, relative, of_largest, least, seed, width, size
):
    received, trained = slices(seed, width, size)
    payload = encoded(received, trained, encoding).payload
    change = decode_change(payload, SPEC, width)
    for name in SPEC.parameters:
        true = trained[name] - received[name]
        allowed = relative * np.abs(true) + of_largest * np.abs(true).max() + least
        assert (np.abs(change[name] - true) <= 1.0001 * allowed + 1e-9 * size).all()


@given(seeds, widths, st.sampled_from(FEWER))
def test_who_changes_nothing_says_exactly_nothing(seed, width, encoding):
    received, _ = slices(seed, width)
    found = there_and_back(received, received, width, encoding)
    assert all((found[name] == received[name]).all() for name in SPEC.tensors)


def test_eight_bits_are_right_on_average():
    received, trained = slices(3, 1.0)
    name = SPEC.parameters[0]
    true = trained[name] - received[name]
    said = [
        decode_change(encoded(received, trained, UpdateEncoding.INT8, seed).payload, SPEC, 1.0)
        for seed in range(400)
    ]
    mean = np.mean([one[name] for one in said], axis=0)
    step = np.abs(true).max() / 127
    assert np.abs(mean - true).max() < step / 5
    assert np.abs(said[0][name] - true).max() > step / 5


@given(seeds, widths, st.floats(0.01, 1.0))
def test_the_largest_changes_travel_and_the_rest_is_kept_for_later(seed, width, keep):
    received, trained = slices(seed, width)
    found = encoded(received, trained, UpdateEncoding.TOP_K, keep=keep)
    said = decode_change(found.payload, SPEC, width)
    true = {name: trained[name] - received[name] for name in SPEC.parameters}
    flat = np.concatenate([np.abs(true[name]).ravel() for name in sorted(true)])
    travels = np.concatenate([said[name].ravel() != 0 for name in sorted(true)])
    assert travels.sum() == max(1, round(keep * flat.size))
    if not travels.all():
        assert flat[travels].min() >= flat[~travels].max()
    for name, array in true.items():
        np.testing.assert_allclose(said[name] + found.left[name], array, atol=1e-6)


def test_what_is_left_out_again_and_again_travels_in_the_end():
    received, trained = slices(1, 0.5)
    true = {name: trained[name] - received[name] for name in SPEC.parameters}
    total = {name: np.zeros_like(array) for name, array in true.items()}
    left = {}
    for _ in range(60):
        found = encoded(received, trained, UpdateEncoding.TOP_K, keep=0.2, left=left)
        left = found.left
        for name, said in decode_change(found.payload, SPEC, 0.5).items():
            total[name] += said
    for name, array in true.items():  # on average each round has brought the whole change
        np.testing.assert_allclose(total[name] / 60, array, atol=0.35)


def test_what_was_left_out_of_another_width_is_not_added():
    received, trained = slices(1, 0.5)
    wide = slices(1, 1.0)
    left = encoded(*wide, UpdateEncoding.TOP_K, keep=0.1).left
    alone = encoded(received, trained, UpdateEncoding.TOP_K, keep=0.1)
    names = [name for name in SPEC.parameters if left[name].shape != SHAPES[name]]
    other = {name: left[name] for name in names}
    again = encoded(received, trained, UpdateEncoding.TOP_K, keep=0.1, left=other)
    assert again.payload == alone.payload


@pytest.mark.parametrize("encoding", list(UpdateEncoding))
def test_the_size_is_as_predicted(encoding):
    rng = np.random.default_rng(0)
    trained = {"w": rng.standard_normal((300, 400)).astype(np.float32)}
    received = {"w": np.zeros((300, 400), np.float32)}
    payload = encode_update(trained, received, ["w"], encoding, rng, keep=0.05).payload
    predicted = encoded_share(encoding, 0.05) * len(encode_state(trained))
    assert len(payload) == pytest.approx(predicted, rel=0.02)


# --- forged -------------------------------------------------------------------------------------


def honest(encoding):
    received, trained = slices(5, 0.5)
    return decode_state(encoded(received, trained, encoding).payload)


def top_k(index, value):
    return {"top-k/index": np.array(index, np.uint32), "top-k/value": np.array(value, np.float16)}


COUNT = sum(int(np.prod(shape)) for shape in SHAPES.values())
BIAS = "head.bias"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (top_k([COUNT], [1]), "places that this slice does not have"),
        (top_k([3, 3], [1, 1]), "not in order"),
        (top_k([4, 3], [1, 1]), "not in order"),
        (top_k([1, 2], [1]), "not in order"),
        (top_k([[1, 2]], [[1, 2]]), "not in order"),
        ({**top_k([1], [1]), "top-k/value": np.zeros(1, np.float32)}, "float32, expected float16"),
        ({**top_k([1], [1]), "top-k/index": np.zeros(1, np.int64)}, "int64, expected uint32"),
        ({"float16/nothing": np.zeros(1, np.float16)}, "says nothing of"),
        ({**honest("int8"), f"scale/{BIAS}": np.zeros(2, np.float32)}, "not one number"),
        ({**honest("int8"), f"int8/{BIAS}": np.zeros(9, np.int8)}, "has shape"),
        ({**honest("float16"), f"float16/{BIAS}": np.zeros(4, np.float64)}, "expected float16"),
        ({**honest("float16"), "float16/more": np.zeros(4, np.float16)}, "nothing of this model"),
    ],
)
def test_what_is_no_update_of_the_slice_is_refused(tensors, said):
    with pytest.raises(StateError, match=said):
        decode_change(encode_state(tensors), SPEC, 0.5)


def test_bytes_that_are_no_update_are_refused():
    with pytest.raises(StateError):
        decode_change(b"nothing of the kind", SPEC, 0.5)


@given(st.sampled_from(FEWER), st.data())
def test_garbled_bytes_never_do_more_than_refuse_or_give_the_right_shapes(encoding, data):
    received, trained = slices(5, 0.5)
    payload = bytearray(encoded(received, trained, encoding).payload)
    for _ in range(data.draw(st.integers(1, 6))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        change = decode_change(bytes(payload), SPEC, 0.5)
    except StateError:
        return
    if change is not None:
        assert {name: array.shape for name, array in change.items()} == SHAPES
