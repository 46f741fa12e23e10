import logging
import pickle  # noqa: TID251 - files of pickles are what must be refused
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from slimmable.checkpoint import CheckpointError, read_checkpoint
from slimmable.models.spec_builder import SpecBuilder
from slimmable.spec import WidthSpec

pytestmark = pytest.mark.torch


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    nn.init.normal_(net[1].weight)
    return net


def spec():
    builder = SpecBuilder()
    into, hidden, out = builder.fixed(3), builder.scaling(4), builder.fixed(2)
    builder.linear("0", hidden, into)
    builder.batch_norm("1", hidden)
    builder.linear("2", out, hidden)
    return builder.spec()


NET, SPEC = network(), spec()
WANTED = {name: NET.state_dict()[name].numpy() for name in SPEC.tensors}


def tied():
    builder = SpecBuilder()
    terms = (builder.fixed(5), builder.scaling(4))
    return WidthSpec(
        tuple(builder.axes),
        {"embedding.weight": terms},
        aliases={"head.weight": "embedding.weight"},
    )


def save(content, path, **options):
    torch.save(content, path, **options)  # noqa: TID251 - as users do
    return path


def same(found):
    assert found.keys() == WANTED.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, WANTED[name])


def refused(path, match, needed=SPEC):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(path, needed)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_safetensors_file_is_read(tmp_path):
    path = tmp_path / "dense.safetensors"
    safetensors.torch.save_file(NET.state_dict(), path)
    same(read_checkpoint(path, SPEC))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_of_torch_is_read(tmp_path, zipped):
    path = save(NET.state_dict(), tmp_path / "dense.pt", _use_new_zipfile_serialization=zipped)
    same(read_checkpoint(path, SPEC))


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model"])
def test_a_training_checkpoint_is_opened_down_to_its_state_dict(tmp_path, nest):
    content = {"epoch": 3, nest: NET.state_dict(), "optimizer": {"lr": 0.1, "state": {}}}
    same(read_checkpoint(save(content, tmp_path / "last.pth"), SPEC))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_wrappers_are_removed(tmp_path, prefix):
    wrapped = {prefix + name: tensor for name, tensor in NET.state_dict().items()}
    same(read_checkpoint(save(wrapped, tmp_path / "dense.pt"), SPEC))


def test_the_marks_of_a_compiled_part_are_removed(tmp_path):
    names = {n.replace("1.", "1._orig_mod.", 1): t for n, t in NET.state_dict().items()}
    same(read_checkpoint(save(names, tmp_path / "dense.pt"), SPEC))


def test_a_model_whose_own_names_begin_with_module_keeps_them(tmp_path):
    builder = SpecBuilder()
    builder.linear("module.fc", builder.fixed(2), builder.scaling(3))
    state = {"module.fc.weight": torch.ones(2, 3), "module.fc.bias": torch.ones(2)}
    found = read_checkpoint(save(state, tmp_path / "dense.pt"), builder.spec())
    assert sorted(found) == sorted(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_other_precisions_are_converted_and_said(tmp_path, caplog, dtype, form):
    state = {name: tensor.to(dtype) for name, tensor in NET.state_dict().items()}
    path = tmp_path / f"dense.{form}"
    if form == "pt":
        save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    with caplog.at_level(logging.WARNING):
        found = read_checkpoint(path, SPEC)
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name].float().numpy())
    assert str(dtype).removeprefix("torch.") in caplog.text


def test_buffers_of_integers_belong_to_the_network(tmp_path):
    state = {**WANTED, "positions": np.arange(7), "mask": np.ones(3, dtype=bool)}
    path = tmp_path / "dense.safetensors"
    safetensors.numpy.save_file(state, path)
    same(read_checkpoint(path, SPEC))


