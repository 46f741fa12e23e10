from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.networks.catalogue import CATALOGUE, TOKENS
from slimmable import ordering
from slimmable.adoption import (
    AdoptionRule,
    Budget,
    Criterion,
    Progress,
    Stage,
    _DenseTeacher,
    adopt,
    distil,
    importance_of,
)
from slimmable.evaluation import calibrate, initial_state, load_network, outputs
from slimmable.from_module import slimmable_from_module
from slimmable.importance import occurrences
from slimmable.model import ModelError, SlimmableModel, build_by_slicing, load_model
from slimmable.models.spec_builder import SpecBuilder
from slimmable.ordering import TOLERANCE, describe_axis, gradient_products, order_network
from slimmable.samples import Samples, SamplesError
from slimmable.task import classification, regression
from slimmable.training import train
from slimmable.training_rule import TrainingRule, WidthRule

pytestmark = pytest.mark.torch

WIDTHS = (0.25, 0.5, 1.0)
BUILT_IN = {
    "mlp": {"input_shape": [4], "classes": ["low", "high"], "hidden": [16, 16]},
    "cnn1d": {"sensors": 2, "length": 16, "classes": ["a", "b"], "channels": [8, 16, 16]},
    "cnn2d": {"classes": ["a", "b"], "height": 8, "channels": [8, 8, 16, 16]},
    "resnet18": {"classes": ["a", "b"], "image_size": 16, "channels": [8, 16, 16, 32]},
}
MLP = load_model("mlp", BUILT_IN["mlp"])


def randomised(model, seed=0):
    """Return a state in which no tensor has its default values: those hide errors."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, array in initial_state(model, seed).items():
        noise = rng.normal(size=array.shape) * (0.1 + 0.1 * array.std())
        state[name] = (np.abs(array + noise) if "var" in name else array + noise).astype(np.float32)
    return state


def random_importance(model, rng):
    axes = sorted({place.axis for place in occurrences(model.spec)})
    return {axis: rng.random(model.spec.axes[axis].size) for axis in axes}


def some_inputs(model, rng, batch=3):
    return [
        rng.normal(size=(batch, *one.shape)).astype(np.float32)
        if one.dtype == "float32"
        else rng.integers(0, TOKENS, size=(batch, *one.shape))
        for one in model.inputs
    ]


def said(model, state, inputs):
    with torch.no_grad():
        return load_network(model, 1.0, state)(*(torch.tensor(array) for array in inputs)).numpy()


def check_ordering(model, rng):
    state, inputs = randomised(model), some_inputs(model, rng)
    found = order_network(model, state, random_importance(model, rng), inputs)
    assert not found.unmovable
    assert found.difference <= TOLERANCE
    before, after = (said(model, weights, inputs) for weights in (state, found.state))
    assert np.ptp(before) > 1e-3  # a network that says nothing proves nothing
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    assert any((found.state[name] != state[name]).any() for name in model.spec.parameters)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_ordering_leaves_the_function_of_built_in_models_alone(name):
    check_ordering(load_model(name, BUILT_IN[name]), np.random.default_rng(3))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_order_of_an_mlp_leaves_its_function_alone(seed):
    check_ordering(MLP, np.random.default_rng(seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "causal_transformer", "group_norm", "unet", "shufflenet"])
def test_ordering_leaves_the_function_of_derived_models_alone(name):
    entry = CATALOGUE[name]
    model = slimmable_from_module(name, entry.build(), entry.inputs, regression())
    check_ordering(model, np.random.default_rng(0))


class Positional(nn.Module):
    """Treats the entries of its first hidden axis by their position, those of its second alike."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 2)
        self.kind = kind

    def forward(self, x):
        hidden = self.first(x)
        if self.kind == "cumulative sum":
            hidden = hidden.cumsum(1)
        elif self.kind == "pooling":
            hidden = nn.functional.avg_pool1d(hidden[:, None], 3, 1, padding=1)[:, 0]
        elif self.kind == "table":
            hidden = hidden + torch.arange(hidden.shape[1])
        elif self.kind == "sort":
            hidden = hidden.sort(1).values
        else:
            hidden = hidden.softmax(1)
        return self.last(torch.relu(self.second(hidden)))


def positional(kind):
    builder = SpecBuilder()
    into, first, second = builder.fixed(3), builder.scaling(4), builder.scaling(6)
    out = builder.fixed(2)
    builder.linear("first", first, into)
    builder.linear("second", second, first)
    builder.linear("last", out, second)
    torch.manual_seed(0)
    spec = builder.spec()
    build = build_by_slicing(Positional(kind), spec)
    return SlimmableModel(kind, spec, regression(), (3,), build)


