import pytest
import torch
from torch import nn

from exporter.export import export_width
from exporter.predicted_size import FILE_BYTES, NODE_BYTES, predict_onnx_bytes
from exporter.templates import TemplateCache
from slimmable.evaluation import initial_state
from slimmable.model import ModelInput, load_model
from slimmable.slicing import slice_state

pytestmark = pytest.mark.torch
FLOAT = 4
IMAGE = [ModelInput((3, 8, 8))]


def weights(network, inputs=IMAGE, nodes=1):
    """Return the predicted bytes that are weights."""
    return predict_onnx_bytes(network, inputs) - FILE_BYTES - NODE_BYTES * nodes


def test_a_batch_norm_behind_a_convolution_becomes_its_bias():
    filters = 6 * 3 * 9
    bare = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6))
    biased = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    assert weights(bare, nodes=2) == weights(biased, nodes=2) == FLOAT * (filters + 6)


def test_a_batch_norm_behind_something_else_stays():
    network = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))
    assert weights(network, nodes=2) == FLOAT * 4 * 3


def test_only_what_inference_reads_is_counted():
    network = nn.Linear(8, 2, bias=False)
    network.unused = nn.Parameter(torch.zeros(1000))
    network.register_buffer("forgotten", torch.zeros(1000), persistent=False)
    assert weights(network) == FLOAT * 16


def test_a_tied_weight_is_counted_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 6)
            self.head = nn.Linear(6, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, token_BT):
            return self.head(self.table(token_BT))

    assert weights(Tied(), [ModelInput((5,), "int64")], nodes=2) == FLOAT * 120


def test_predicting_leaves_the_mode_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = network[1].running_mean.clone()
    predict_onnx_bytes(network, IMAGE)
    assert network.training
    assert torch.equal(network[1].running_mean, before)


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_the_file_of_a_built_in_model_has_the_predicted_size(width, tmp_path):
    model = load_model("cnn1d", {"classes": ["a", "b"], "sensors": 2, "length": 16})
    state = slice_state(initial_state(model, 0), model.spec, width)
    exported = export_width(model, width, state, TemplateCache(tmp_path))
    predicted = predict_onnx_bytes(model.build(width), model.inputs)
    assert predicted == pytest.approx(len(exported.onnx), rel=0.05)