def test_a_tied_parameter_is_kept_under_the_name_of_the_spec(tmp_path):
    weight = torch.randn(5, 4)
    both = save({"embedding.weight": weight, "head.weight": weight}, tmp_path / "both.pt")
    second = tmp_path / "second.safetensors"
    safetensors.torch.save_file({"head.weight": weight}, second)
    for path in (both, second):
        found = read_checkpoint(path, tied())
        assert list(found) == ["embedding.weight"]
        np.testing.assert_array_equal(found["embedding.weight"], weight.numpy())


def test_tied_parameters_that_differ_in_the_file_are_refused(tmp_path):
    state = {"embedding.weight": torch.zeros(5, 4), "head.weight": torch.ones(5, 4)}
    refused(save(state, tmp_path / "untied.pt"), "'head.weight' and 'embedding.weight'", tied())


class Malicious:
    """When unpickled, creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "nested"])
def test_a_pickle_that_would_run_code_is_refused_and_never_run(tmp_path, form):
    target, path = tmp_path / "executed", tmp_path / "dense.pt"
    evil = Malicious(target)
    if form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif form == "nested":
        save({"state_dict": NET.state_dict(), "config": evil}, path)
    else:
        save(evil, path, _use_new_zipfile_serialization=form == "zip")
    refused(path, "holds Python objects besides tensors and was not read")
    assert not target.exists()


def test_a_whole_module_is_refused(tmp_path):
    refused(save(NET, tmp_path / "net.pt"), r"save model.state_dict\(\) alone")


def test_tensors_without_names_are_no_state_dict(tmp_path):
    refused(save([torch.ones(2)], tmp_path / "list.pt"), "holds a list and no state dict")
    refused(save({"epoch": 3}, tmp_path / "epoch.pt"), "holds a dict of epoch and no state dict")


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_a_file_that_is_cut_off_is_said_to_be(tmp_path, form, share):
    path = tmp_path / "dense"
    if form == "safetensors":
        safetensors.torch.save_file(NET.state_dict(), path)
    else:
        save(NET.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "cut off")


def test_a_damaged_header_is_refused(tmp_path):
    path = tmp_path / "dense.safetensors"
    path.write_bytes(struct.pack("<Q", 6) + b'{"a": ' + b"\0" * 40)
    refused(path, "damaged safetensors file")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"weights: see the mail\n", "is a text file"),
        (b"\x08\x0a\x12\x07pytorch", "is an ONNX file"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\xff\xfe\x00\x01\x02", "unknown format .first bytes fffe0001"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, match):
    path = tmp_path / "file"
    path.write_bytes(content)
    refused(path, match)


def test_folders_and_missing_files_are_named(tmp_path):
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none.pt", "No such file")


def test_archives_of_something_else_are_named(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.ones(2))
    refused(tmp_path / "data.npz", "is an .npz archive")
    scripted = tmp_path / "script.pt"
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.save(torch.jit.trace(NET.eval(), torch.ones(2, 3)), scripted)
    refused(scripted, "is a TorchScript program")


def test_a_checkpoint_of_another_model_names_the_first_difference(tmp_path):
    state = dict(NET.state_dict())
    state["0.weight"] = torch.ones(5, 3)
    del state["2.bias"]
    state["extra"] = torch.ones(1)
    refused(
        save(state, tmp_path / "other.pt"),
        r"'0.weight' has shape \(5, 3\) in the file, \(4, 3\) in the model; 3 of 9 tensors differ",
    )


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = dict(NET.state_dict())
    state["2.bias"] = torch.tensor([1.0, float("nan")])
    refused(save(state, tmp_path / "nan.pt"), "'2.bias' holds NaN")
    state["2.bias"] = torch.tensor([1.0, 1e300], dtype=torch.float64)
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file(state, path)
    refused(path, "'2.bias' holds NaN or infinity")


def test_integer_weights_are_refused(tmp_path):
    state = {**WANTED, "2.bias": np.ones(2, dtype=np.int8)}
    path = tmp_path / "int8.safetensors"
    safetensors.numpy.save_file(state, path)
    refused(path, "'2.bias' holds I8")
