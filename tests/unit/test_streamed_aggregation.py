"""Updates are read in pieces: what is folded is what is defined, and little is held at a time."""

import json
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation import readers as readers_module
from coordinator.aggregation.readers import pieces, readers_of
from coordinator.aggregation.regions import regions
from coordinator.aggregation.rules import MEAN, in_memory, put_together
from coordinator.aggregation.steps import add, combine
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import UpdateFile
from coordinator.settings import Aggregation
from coordinator.step_room import StepRoom
from coordinator.update_file import read_update, stored_change
from journal.blobs import BlobFolder
from journal.errors import BlobMissingError, DamagedFileError
from slimmable.private_parts import shared_spec
from slimmable.slicing import coverage, slice_state
from slimmable.spec import AxisTerm, WidthSpec
from slimmable.state import StateError, decode_state, encode_state, view_state
from slimmable.update_codec import UpdateEncoding, encode_update
from slimmable.width import Axis
from slimmable.window import PREFIX, Window, WindowKind
from tests.unit.test_aggregation import SPEC, WIDTHS, naive, random_state, rounds

RULES = (
    MEAN,
    Aggregation(rule="median"),
    Aggregation(rule="trimmed-mean", trim=0.3),
    Aggregation(clip=1.5),
)
SOME_WINDOWS = (PREFIX, Window(WindowKind.ROLLING, 3), Window(WindowKind.RANDOM, 5))
WINDOWS = st.sampled_from(SOME_WINDOWS)


@given(rounds(), st.sampled_from([1, 5, 64]))
def test_a_fold_in_pieces_of_any_size_is_the_naive_average(given_round, size):
    base, updates = given_round
    with mock.patch.object(readers_module, "PIECE", size):
        found = add(base, put_together(base, SPEC, readers_of(SPEC, updates)).change)
    for name, expected in naive(base, updates).items():
        np.testing.assert_allclose(found[name], expected, atol=2e-5)


@pytest.mark.parametrize("how", RULES)
@given(given_round=rounds())
def test_the_steps_sum_to_the_change_under_every_rule(how, given_round):
    base, updates = given_round
    made = put_together(base, SPEC, readers_of(SPEC, updates), how, in_memory)
    nothing = {name: np.zeros_like(array) for name, array in base.items()}
    summed = combine(nothing, SPEC, made.steps)
    assert [step.device for step in made.steps] == sorted(one.device for one in updates)
    for name in SPEC.parameters:
        np.testing.assert_allclose(made.change[name], summed[name], atol=2e-5)


@pytest.mark.parametrize("how", RULES)
@given(given_round=rounds())
def test_asking_for_steps_changes_not_a_bit_of_the_aggregate(how, given_round):
    base, updates = given_round
    changes = readers_of(SPEC, updates)
    plain = put_together(base, SPEC, changes, how)
    asked = put_together(base, SPEC, changes, how, in_memory)
    assert plain.steps == ()
    assert all((plain.change[name] == asked.change[name]).all() for name in SPEC.parameters)


@given(
    st.lists(st.tuples(st.sampled_from(WIDTHS), WINDOWS), min_size=1, max_size=5, unique=True),
    st.sampled_from(SPEC.parameters),
)
def test_regions_cover_what_is_held_once_each_with_all_that_hold_it(places, name):
    shape = SPEC.shape(name, 1.0)
    seen = np.zeros(shape, np.int64)
    holders = np.full(shape, frozenset(), object)
    for where, inside in regions(SPEC, name, places):
        seen[where] += 1
        for at in np.ndindex(holders[where].shape):
            part = holders[where]
            part[at] = frozenset(inside)
            holders[where] = part
    for at in np.ndindex(shape):
        expected = frozenset(
            place
            for place in places
            if all(i in kept for i, kept in zip(at, SPEC.indices(name, *place), strict=True))
        )
        assert holders[at] == expected
        assert seen[at] == bool(expected)


