import io
import zipfile
from itertools import groupby
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slimmable import readers
from slimmable.readers import read_samples
from slimmable.samples import Samples, SamplesError

TABLE = """\
temp,load,run,label
1,2,a,ok
3,4,a,ok
5,6,b,worn
7,8,b,worn
"""
STATES = {"recording": "run", "classes": ["ok", "worn"]}


@pytest.fixture
def write(tmp_path):
    def writer(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return writer


def refused(path, reader, message, **options):
    with pytest.raises(SamplesError, match=message) as caught:
        read_samples(path, reader, options)
    assert "\n" not in str(caught.value)


# CSV


def test_each_row_is_a_sample(write):
    samples = read_samples(write(TABLE), "csv", STATES)
    assert samples.x.dtype == np.float32
    assert samples.x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert samples.y.tolist() == [0, 0, 1, 1]
    assert samples.recording.tolist() == [0, 0, 1, 1]


def test_without_a_recording_column_each_row_is_a_recording(write):
    samples = read_samples(write("label,a\n2,0.5\n0,1e-3\n"), "csv")
    assert samples.y.tolist() == [2, 0]
    assert samples.recording.tolist() == [0, 1]


def test_columns_are_chosen_by_name_and_order(write):
    samples = read_samples(write(TABLE), "csv", {**STATES, "features": ["load", "temp"]})
    assert samples.x[0].tolist() == [2, 1]


def test_a_regression_reads_values_and_a_reconstruction_needs_none(write):
    path = write(TABLE.replace("ok", "0.5").replace("worn", "-1"))
    values = read_samples(path, "csv", {"task": "regression", "recording": "run"})
    assert values.y.dtype == np.float32
    assert values.y.tolist() == [0.5, 0.5, -1, -1]
    both = read_samples(
        path, "csv", {"task": "regression", "label": ["load", "label"], "recording": "run"}
    )
    assert both.x.tolist() == [[1], [3], [5], [7]]
    assert both.y[0].tolist() == [2, 0.5]
    again = read_samples(path, "csv", {"task": "reconstruction", "features": ["temp", "load"]})
    np.testing.assert_array_equal(again.x, again.y)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1, 9)), min_size=1),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_a_window_never_crosses_a_recording_or_a_label(stretches, window, stride):
    rows = [(run, label) for run, label, count in stretches for _ in range(count)]
    text = "run,label,t\n" + "".join(f"{r},{label},{t}\n" for t, (r, label) in enumerate(rows))
    path = mock.Mock(is_dir=lambda: False, open=lambda **_: io.StringIO(text))
    options = {"recording": "run", "window": window, "stride": stride}
    longest = max(len(list(group)) for _, group in groupby(rows))
    if longest < window:
        refused(path, "csv", "shorter window", **options)
        return
    samples = read_samples(path, "csv", options)
    assert samples.x.shape[1:] == (1, window)
    for x, y, number in zip(samples.x, samples.y, samples.recording, strict=True):
        times = x[0].astype(int)
        assert (np.diff(times) == 1).all()
        assert {rows[t][1] for t in times} == {y}
        runs = list(dict.fromkeys(run for run, _ in rows))
        assert {rows[t][0] for t in times} == {runs[number]}


def test_a_window_of_a_regression_takes_the_value_of_its_last_row(write):
    rows = "".join(f"{t},{10 * t}\n" for t in range(6))
    path = write("t,label\n" + rows)
    samples = read_samples(path, "csv", {"task": "regression", "window": 4})
    assert samples.y.tolist() == [30, 50]
    again = read_samples(path, "csv", {"task": "reconstruction", "window": 2})
    assert again.x.shape == (5, 2, 2)
    np.testing.assert_array_equal(again.x, again.y)


def test_a_folder_of_files_is_one_recording_a_file(tmp_path, write):
    write("label,a\n0,1\n0,2\n", "one.csv")
    write("label,a\n1,3\n", "two.CSV")
    write("no table", "notes.txt")
    samples = read_samples(tmp_path, "csv")
    assert samples.x[:, 0].tolist() == [1, 2, 3]
    assert samples.recording.tolist() == [0, 0, 1]


def test_a_folder_of_files_must_agree_on_columns(tmp_path, write):
    refused(tmp_path, "csv", "no file that ends in .csv")
    write("label,a\n0,1\n", "one.csv")
    write("label,b\n0,1\n", "two.csv")
    refused(tmp_path, "csv", r"two\.csv: columns \['b'\] differ from \['a'\] of .*one\.csv")


