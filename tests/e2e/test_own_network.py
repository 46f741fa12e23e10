"""The page "Bring your own network", run as it is written."""

import json
from pathlib import Path

import pytest

from tests.fakes.typed_page import BLOCK, run_to_the_end, script_of

PAGE = Path(__file__).parents[2] / "docs" / "own-network.md"


@pytest.mark.slow
@pytest.mark.torch
def test_every_command_of_the_page_works_as_written(tmp_path):
    status, output = run_to_the_end(script_of(PAGE.read_text(encoding="utf-8")), tmp_path)

    assert status == 0, output[-3000:]
    for promised in (
        "weight_hh_l0",
        "mynet-motion-w0.25.onnx",
        "classes [",
        "digest",
    ):
        assert promised in output, promised + output[-3000:]
    index = json.loads((tmp_path / "models" / "index.json").read_text(encoding="utf-8"))
    assert [row["width"] for row in index["widths"]] == [0.25, 0.5, 0.75, 1.0]
    assert (tmp_path / "adopted" / "adopted.safetensors").exists()


def test_the_page_says_which_file_each_block_is():
    for kind, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        expected = "$ " if kind == "console" else "# "
        assert body.startswith(expected), body
