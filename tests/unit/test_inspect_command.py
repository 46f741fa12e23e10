import json
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from slimfleet import cli
from slimfleet.exit_codes import ExitCode
from slimfleet.inspection import declared_report, layers_of, scaling_axes
from slimfleet.inspection_findings import findings
from slimfleet.inspection_text import bytes_text, count_text, layer_lines
from slimmable.models.spec_builder import SpecBuilder
from slimmable.spec import ConcatTerm, ProductTerm, WidthSpec

pytestmark = pytest.mark.torch

WIDTHS = (0.25, 0.5, 0.75, 1.0)


class Convolutions(nn.Module):
    def __init__(self, channels=16):
        super().__init__()
        self.first = nn.Conv1d(3, channels, 3, padding=1)
        self.second = nn.Conv1d(channels, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean(2))


class Spectrum(Convolutions):
    """An operator without a rule keeps the rows of a weight."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(17, 4)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x)))).mean(2)
        return self.head(torch.fft.rfft(x).abs())


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        self.head = nn.Linear(16, 2)

    def forward(self, token_BT):
        x = self.table(token_BT).mean(1)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(x)


class TooSmall(Convolutions):
    def __init__(self):
        super().__init__(channels=3)


def failing():
    raise RuntimeError("the licence has ended")


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    """Install the networks above as a user's module."""
    module = ModuleType("plantnets")
    vars(module).update(globals())
    monkeypatch.setitem(sys.modules, "plantnets", module)
    monkeypatch.setattr(cli, "set_up_logs", lambda *_, **__: None)