def test_spreadsheet_habits_are_understood(write):
    path = write("\ufefflabel; a \r\n1; 2.5\r\n\r\n0;3\r\n")
    samples = read_samples(path, "csv", {"delimiter": ";"})
    assert samples.x.tolist() == [[2.5], [3]]
    assert samples.y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, r"data\.csv:1: no column 'label'; the header names \[\]"),
        ("label,a\n", {}, r"data\.csv holds no rows"),
        ("a,b\n1,2\n", {}, r":1: no column 'label'"),
        ("label;a\n1;2\n", {}, "delimiter"),
        ("label\n1\n", {}, "no input column is left"),
        ("label,a,a\n1,2,3\n", {}, "stands twice"),
        ("label,a\n1,2\n1\n", {}, r":3: 1 values, the header has 2"),
        ("label,a\n1,2\n1,2,3\n", {}, r":3: 3 values, the header has 2"),
        ("label,a\n1,two\n", {}, r":2: a is 'two', not a number"),
        ("label,a\n1,\n", {}, r":2: a is '', not a number"),
        ("label,a\n1,nan\n", {}, r":2: a is 'nan', not a number"),
        ("label,a\n1,1e39\n", {}, r":2: a is '1e39', not a number"),
        ("label,a\nok,1\n", {}, r":2: label is 'ok', not a class number; name the classes"),
        ("label,a\n-1,1\n", {}, r":2: label is '-1', not a class number"),
        ("label,a\nok,1\n", {"classes": ["worn"]}, r":2: label is 'ok', not one of the classes"),
        ("label,a\nx,1\n", {"task": "regression"}, r":2: label is 'x', not a number"),
        ("label,a\n1,2\n", {"recording": "run"}, r":1: no column 'run'"),
        ("label,a\n1,2\n", {"window": 2}, "choose a shorter window"),
        ("label,a\n1,2\n", {"window": 0}, "at least 1"),
        ("label,a\n1,2\n", {"task": "guessing"}, "guessing"),
        ("label,a\n1,2\n", {"label": ["label", "a"]}, "exactly one"),
        ("label,a\n1,2\n", {"label": [], "task": "regression"}, "at least one"),
        ("label,a\n1,2\n", {"colour": 1}, "colour"),
        ("label,a\n1,2\n", {"delimiter": ""}, "delimiter"),
        (b"label,a\n1,\xff\n", {}, "not a CSV file in UTF-8"),
        (b"label,a\n1,\0\n", {}, r"csv"),
    ],
)
def test_a_table_that_cannot_be_used_is_explained_in_one_line(write, text, options, message):
    refused(write(text), "csv", message, **options)


@given(st.text(alphabet='a1,;"\n\r\t.-', max_size=40))
def test_a_garbled_table_is_refused_or_read_and_nothing_else(text):
    path = mock.Mock(is_dir=lambda: False, open=lambda **_: io.StringIO(text, newline=""))
    try:
        samples = read_samples(path, "csv", {"label": "a"})
    except SamplesError:
        return
    assert np.isfinite(samples.x).all()


# Images


@pytest.fixture
def image_folder(tmp_path):
    for name, shade in (("bad", 0), ("good", 255)):
        (tmp_path / name).mkdir()
        for number in range(2):
            image = Image.new("RGB", (4, 3), (shade, shade, shade))
            image.putpixel((1, 0), (255, 0, 0))
            image.save(tmp_path / name / f"{number}.png")
    (tmp_path / "bad" / ".hidden.png").write_bytes(b"")
    (tmp_path / "bad" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_a_folder_of_images_is_read_class_by_class(image_folder):
    samples = read_samples(image_folder, "images")
    assert samples.x.shape == (4, 1, 3, 4)
    assert samples.x.dtype == np.float32
    assert samples.y.tolist() == [0, 0, 1, 1]
    assert samples.recording.tolist() == [0, 1, 2, 3]
    assert samples.x[0, 0, 2, 2] == 0
    assert samples.x[3, 0, 2, 2] == 1


def test_colour_comes_first(image_folder):
    samples = read_samples(image_folder, "images", {"color": True})
    assert samples.x.shape == (4, 3, 3, 4)
    assert samples.x[0, :, 0, 1].tolist() == [1, 0, 0]


def test_images_are_resized_to_height_and_width(image_folder):
    assert read_samples(image_folder, "images", {"size": [6, 8]}).x.shape == (4, 1, 6, 8)


def test_the_models_order_of_classes_decides_the_labels(image_folder):
    options = {"classes": ["good", "unseen here", "bad"]}
    assert read_samples(image_folder, "images", options).y.tolist() == [0, 0, 2, 2]
    refused(image_folder, "images", "bad is not one of the classes", classes=["good"])


def test_images_of_different_sizes_need_a_size(image_folder):
    Image.new("L", (5, 3)).save(image_folder / "good" / "9.png")
    refused(image_folder, "images", r"9\.png has 3 x 5 pixels.*give the option size")


def test_more_than_eight_bits_are_not_cut_off(image_folder):
    Image.fromarray(np.full((3, 4), 4000, np.uint16)).save(image_folder / "bad" / "deep.png")
    refused(image_folder, "images", r"deep\.png has more than 8 bits")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"not an image" * 20])
