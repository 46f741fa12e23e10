import gc
import weakref

import pytest
import torch
from torch import nn

from profiler.prediction import INFERENCE_BASELINE, SESSION_BYTES, predict_inference_memory
from slimmable.memory import live_activations, saved_bytes, training_activations
from slimmable.model import ModelInput

torch_only = pytest.mark.torch
FLOAT = 4


def chain():
    return nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 50))


@torch_only
def test_the_live_bytes_are_those_of_the_widest_moment():
    # Input, the first result, and the second before the first is let go.
    assert live_activations(chain(), [ModelInput((100,))]) == FLOAT * (100 + 200 + 200)


@torch_only
def test_what_is_let_go_no_longer_counts():
    layers = [nn.Linear(64, 64) for _ in range(30)]
    # The input, what goes into a layer and what comes out of it.
    assert live_activations(nn.Sequential(*layers), [ModelInput((64,))]) == FLOAT * 3 * 64


@torch_only
def test_what_is_held_for_later_counts():
    class Skips(nn.Module):
        def forward(self, x_BF):
            held = [x_BF + step for step in range(5)]
            return torch.stack(held).sum(0)

    # The input, five sums, what stacks them, and the result.
    assert live_activations(Skips(), [ModelInput((10,))]) == FLOAT * 10 * (1 + 5 + 5 + 1)


@torch_only
def test_views_are_no_memory():
    network = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (5, 4)))
    assert live_activations(network, [ModelInput((4, 5))]) == FLOAT * 20


@torch_only
@pytest.mark.parametrize("batch", [2, 7, 32])
def test_the_saved_bytes_of_a_batch_are_those_of_a_pass_over_it(batch):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
        )

    whole = network().train()
    expected = saved_bytes(whole, lambda: whole(torch.randn(batch, 3, 8)))
    assert training_activations(network(), [ModelInput((3, 8))], batch) == expected
    assert expected > FLOAT * batch * 8 * 6


@torch_only
def test_weights_do_not_count_as_saved():
    network = nn.Linear(10, 10, bias=False)
    assert saved_bytes(network, lambda: network(torch.zeros(3, 10))) == FLOAT * 3 * 10


@torch_only
def test_counting_leaves_nothing_alive():
    # A ReLU saves its own result: a hook that hands the same tensor back closes a cycle that the
    # collector does not see.
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    freed = []

    def forward():
        result = network(torch.randn(4, 8))
        weakref.finalize(result.untyped_storage(), freed.append, "the result")
        return result

    saved_bytes(network, forward)
    gc.collect()
    assert freed == ["the result"]


def test_loading_decides_the_memory_of_large_weights_and_running_that_of_large_inputs():
    base = INFERENCE_BASELINE + SESSION_BYTES
    assert predict_inference_memory(0, 0) == base
    assert predict_inference_memory(1000, 10) == base + 4500
    assert predict_inference_memory(1000, 10_000) == base + 2000 + 20_000