@pytest.mark.parametrize("kind", ["cumulative sum", "pooling", "table", "sort"])
def test_an_axis_whose_entries_are_told_apart_stays_as_it_is(kind):
    model, rng = positional(kind), np.random.default_rng(0)
    state, x = initial_state(model, 0), rng.normal(size=(8, 3)).astype(np.float32)
    # Not a mere reversal of the first axis, which pooling would not notice.
    importance = {1: np.array([1, 3, 0, 2]), 2: np.arange(6)}
    found = order_network(model, state, importance, [x])
    assert found.unmovable == (1,)
    assert list(found.order) == [2]
    np.testing.assert_array_equal(found.state["first.weight"], state["first.weight"])
    np.testing.assert_array_equal(found.state["last.weight"], state["last.weight"][:, ::-1])
    np.testing.assert_allclose(
        outputs(model, 1.0, found.state, x), outputs(model, 1.0, state, x), atol=1e-6
    )


def test_a_softmax_along_an_axis_does_not_mind():
    model = positional("softmax")
    importance = {axis: np.arange(model.spec.axes[axis].size) for axis in (1, 2)}
    x = np.ones((2, 3), dtype=np.float32)
    assert not order_network(model, initial_state(model, 0), importance, [x]).unmovable


class Together(nn.Module):
    """Notices that two axes were permuted, but neither alone."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.other = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x):
        return x + (self.one[0] - 1) * (self.other[0] - 1)


def test_axes_that_are_harmless_alone_are_also_tried_together():
    builder = SpecBuilder()
    builder.tensors.update(one=(builder.scaling(2),), other=(builder.scaling(2),))
    spec = builder.spec()
    model = SlimmableModel("pair", spec, regression(), (1,), lambda _: Together())
    importance = {0: np.array([0.0, 1.0]), 1: np.array([0.0, 1.0])}
    x = np.ones((2, 1), dtype=np.float32)
    found = order_network(model, initial_state(model, 0), importance, [x])
    assert found.unmovable == (1,)
    np.testing.assert_array_equal(found.state["one"], [2, 1])
    np.testing.assert_array_equal(found.state["other"], [1, 2])


def test_an_axis_is_described_by_where_it_stands():
    assert describe_axis(MLP.spec, 1).startswith("16 entries of ")
    assert describe_axis(positional("table").spec, 2) == (
        "6 entries of last.weight dimension 1, second.bias dimension 0, second.weight dimension 0"
    )


def labelled(number=256, seed=7):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, 4)).astype(np.float32)
    y = ((x[:, :2] ** 2).sum(axis=1) > 1.4).astype(np.int64)
    return Samples(x, y, np.arange(number))


def dense(samples):
    rule = TrainingRule(
        steps=300,
        batch_size=32,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0,
        widths=(1.0,),
        schedule="cosine",
    )
    state, _ = train(MLP, initial_state(MLP, 1), 1.0, samples, rule, np.random.default_rng(0))
    return {**state, **calibrate(MLP, 1.0, state, samples.x)}


SAMPLES, VALIDATION = labelled(), labelled(seed=8)
RULE = AdoptionRule(WIDTHS, Budget(steps=150), batch_size=32)


@pytest.fixture(scope="module")
def trained():
    return dense(SAMPLES)


def adopted(state, rule=RULE, samples=SAMPLES, report=lambda _: None, clock=lambda: 0.0):
    rng = np.random.default_rng(5)
    return adopt(MLP, state, samples, VALIDATION, rule, rng, clock, report)


def test_gradients_of_a_useless_entry_are_zero(trained):
    state = {name: array.copy() for name, array in trained.items()}
    axis, name = next(
        (place.axis, place.tensor) for place in occurrences(MLP.spec) if place.dim == 1
    )
    state[name][:, 3] = 0  # nobody listens to entry 3
    rng = np.random.default_rng(0)
    found = importance_of(MLP, state, SAMPLES, Criterion.TAYLOR, rng)[axis]
    assert found[3] == found.min() == 0
    products = next(gradient_products(MLP, state, SAMPLES, rng))
    assert sorted(products) == sorted(MLP.spec.parameters)


@pytest.mark.parametrize("criterion", list(Criterion))
@pytest.mark.parametrize("width_rule", sorted(set(WidthRule) - {WidthRule.OWN_WIDTH}))
def test_narrow_widths_become_usable_and_the_full_one_stays(trained, criterion, width_rule):
    rule = AdoptionRule(
        WIDTHS, Budget(steps=200), criterion=criterion, width_rule=width_rule, batch_size=32
    )
    found = adopted(trained, rule)
    scores = {stage: {row.width: row.score for row in rows} for stage, rows in found.curves.items()}
    assert list(scores) == list(Stage)
    assert scores[Stage.DISTILLED][0.25] > scores[Stage.AS_IS][0.25] + 0.05
    assert scores[Stage.DISTILLED][1.0] > found.dense_score - 0.05
    assert scores[Stage.ORDERED][1.0] == pytest.approx(scores[Stage.AS_IS][1.0], abs=0.01)
    assert found.steps == 200
    assert not found.unmovable


def test_adoption_refuses_a_rule_that_trains_no_narrow_width():
    rule = AdoptionRule(WIDTHS, Budget(steps=1), width_rule=WidthRule.OWN_WIDTH)
    with pytest.raises(ValueError, match="own-width trains no narrow width"):
        rule.training()


def test_the_state_that_comes_back_is_the_one_that_was_scored(trained):
    found = adopted(trained)
    score = MLP.task.score(outputs(MLP, 1.0, found.state, VALIDATION.x), VALIDATION.y)
    assert score == found.curves[Stage.DISTILLED][-1].score


def test_adopting_is_repeatable_and_leaves_its_inputs_alone(trained):
    before = {name: array.copy() for name, array in trained.items()}
    first, second = adopted(trained), adopted(trained)
    for name, array in first.state.items():
        np.testing.assert_array_equal(array, second.state[name])
        np.testing.assert_array_equal(trained[name], before[name])


def test_with_distillation_alone_labels_do_not_matter(trained):
    rule = AdoptionRule(WIDTHS, Budget(steps=20), distillation=1.0, batch_size=32)
    wrong = Samples(SAMPLES.x, 1 - SAMPLES.y, SAMPLES.recording)
    states = [
        distil(MLP, trained, samples, rule, np.random.default_rng(0), lambda: 0.0)[0]
        for samples in (SAMPLES, wrong)
    ]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_the_teacher_is_asked_about_each_sample_once(trained):
    teacher = _DenseTeacher(MLP, trained, SAMPLES)
    asked = []
    network = teacher._network
    teacher._network = lambda x: asked.append(len(x)) or network(x)
    expected = outputs(MLP, 1.0, trained, SAMPLES.x)
    for chosen in ([3, 1, 2], [1, 7], [7, 3]):
        np.testing.assert_allclose(teacher(np.array(chosen)), expected[chosen], atol=1e-6)
    assert asked == [3, 1]


def test_a_budget_of_time_ends_the_distillation(trained):
    clock = count(step=0.5)
    reached: list[Progress] = []
    rule = AdoptionRule(WIDTHS, Budget(seconds=5), batch_size=32)
    _, steps = distil(
        MLP,
        trained,
        SAMPLES,
        rule,
        np.random.default_rng(0),
        lambda: float(next(clock)),
        reached.append,
    )
    assert steps == 10
    assert [one.step for one in reached] == list(range(1, 11))
    assert reached[-1].share == 1.0


def test_progress_tells_each_stage_and_each_step(trained):
    reached: list[Progress] = []
    adopted(trained, AdoptionRule(WIDTHS, Budget(steps=3), batch_size=32), report=reached.append)
    assert [(one.stage, one.step, len(one.scores)) for one in reached] == [
        (Stage.AS_IS, 0, 3),
        (Stage.ORDERED, 0, 3),
        *((Stage.DISTILLED, step, 0) for step in (1, 2, 3)),
        (Stage.DISTILLED, 0, 3),
    ]


@pytest.mark.parametrize(
    ("steps", "seconds"), [(None, None), (3, 3.0), (0, None), (None, -1.0), (None, float("nan"))]
)
def test_a_budget_that_says_nothing_is_refused(steps, seconds):
    with pytest.raises(ValueError, match="budget"):
        Budget(steps, seconds)


def test_a_regression_is_adopted_too():
    builder = SpecBuilder()
    into, hidden, out = builder.fixed(4), builder.scaling(8), builder.fixed(1)
    builder.linear("0", hidden, into)
    builder.linear("2", out, hidden)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    spec = builder.spec()
    model = SlimmableModel("r", spec, regression(), (4,), build_by_slicing(module, spec))
    x = SAMPLES.x
    samples = Samples(x, x.sum(axis=1, keepdims=True), SAMPLES.recording)
    rule = AdoptionRule(WIDTHS, Budget(steps=300), batch_size=32)
    found = adopt(
        model,
        initial_state(model, 0),
        samples,
        samples,
        rule,
        np.random.default_rng(0),
        lambda: 0.0,
    )
    assert found.curves[Stage.DISTILLED][0].score > found.curves[Stage.AS_IS][0].score


def test_networks_of_tokens_and_data_of_another_shape_are_refused(trained):
    tokens = SlimmableModel(
        "t", MLP.spec, classification(["a", "b"]), (4,), MLP.build, input_dtype="int64"
    )
    rng = np.random.default_rng(0)
    with pytest.raises(ModelError, match="one float32 input"):
        adopt(tokens, trained, SAMPLES, VALIDATION, RULE, rng, lambda: 0.0)
    wide = Samples(np.ones((4, 5), dtype=np.float32), np.zeros(4, dtype=np.int64), np.arange(4))
    with pytest.raises(SamplesError, match="samples of shape"):
        adopted(trained, samples=wide)


def test_few_samples_are_enough_for_gradients(monkeypatch):
    monkeypatch.setattr(ordering, "GRADIENT_BATCH", 4)
    state = initial_state(MLP, 0)
    few = SAMPLES.take(np.arange(10))
    assert len(list(gradient_products(MLP, state, few, np.random.default_rng(0)))) == 3