def test_a_broken_image_is_named(image_folder, content):
    (image_folder / "good" / "broken.png").write_bytes(content)
    refused(image_folder, "images", r"broken\.png cannot be read as an image")


def test_a_truncated_image_is_named(image_folder):
    whole = (image_folder / "good" / "0.png").read_bytes()
    (image_folder / "good" / "cut.png").write_bytes(whole[:-30])
    refused(image_folder, "images", r"cut\.png cannot be read as an image")


def test_a_folder_without_images_is_explained(tmp_path):
    refused(tmp_path, "images", "holds no images")
    refused(tmp_path / "absent", "images", "is not a folder")


# npz


def test_an_archive_of_arrays_is_read(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(6).reshape(3, 2), y=np.array([0, 1, 1]), recording=[4, 4, 5])
    samples = read_samples(path, "npz")
    assert samples.x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (samples.x.dtype, samples.y.dtype) == (np.float32, np.int64)
    assert samples.recording.tolist() == [4, 4, 5]


def test_an_archive_without_targets_is_for_reconstruction(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((3, 2)))
    samples = read_samples(path, "npz")
    np.testing.assert_array_equal(samples.x, samples.y)
    assert samples.recording.tolist() == [0, 1, 2]


def test_a_pickle_in_an_archive_is_not_opened(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    refused(path, "npz", "not an .npz file of plain arrays")


def test_archives_that_hold_something_else_are_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.ones(3))
    refused(path, "npz", "no array 'x'")
    np.savez(path, x=np.array(["a"]))
    refused(path, "npz", "an array of numbers is needed")
    np.savez(path, x=np.ones((3, 1)), y=np.ones(2))
    refused(path, "npz", "equally many")
    np.savez(path, x=np.ones((3, 1)), recording=np.ones(3))
    refused(path, "npz", "integers are needed")
    np.savez(path, x=np.full((3, 1), 1e300))
    refused(path, "npz", "inputs hold NaN, infinity")
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    refused(path, "npz", "not an .npz file")
    refused(tmp_path / "absent.npz", "npz", "cannot read .*absent.npz: No such file")


@given(data=st.data())
def test_a_garbled_archive_is_refused_or_read_and_nothing_else(data, tmp_path_factory):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.ones((3, 2), np.float32))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "garbled.npz"
    path.write_bytes(bytes(content))
    try:
        read_samples(path, "npz")
    except SamplesError:
        return
    assert zipfile.is_zipfile(path)


# Readers of the user's own


def plant_samples(path, *, count=2):
    return Samples(np.zeros((count, 1), np.float32), np.zeros(count, np.int64), np.arange(count))


@pytest.fixture
def users_module(monkeypatch):
    module = ModuleType("plant_readers")
    module.press = plant_samples
    module.nothing = lambda path: None
    module.number = 3
    monkeypatch.setitem(readers.importlib.sys.modules, "plant_readers", module)
    return module


def test_a_users_reader_is_loaded_by_the_name_of_its_function(users_module, tmp_path):
    assert len(read_samples(tmp_path, "plant_readers:press", {"count": 5})) == 5


def test_a_users_reader_is_loaded_from_an_entry_point(tmp_path):
    entry = mock.Mock(load=lambda: plant_samples)
    entry.name = "press"
    with mock.patch.object(readers, "entry_points", return_value=[entry]):
        assert len(read_samples(tmp_path, "press")) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("parquet", r"no reader 'parquet': use one of \['csv', 'idx', 'images', 'npz'\]"),
        ("plant_readers:pump", "has no attribute 'pump'"),
        ("no_such_package:pump", "No module named"),
        ("plant_readers:number", "a function is needed"),
        ("plant_readers:nothing", "returned NoneType, not Samples"),
    ],
)
def test_a_reader_that_is_not_there_is_explained(users_module, tmp_path, name, message):
    refused(tmp_path, name, message)