@given(st.sampled_from(WIDTHS), WINDOWS, st.sampled_from(SPEC.parameters), st.integers(1, 40))
def test_pieces_are_the_slice_in_its_order(width, window, name, size):
    full = np.arange(np.prod(SPEC.shape(name, 1.0)), dtype=np.float32)
    full = full.reshape(SPEC.shape(name, 1.0))
    with mock.patch.object(readers_module, "PIECE", size):
        parts = list(pieces(SPEC, name, (width, window)))
    read = []
    for part in parts:
        out = np.empty(part.stop - part.start, np.float32)
        part.of(full, out)
        read.append(out)
    expected = full[coverage(SPEC, name, width, window)].ravel()
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert np.concatenate(read).tolist() == expected.tolist()


@pytest.mark.parametrize("how", RULES)
def test_a_parameter_that_is_one_number_is_put_together_too(how):
    spec = WidthSpec(axes=(Axis(2, scales=True),), tensors={"scale": (), "w": (AxisTerm(0),)})
    base = {"scale": np.array(1.0, np.float32), "w": np.zeros(2, np.float32)}
    updates = [
        DeviceUpdate("a", 0.5, {"scale": np.float32(2).reshape(()), "w": np.float32([3])}),
        DeviceUpdate("b", 1.0, {"scale": np.float32(4).reshape(()), "w": np.float32([3, 4])}),
    ]
    made = put_together(base, spec, readers_of(spec, updates), how, in_memory)
    assert made.change["scale"].shape == ()
    if not how.clip:
        assert float(made.change["scale"]) == 2.0
        assert made.change["w"].tolist() == [3.0, 4.0]
        assert [float(step.change["scale"]) for step in made.steps] == [0.5, 1.5]


# --- from files -----------------------------------------------------------------------------------


@pytest.fixture
def blobs(tmp_path):
    return BlobFolder(tmp_path / "blobs")


def stored(blobs, base, updates, encodings, seed=0):
    rng = np.random.default_rng(seed)
    files = []
    for number, one in enumerate(updates):
        received = slice_state(base, SPEC, *one.place)
        encoding = encodings[number % len(encodings)]
        payload = encode_update(
            one.state, received, SPEC.parameters, encoding, rng, keep=0.3
        ).payload
        files.append(
            UpdateFile(one.device, one.width, blobs.put(payload), one.weight, window=one.window)
        )
    return files


@pytest.mark.parametrize(
    "window", [PREFIX, Window(WindowKind.ROLLING, 3), Window(WindowKind.RANDOM, 5)]
)
@pytest.mark.parametrize("encoding", list(UpdateEncoding))
def test_a_stored_update_of_any_encoding_says_in_pieces_what_it_says_whole(blobs, encoding, window):
    rng = np.random.default_rng(1)
    base = random_state(rng)
    update = DeviceUpdate("a", 0.5, random_state(rng, 0.5), 1.0, window)
    [file] = stored(blobs, base, [update], [encoding])
    whole = read_update(blobs, SPEC, base, file)
    change = stored_change(blobs, SPEC, file)
    assert change.place == (0.5, window)
    for name in SPEC.parameters:
        received = base[name][coverage(SPEC, name, 0.5, window)]
        flat = np.ascontiguousarray(received).reshape(-1)
        expected = (whole.state[name] - received).ravel()
        for size in (1, 3, flat.size):
            for start in range(0, flat.size, size):
                stop = min(start + size, flat.size)
                out = np.full(stop - start, np.nan, np.float32)
                change.into(name, start, stop, flat[start:stop], out)
                np.testing.assert_allclose(out, expected[start:stop], atol=1e-6)


