"""A campaign on a GPU comes to what it comes to on the CPU. Runs only where torch finds a GPU."""

import json

import numpy as np
import pytest
import torch

from slimmable.torch_device import computing_on
from tests.simulation.test_golden_campaign import GOLDEN, largest, played
from tests.unit.test_simulation import play

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here"),
]

# A GPU adds in another order, and every step goes on from the rounding of the one before.
TOLERANCE = 1e-2


def test_contributions_and_scores_are_those_of_the_golden_campaign(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    with computing_on("cuda"):
        found = played(tmp_path / "run")
    assert torch.cuda.max_memory_allocated() > 0
    for now, then in zip(found["rounds"], golden["rounds"], strict=True):
        near = TOLERANCE * largest(golden)
        assert now["contributions"] == pytest.approx(then["contributions"], abs=near)
    for width, then in golden["curve"].items():
        assert found["curve"][width]["score"] == pytest.approx(then["score"], abs=TOLERANCE)


def test_worker_processes_train_the_same_weights(tmp_path):
    here = play(tmp_path / "cpu")
    with computing_on("cuda"):
        there = play(tmp_path / "gpu", workers=2)
    for name, array in here.final.items():
        np.testing.assert_allclose(there.final[name], array, atol=TOLERANCE)
