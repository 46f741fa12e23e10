"""What the command line makes of a model's name and of the shape of its input."""

import argparse
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.model import ModelError, ModelInput
from slimmable.model_source import (
    add_model_arguments,
    input_shapes,
    load_from_arguments,
    width_list,
)
from slimmable.task import TaskKind

SHAPES = st.lists(st.integers(1, 2000), min_size=1, max_size=5).map(tuple)
INPUTS = st.lists(st.builds(ModelInput, SHAPES, st.sampled_from(["float32", "int64"])), min_size=1)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_model_arguments(parser, positional=True)
    return parser.parse_args(words)


@given(INPUTS)
def test_input_shapes_are_read_as_they_are_written(inputs):
    text = ";".join(
        ",".join(map(str, (1, *one.shape))) + (":int64" if one.dtype == "int64" else "")
        for one in inputs
    )
    assert input_shapes(text) == tuple(inputs)


@given(st.text(max_size=20))
def test_any_other_text_is_refused_with_an_example(text):
    try:
        said = input_shapes(text)
    except argparse.ArgumentTypeError as error:
        said = str(error)
    assert isinstance(said, tuple) or "such as 1,3,32,32" in said


@pytest.mark.parametrize("text", ["8", "1,", "1,0", "0,3", "1,3:float16", "a,b", "", "1,3;"])
def test_a_shape_without_batch_or_with_an_impossible_length_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        input_shapes(text)


def test_widths_come_back_ascending_and_once():
    assert width_list("1.0,0.25,0.5,0.25") == (0.25, 0.5, 1.0)


@pytest.mark.parametrize("text", ["0,1", "1.5", "nan", "half", ""])
def test_a_width_outside_what_a_network_has_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        width_list(text)


def test_a_built_in_model_needs_its_name_and_options_alone():
    arguments = parse("mlp", "--options", '{"input_shape": [4], "classes": ["a", "b"]}')
    assert load_from_arguments(arguments).input_shape == (4,)


def test_a_built_in_model_refuses_another_input_shape():
    words = ("mlp", "--options", '{"input_shape": [4], "classes": ["a", "b"]}', "--input", "1,5")
    with pytest.raises(ModelError, match="takes inputs of shape N,4"):
        load_from_arguments(parse(*words))


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    """A module in the current folder, as a user has it."""
    (tmp_path / "my_plant.py").write_text(
        "from torch import nn\n"
        "def net(hidden=16):\n"
        "    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 3))\n"
        "def number():\n"
        "    return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_plant", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


@pytest.mark.usefixtures("own_network")
def test_a_network_of_the_current_folder_becomes_a_model_of_every_width():
    model = load_from_arguments(parse("my_plant:net", "--input", "1,6", "--classes", "3"))
    assert model.task.kind is TaskKind.CLASSIFICATION
    assert model.task.classes == ("0", "1", "2")
    assert model.spec.shape("0.weight", 0.5) == (8, 6)


@pytest.mark.usefixtures("own_network")
def test_options_reach_the_function_of_an_own_network():
    words = ("my_plant:net", "--options", '{"hidden": 64}', "--input", "1,6")
    assert load_from_arguments(parse(*words)).spec.shape("0.weight", 1.0) == (64, 6)


@pytest.mark.usefixtures("own_network")
def test_an_own_network_without_its_input_shape_is_refused_with_an_example():
    with pytest.raises(ModelError, match="--input 1,3,32,32"):
        load_from_arguments(parse("my_plant:net"))


@pytest.mark.usefixtures("own_network")
def test_a_function_that_returns_no_network_is_refused():
    with pytest.raises(ModelError, match="returned int; return a torch.nn.Module"):
        load_from_arguments(parse("my_plant:number", "--input", "1,6"))


def test_two_meanings_of_the_outputs_exclude_each_other(own_network):
    words = ("my_plant:net", "--input", "1,6", "--classes", "3", "--reconstruction")
    with pytest.raises(ModelError, match="exclude each other"):
        load_from_arguments(parse(*words))