@pytest.mark.parametrize("private", [(), ("skip.*", "head.bias")])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("encoding", list(UpdateEncoding))
def test_a_late_or_partly_private_update_is_read_in_pieces_as_it_is_whole(
    blobs, encoding, late, private
):
    rng = np.random.default_rng(8)
    base, older = random_state(rng), random_state(rng)
    travels = shared_spec(SPEC, private)
    own = slice_state(older if late else base, SPEC, 0.5)
    received = {name: own[name] for name in travels.tensors}
    trained = {name: received[name] + np.float32(0.1) for name in received}
    payload = encode_update(trained, received, travels.parameters, encoding, rng, keep=0.3).payload
    file = UpdateFile("a", 0.5, blobs.put(payload), 1.0)
    if late:
        older_digest = blobs.put(encode_state(older))
        file = replace(file, base=older_digest, round=3, staleness=1, factor=0.25)
    whole = read_update(blobs, SPEC, base, file, private)
    change = stored_change(blobs, SPEC, file, private)
    assert change.device == file.player
    found = add(base, put_together(base, SPEC, [change]).change)
    for name in SPEC.parameters:
        cut = found[name][coverage(SPEC, name, 0.5)]
        np.testing.assert_allclose(cut, whole.state[name], atol=1e-6)
        if name not in travels.parameters:
            assert (found[name] == base[name]).all()


def test_encodings_that_a_device_mixes_are_read_as_they_were_accepted(blobs):
    rng = np.random.default_rng(2)
    base = random_state(rng)
    names = list(SPEC.parameters)
    tensors = {}
    for name, encoding in zip(names, ("float16", "bfloat16", "int8", "float16"), strict=True):
        change = rng.standard_normal(SPEC.shape(name, 1.0)).astype(np.float32)
        made = encode_update({name: change}, {name: np.zeros_like(change)}, [name], encoding, rng)
        tensors |= decode_state(made.payload)
    file = UpdateFile("a", 1.0, blobs.put(encode_state(tensors)), 1.0)
    whole = read_update(blobs, SPEC, base, file)
    found = add(base, put_together(base, SPEC, [stored_change(blobs, SPEC, file)]).change)
    for name in names:
        np.testing.assert_allclose(found[name], whole.state[name], atol=1e-6)


@pytest.mark.parametrize("how", RULES)
def test_stored_updates_give_what_the_same_ones_in_memory_give(blobs, how):
    rng = np.random.default_rng(3)
    base = random_state(rng)
    updates = [
        DeviceUpdate(f"d{n}", width, random_state(rng, width), 1.0 + n)
        for n, width in enumerate(WIDTHS)
    ]
    files = stored(blobs, base, updates, [UpdateEncoding.FLOAT32])
    read = [stored_change(blobs, SPEC, file) for file in files]
    ours = put_together(base, SPEC, read, how, in_memory)
    theirs = put_together(base, SPEC, readers_of(SPEC, updates), how, in_memory)
    for name in SPEC.parameters:
        assert (ours.change[name] == theirs.change[name]).all()
        for one, other in zip(ours.steps, theirs.steps, strict=True):
            assert (one.change[name] == other.change[name]).all()


@pytest.mark.parametrize("how", RULES)
@pytest.mark.parametrize("count", [2, 20])
def test_no_more_than_a_piece_of_one_update_is_decoded_at_a_time(how, count):
    """Whatever the number of updates, a reader is asked for a few entries, one after the other."""
    rng = np.random.default_rng(4)
    base = random_state(rng)
    updates = [DeviceUpdate(f"d{n:02d}", 1.0, random_state(rng)) for n in range(count)]
    largest, open_now = [], []

    class Counted:
        def __init__(self, parts):
            self._parts = parts

        def change(self, name, start, stop, received, out):
            assert not open_now
            open_now.append(name)
            largest.append(stop - start)
            self._parts.change(name, start, stop, received, out)
            open_now.pop()

    given_changes = [
        readers_module.ChangeReader(one.device, one.width, Counted(one.parts), one.weight)
        for one in readers_of(SPEC, updates)
    ]
    with (
        mock.patch.object(readers_module, "PIECE", 4),
        mock.patch("coordinator.aggregation.trimmed_mean.CHUNK", 4 * count),
    ):
        put_together(base, SPEC, given_changes, how)
    # A row is the least that is read: the widest has 16 entries.
    assert max(largest) <= 16
    assert len(largest) >= count * len(SPEC.parameters)


