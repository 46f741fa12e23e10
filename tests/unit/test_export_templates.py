"""A graph is traced once per model and width, and kept."""

import pytest
import torch
from torch import nn

from exporter.errors import ParityError, TemplateError
from exporter.sessions import open_session
from exporter.templates import TemplateCache, warm_templates
from exporter.tracing import trace_template
from slimmable.models.cnn1d import cnn1d
from tests.fakes.toy_models import ToyNetwork, UndecidedNetwork, toy

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def programs():
    return {}


@pytest.fixture
def traced(monkeypatch, programs):
    """Count how often torch is asked to trace a network; equal networks are traced once here."""
    calls = []
    original = torch.onnx.export

    def export(network, *args, **kwargs):
        name = repr(network)
        calls.append(name)
        if name not in programs:
            programs[name] = original(network, *args, **kwargs)
        return programs[name]

    monkeypatch.setattr(torch.onnx, "export", export)
    return calls


@pytest.fixture
def cache(tmp_path):
    return TemplateCache(tmp_path / "templates")


def path_of(cache, model, width):
    return cache.path(model, width, model.build(width))


def test_templates_made_ahead_are_used_later_and_by_another_process(traced, cache, tmp_path):
    model = toy()
    assert warm_templates(model, [0.5, 1.0, 0.5], cache) == 2
    assert len(traced) == 2

    again = TemplateCache(tmp_path / "templates")
    assert warm_templates(model, [0.5, 1.0], again) == 0
    kept = again.get(model, 0.5)

    assert len(traced) == 2
    assert kept.used == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert not kept.traced_now


def test_a_template_holds_no_weights_and_no_paths(cache):
    model = toy(hidden=512)
    template = cache.get(model, 1.0)

    for graph in (template.graph, template.prepared):
        assert len(graph) < 4 * model.spec.parameter_count(1.0)
        assert b"toy_models" not in graph
        with pytest.raises(ParityError):
            open_session(graph)


def test_equal_fresh_weights_keep_their_own_names():
    # Fresh batch norms are all ones and zeros: an exporter may take them for one tensor.
    model = cnn1d(
        sensors=2, length=8, classes=["a", "b"], channels=(8, 8), kernels=(3, 3), granules=(1, 1)
    )
    assert trace_template(model, 0.125).used == set(model.spec.tensors)


def test_models_of_equal_spec_that_compute_otherwise_have_their_own_templates(cache):
    class Shifted(ToyNetwork):
        def forward(self, x_BF):
            return super().forward(x_BF + 1)

    class Configured(ToyNetwork):
        def __init__(self, *sizes) -> None:
            super().__init__(*sizes)
            self.power = 3

    class ConfiguredOtherwise(Configured):
        def __init__(self, *sizes) -> None:
            super().__init__(*sizes)
            self.power = 2

    networks = (ToyNetwork, Shifted, Configured, ConfiguredOtherwise)
    models = [toy(network=network) for network in networks]
    short, long = (cnn1d(sensors=2, length=length, classes=["a", "b"]) for length in (8, 16))

    assert len({model.spec.spec_hash for model in models}) == 1
    assert len({path_of(cache, model, 0.5) for model in models}) == len(models)
    assert path_of(cache, short, 0.5) != path_of(cache, long, 0.5)
    assert path_of(cache, short, 0.5) != path_of(cache, short, 0.25)
    assert path_of(cache, short, 0.5) == path_of(cache, short, 0.5)


def test_a_network_that_cannot_be_traced_names_the_line():
    with pytest.raises(TemplateError, match=r"toy_models\.py:\d+: if x_BF\.sum\(\) > 0"):
        trace_template(toy(network=UndecidedNetwork), 0.5)


def test_a_spec_that_names_a_tensor_too_many_is_told_apart():
    with pytest.raises(TemplateError, match=r"'third\.weight'.*no such tensor"):
        trace_template(toy(missing="third.weight"), 0.5)


def test_a_network_of_other_shapes_than_its_spec_is_told_apart():
    class Fixed(ToyNetwork):
        def __init__(self, into, hidden, out) -> None:
            super().__init__(into, 16, out)

    assert isinstance(Fixed(4, 8, 3), nn.Module)
    with pytest.raises(TemplateError, match=r"'first\.bias' has shape \(16,\).*says \(8,\)"):
        trace_template(toy(network=Fixed), 0.5)