@pytest.fixture
def inspect(capsys):
    """Run the command; return its exit code, output and complaint."""

    def call(model, *arguments):
        try:
            code = cli.main(["inspect", model, *arguments])
        except SystemExit as ended:  # argparse
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_each_layer_says_what_scales_and_why_the_rest_does_not(inspect):
    code, out, _ = inspect("plantnets:Convolutions", "--input", "1,3,20")
    assert code == ExitCode.DONE
    rows = [line.split("  ") for line in out.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["first", "weight", "<16> x 3 x 3", "2.88 k", "3 input; 3 kernel"] in cells
    assert ["head", "weight", "4 x <32>", "128", "4 output"] in cells
    assert ["<16>", "1", "4", "4", "8", "12", "16"] in cells
    assert max(map(len, out.splitlines())) <= 100


def test_the_json_form_is_complete(inspect):
    arguments = ("--input", "1,3,20", "--widths", "0.5", "--json")
    code, out, _ = inspect("plantnets:Convolutions", *arguments)
    assert code == ExitCode.DONE
    read = json.loads(out)
    assert list(read) == [
        "format", "model", "spec_hash", "derived", "inputs", "layers", "axes", "widths", "findings",
    ]  # fmt: skip
    assert read["derived"] is True
    assert read["inputs"] == [{"shape": [3, 20], "dtype": "float32"}]
    assert [layer["path"] for layer in read["layers"]] == ["first", "second", "head"]
    assert read["layers"][1]["macs"] == [20 * 3 * 8 * 16, 20 * 3 * 16 * 32]
    weight = read["layers"][0]["tensors"][0]
    assert weight["name"] == "first.weight"
    assert weight["dimensions"][0]["lengths"] == [8, 16]
    assert weight["dimensions"][2]["reason"] == "kernel"
    half, full = read["widths"]
    assert (half["width"], full["width"]) == (0.5, 1.0)
    assert full["parameters"] == 16 * 10 + 32 * 49 + 4 * 33
    assert half["parameters"] == 8 * 10 + 16 * 25 + 4 * 17
    assert half["macs"] == 20 * 3 * (3 * 8 + 8 * 16) + 4 * 16
    assert half["mac_share"] == pytest.approx(half["macs"] / full["macs"])
    assert 4 * full["parameters"] < full["file_bytes"] < 4 * full["parameters"] + 4000
    assert full["inference_bytes"] < half["training_bytes"] <= full["training_bytes"]
    assert read["findings"] == []


def test_an_unknown_operator_is_reported_with_its_line_and_what_it_keeps(inspect):
    code, out, _ = inspect("plantnets:Spectrum", "--input", "1,3,20", "--layers", "frozen")
    assert code == ExitCode.DONE
    text = " ".join(out.split())
    assert "[1] test_inspect_command.py:" in text
    assert "aten.fft_rfft: unknown operator; second.weight[0], second.bias[0]" in text
    assert "head.weight[1] stay at full width" in text
    assert "-> write it with operators of docs/operators.md" in text
    table = out.partition("<axis>")[0]
    assert "32 [1]" in table
    assert "first" not in table


def test_lengths_that_coincide_are_reported(inspect):
    _, out, _ = inspect("plantnets:TooSmall", "--input", "1,3,20")
    assert " !  1 axis of length 3 keeps 1, 2, 2, 3: not a length of its own" in out


def test_equal_layers_are_one_row(inspect):
    code, out, _ = inspect("plantnets:Stack", "--input", "1,6:int64", "--classes", "2")
    assert code == ExitCode.DONE
    assert "blocks.0-11 (12)" in out
    assert "11 vocabulary" in out
    assert len(out.splitlines()) < 30


def test_a_declared_spec_is_shown_and_said_to_be_one(inspect):
    code, out, _ = inspect("cnn2d", "--options", '{"classes": ["a", "b"]}')
    assert code == ExitCode.DONE
    assert "declared by the model" in out
    assert "conv.1        weight        <32> x <16> x 3 x 3" in out


def test_the_spec_is_written_where_asked(inspect, tmp_path):
    path = tmp_path / "spec.json"
    code, out, _ = inspect("plantnets:Convolutions", "--input", "1,3,20", "--spec", str(path))
    assert code == ExitCode.DONE
    spec = WidthSpec.from_json(path.read_bytes())
    assert spec.spec_hash[:12] in out
    code, _, complaint = inspect(
        "plantnets:Convolutions", "--input", "1,3,20", "--spec", str(tmp_path / "no" / "spec.json")
    )
    assert code == ExitCode.BAD_CONFIGURATION
    assert "cannot be written" in complaint


@pytest.mark.parametrize(("arguments", "code", "line"), [
    (["plantnets:Convolutions"], 4, "give the shape of its input with the batch first"),
    (["plantnets:Convolutions", "--input", "1,5,20"], 4, "fails on inputs of shape (N, 5, 20)"),
    (["plantnets:Convolutions", "--input", "20"], 2, "is no input shape"),
    (["plantnets:Convolutions", "--widths", "0,1"], 2, "outside (0, 1]"),
    (["plantnets:failing"], 4, "RuntimeError: the licence has ended"),
    (["plantnets:WIDTHS"], 4, "is a tuple, a function is needed"),
    (["plantnets:Absent"], 4, "has no attribute 'Absent'"),
    (["cnn3d"], 4, "no model 'cnn3d'"),
])  # fmt: skip
def test_bad_input_gives_one_line_and_the_right_code(inspect, arguments, code, line):
    given, out, complaint = inspect(*arguments)
    assert (given, out) == (code, "")
    assert line in complaint.splitlines()[-1]
    assert code == ExitCode.USAGE or len(complaint.splitlines()) == 1


def test_a_wrong_input_names_the_line_of_the_users_code(inspect):
    _, _, complaint = inspect("plantnets:Convolutions", "--input", "1,5,20")
    assert "at test_inspect_command.py:" in complaint


def test_a_network_of_which_most_stays_is_reported_with_its_largest_tensors():
    spec = SpecBuilder()
    spec.linear("wide", spec.fixed(100), spec.fixed(100))
    spec.linear("head", spec.scaling(8), spec.fixed(100))
    built = spec.spec()
    found = findings(declared_report(built, WIDTHS), built, scaling_axes(built, WIDTHS))
    assert len(found) == 1
    assert "most of this network does not scale: width 0.5 keeps 96% of its" in found[0].text
    assert "wide.weight (95%)" in found[0].hint


def test_a_network_that_does_not_scale_at_all_is_reported():
    spec = SpecBuilder()
    spec.linear("head", spec.fixed(3), spec.fixed(2))
    built = spec.spec()
    assert "nothing" in findings(declared_report(built, WIDTHS), built, ())[0].text


def test_products_and_concatenations_are_written_as_such():
    spec = SpecBuilder()
    heads, channels = spec.scaling(4), spec.scaling(16, 4)
    spec.tensors["qkv"] = (
        ProductTerm((spec.fixed(3), heads, spec.fixed(8))),
        ConcatTerm((channels, spec.fixed(2))),
    )
    report = declared_report(spec.spec(), WIDTHS)
    (layer,) = layers_of(report, [{}])
    assert layer.tensors[0].form == "3*<4>*8 x (<16> + 2)"
    assert report[0].lengths == (24, 48, 72, 96)
    assert report[1].lengths == (6, 10, 14, 18)


def test_long_tables_keep_to_a_hundred_columns():
    spec = SpecBuilder()
    many = [spec.scaling(10 + number) for number in range(20)]
    path = "features.stage.0.inner_block.with_a_long_name.that_goes_on.and_on_for_a_while"
    spec.tensors[f"{path}.a_weight_with_a_long_name"] = (many[0], ConcatTerm(tuple(many)))
    lines = layer_lines(layers_of(declared_report(spec.spec(), WIDTHS), [{path: 10}]), {})
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith("…")
    assert "for_a_while" in lines[1]


def test_counts_and_sizes_have_three_digits():
    assert [count_text(n) for n in (0, 999, 1000, 9_999, 1_234_567, 2_000_000_000)] == [
        "0", "999", "1.00 k", "10.0 k", "1.23 M", "2.00 G",
    ]  # fmt: skip
    assert [bytes_text(n) for n in (512, 1024, 1024**2 - 1, 5 * 2**30)] == [
        "0.50 KiB", "1.00 KiB", "1.00 MiB", "5.00 GiB",
    ]  # fmt: skip