def test_a_blob_that_changed_on_the_disk_is_not_averaged(blobs):
    rng = np.random.default_rng(5)
    base = random_state(rng)
    [file] = stored(blobs, base, [DeviceUpdate("a", 1.0, random_state(rng))], ["float32"])
    path = blobs.folder / file.digest
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError):
        stored_change(blobs, SPEC, file)
    path.unlink()
    with pytest.raises(BlobMissingError, match="fetch or build it again"):
        stored_change(blobs, SPEC, file)


def test_an_empty_blob_is_mapped_as_nothing(blobs):
    assert bytes(blobs.mapped(blobs.put(b""))) == b""


# --- views of safetensors -------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(
            st.sampled_from(["f4", "f2", "f8", "i1", "u2", "u4", "i8", "?"]),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=5,
    )
)
def test_a_view_holds_what_decoding_gives(shapes):
    rng = np.random.default_rng(6)
    state = {
        name: rng.integers(0, 2, shape).astype(kind)
        for name, (kind, shape) in shapes.items()
        if name != "__metadata__"
    }
    payload = encode_state(state)
    viewed, decoded = view_state(payload), decode_state(payload)
    assert viewed.keys() == decoded.keys()
    for name, array in decoded.items():
        assert viewed[name].dtype == array.dtype
        assert viewed[name].shape == array.shape
        assert (viewed[name] == array).all()
        assert not viewed[name].flags.writeable


def header(said):
    text = json.dumps(said).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 20,
        header([]),
        header({"a": 1}),
        header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}),
        header({"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        header({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}),
        header({"a": {"dtype": "F32", "shape": [1]}}),
    ],
)
def test_bytes_that_are_no_state_are_refused(payload):
    with pytest.raises(StateError, match="not a safetensors state dict"):
        view_state(payload)


# --- room for steps -------------------------------------------------------------------------------


def test_steps_beyond_the_limit_lie_in_a_file_without_a_name(tmp_path):
    room = StepRoom(tmp_path, limit=100)
    shapes = [(5,), (), (4, 5), (0, 3), (100,), (2, 2)]
    arrays = [room(shape) for shape in shapes]
    assert [array.shape for array in arrays] == shapes
    assert all(array.dtype == np.float32 and not array.any() for array in arrays)
    for number, array in enumerate(arrays):
        array[...] = number + 1
    assert [set(array.ravel().tolist()) for array in arrays] == [
        {n + 1.0} if array.size else set() for n, array in enumerate(arrays)
    ]
    assert room.in_file > 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_grows_by_slabs_and_a_large_array_gets_one_of_its_own(tmp_path):
    with mock.patch("coordinator.step_room.SLAB", 1024):
        room = StepRoom(tmp_path, limit=0)
        small = [room((10,)) for _ in range(16)]
        assert room.in_file == 1024
        large = room((1000,))
        assert room.in_file == 1024 + 4000
    large[:] = 1.0
    assert not any(array.any() for array in small)


@pytest.mark.parametrize("how", RULES)
def test_where_steps_lie_changes_not_a_bit(tmp_path, how):
    rng = np.random.default_rng(7)
    base = random_state(rng)
    updates = [
        DeviceUpdate(f"d{n}", width, random_state(rng, width)) for n, width in enumerate(WIDTHS)
    ]
    changes = readers_of(SPEC, updates)
    room = StepRoom(tmp_path, limit=0)
    filed = put_together(base, SPEC, changes, how, room).steps
    held = put_together(base, SPEC, changes, how, in_memory).steps
    assert room.in_file
    for one, other in zip(filed, held, strict=True):
        assert all((one.change[n] == other.change[n]).all() for n in SPEC.parameters)
