import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimmable.macs import count_macs
from slimmable.model import ModelInput, load_model

pytestmark = pytest.mark.torch


def one(*shape, dtype="float32"):
    return [ModelInput(shape, dtype)]


@settings(max_examples=40, deadline=None)
@given(
    dims=st.integers(1, 2),
    groups=st.integers(1, 4),
    into=st.integers(1, 3),
    out=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    length=st.integers(3, 9),
    transposed=st.booleans(),
    bias=st.booleans(),
    batch=st.integers(1, 3),
)
def test_a_convolution_costs_its_filter_once_per_pixel(
    dims, groups, into, out, kernel, stride, length, transposed, bias, batch
):
    kinds = {
        (1, False): nn.Conv1d,
        (2, False): nn.Conv2d,
        (1, True): nn.ConvTranspose1d,
        (2, True): nn.ConvTranspose2d,
    }
    layer = kinds[dims, transposed](
        into * groups, out * groups, kernel, stride=stride, groups=groups, bias=bias
    )
    # A convolution reads each of its output pixels; a transposed one spreads each of its inputs.
    pixels = (length if transposed else (length - kernel) // stride + 1) ** dims
    counted = count_macs(layer, one(into * groups, *[length] * dims), batch)
    assert counted.total == batch * pixels * groups * out * into * kernel**dims


def test_a_depthwise_convolution_costs_one_filter_per_channel():
    layer = nn.Conv2d(12, 12, 3, padding=1, groups=12)
    assert count_macs(layer, one(12, 10, 10)).total == 12 * 9 * 100


@given(into=st.integers(1, 5), out=st.integers(1, 5), tokens=st.integers(1, 4), bias=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_linear_layer_costs_its_weight_once_per_token(into, out, tokens, bias):
    layer = nn.Linear(into, out, bias=bias)
    assert count_macs(layer, one(into)).total == into * out
    assert count_macs(layer, one(tokens, into), batch=2).total == 2 * tokens * into * out


@pytest.mark.parametrize(
    ("kind", "gates"),
    [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)],
    ids=["lstm", "gru", "rnn"],
)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_recurrent_layer_costs_its_weights_once_per_step(
    kind, gates, directions, layers, batch_first
):
    into, hidden, steps, batch = 5, 7, 11, 2
    network = kind(into, hidden, layers, bidirectional=directions == 2, batch_first=batch_first)
    first = gates * hidden * (into + hidden)
    later = gates * hidden * (directions * hidden + hidden)
    expected = batch * steps * directions * (first + (layers - 1) * later)
    # Without batch_first the input reads as `batch` steps of `steps` sequences: the same product.
    assert count_macs(network, one(steps, into), batch).total == expected


def test_a_recurrent_cell_and_a_bilinear_layer_are_counted():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(3, 5)
            self.both = nn.Bilinear(5, 5, 2)

        def forward(self, x_BF):
            hidden, cell = self.cell(x_BF)
            return self.both(hidden, cell)

    counted = count_macs(Cell(), one(3))
    assert counted.by_layer == {"cell": 4 * 5 * (3 + 5), "both": 2 * 5 * 5 + 2 * 5}


@pytest.mark.parametrize("fused", [False, True])
def test_attention_costs_projections_scores_and_weighted_values(fused):
    dim, heads, tokens = 8, 2, 5

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

        def forward(self, x_BTD):
            return self.attention(x_BTD, x_BTD, x_BTD, need_weights=not fused)[0]

    counted = count_macs(Attention(), one(tokens, dim))
    products = 2 * tokens * tokens * dim
    assert counted.by_layer == {
        "attention": 3 * tokens * dim * dim + products,
        "attention.out_proj": tokens * dim * dim,
    }


def test_the_fast_path_of_a_transformer_hides_nothing():
    dim, tokens, inner = 8, 6, 16
    layer = nn.TransformerEncoderLayer(dim, 2, inner, batch_first=True)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    a_layer = 4 * tokens * dim * dim + 2 * tokens * tokens * dim + 2 * tokens * dim * inner
    assert count_macs(network, one(tokens, dim)).total == 2 * a_layer


def test_products_of_activations_count_for_the_module_that_ran():
    class Similarity(nn.Module):
        def forward(self, x_BTF):
            return torch.einsum("bif,bjf->bij", x_BTF, x_BTF) @ x_BTF

    counted = count_macs(nn.Sequential(nn.Identity(), Similarity()), one(4, 3))
    assert counted.by_layer == {"1": 4 * 3 * 4 + 4 * 4 * 3}


def test_vectors_are_counted():
    class Vectors(nn.Module):
        def __init__(self):
            super().__init__()
            self.direction = nn.Parameter(torch.ones(3))

        def forward(self, x_BF):
            return x_BF @ self.direction + self.direction @ self.direction

    assert count_macs(Vectors(), one(3), batch=2).total == 2 * 3 + 3


def test_look_ups_norms_and_activations_cost_nothing():
    network = nn.Sequential(nn.Embedding(10, 8), nn.LayerNorm(8), nn.GELU(), nn.Softmax(-1))
    counted = count_macs(network, one(6, dtype="int64"))
    assert counted.total == 0
    assert counted.by_layer == {}


def test_several_inputs_and_outputs_are_taken():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(2, 3), nn.Embedding(5, 3)

        def forward(self, x_BF, token_B):
            return self.left(x_BF), self.right(token_B[:, 0])

    assert count_macs(Two(), [ModelInput((2,)), ModelInput((1,), "int64")]).total == 6


def test_layers_are_named_by_their_path_and_the_dearest_comes_first():
    network = nn.Sequential(nn.Linear(4, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 50)))
    assert list(count_macs(network, one(4)).by_layer.items()) == [("1.1", 100), ("0", 8)]


def test_counting_leaves_the_network_and_the_random_numbers_alone():
    network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2).eval(), nn.Dropout()).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    count_macs(network, one(4))
    assert torch.rand(1) == expected
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    assert not network[0]._forward_hooks


def test_a_residual_network_costs_what_the_literature_says():
    model = load_model("resnet18", {"classes": [str(n) for n in range(10)], "image_size": 32})
    full = count_macs(model.build(1.0), model.inputs).total
    assert full == pytest.approx(555e6, rel=0.01)
    assert count_macs(model.build(0.5), model.inputs).total == pytest.approx(full / 4, rel=0.02)
