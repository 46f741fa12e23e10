import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from slimmable.evaluation import initial_state
from slimmable.model import ModelError, SlimmableModel, load_model
from slimmable.models.spec_builder import SpecBuilder
from slimmable.samples import Samples, SamplesError
from slimmable.slicing import slice_state
from slimmable.spec import SpecError
from slimmable.task import TaskError, regression
from slimmable.training import DivergenceError, TrainingRule, loss_function, train

pytestmark = pytest.mark.torch

GRID = (0.25, 0.5, 1.0)
RULE = TrainingRule(
    steps=20, batch_size=16, learning_rate=0.05, momentum=0.9, weight_decay=0.0, widths=GRID
)
MLP = load_model("mlp", {"input_shape": [4], "classes": ["low", "high"], "hidden": [8, 8]})
CNN = load_model(
    "cnn1d",
    {
        "sensors": 2,
        "length": 8,
        "classes": ["flat", "steep"],
        "channels": [4, 8],
        "kernels": [3, 3],
        "granules": [1, 2],
    },
)


def classes(model, count=64):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(count, *model.input_shape)).astype(np.float32)
    y = (x.reshape(count, -1).sum(axis=1) > 0).astype(np.int64)
    return Samples(x, y, np.arange(count))


def run(model=MLP, width=1.0, rule=RULE, seed=0, state=None, samples=None, **more):
    start = slice_state(initial_state(model, 0), model.spec, width) if state is None else state
    rng = np.random.default_rng(seed)
    return train(model, start, width, samples or classes(model), rule, rng, **more)


@pytest.mark.parametrize("model", [MLP, CNN], ids=["mlp", "cnn1d"])
@pytest.mark.parametrize("width", GRID)
def test_the_loss_falls_at_every_training_width(model, width):
    _, before = run(model, width, replace(RULE, steps=1))
    _, after = run(model, width, replace(RULE, steps=60))
    assert after < 0.9 * before


@pytest.mark.parametrize("width", GRID)
def test_what_comes_back_has_the_shapes_of_the_training_width(width):
    state, _ = run(CNN, width)
    assert set(state) == set(CNN.spec.tensors)
    for name, array in state.items():
        assert array.shape == CNN.spec.shape(name, width)
        assert array.dtype == np.float32


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, again, other = (run(CNN, seed=seed)[0] for seed in (1, 1, 2))
    for name in CNN.spec.parameters:
        np.testing.assert_array_equal(one[name], again[name])
    assert any((one[name] != other[name]).any() for name in CNN.spec.parameters)


def test_training_leaves_its_inputs_and_torchs_generator_alone():
    state = initial_state(CNN, 0)
    kept = {name: array.copy() for name, array in state.items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run(CNN, state=state)
    assert torch.equal(torch.rand(1), expected)
    for name, array in kept.items():
        np.testing.assert_array_equal(state[name], array)


def inner_part(width):
    """Return, per parameter, which coordinates of the full tensor lie inside ``width``."""
    masks = {}
    for name in MLP.spec.parameters:
        masks[name] = np.zeros(MLP.spec.shape(name, 1.0), dtype=bool)
        masks[name][np.ix_(*MLP.spec.indices(name, width))] = True
    return masks


def test_narrow_steps_do_not_touch_what_lies_outside_them():
    start = initial_state(MLP, 0)
    state, _ = run(rule=replace(RULE, widths=(0.25, 0.5)), state=start)
    for name, inside in inner_part(0.5).items():
        np.testing.assert_array_equal(state[name][~inside], start[name][~inside])
        assert (state[name][inside] != start[name][inside]).any()


def test_weight_decay_shrinks_the_whole_training_width_equally():
    start = initial_state(MLP, 0)
    rule = replace(RULE, widths=(0.25,), momentum=0.0, weight_decay=0.1, steps=10)
    state, _ = run(rule=rule, state=start)
    shrunk = (1 - rule.learning_rate * rule.weight_decay) ** rule.steps
    for name, inside in inner_part(0.25).items():
        np.testing.assert_allclose(
            state[name][~inside], shrunk * start[name][~inside], rtol=1e-5, atol=1e-8
        )


def test_momentum_goes_on_outside_a_narrow_step():
    class Draws:
        """Draws the widest width first and the narrowest ever after."""

        def __init__(self):
            self.widths = [2, 0]

        def integers(self, high):
            return self.widths.pop(0) if high == len(GRID) else 0

        def permutation(self, count):
            return np.arange(count)

    def weights(steps):
        rule = replace(RULE, steps=steps, batch_size=64)
        return train(MLP, initial_state(MLP, 0), 1.0, classes(MLP), rule, Draws())[0]

    start, one, two = initial_state(MLP, 0), weights(1), weights(2)
    for name, inside in inner_part(0.25).items():
        first, second = one[name] - start[name], two[name] - one[name]
        np.testing.assert_allclose(second[~inside], 0.9 * first[~inside], rtol=1e-3, atol=1e-7)


def test_a_training_width_below_the_grid_is_trained_alone():
    start = slice_state(initial_state(MLP, 0), MLP.spec, 0.2)
    state, _ = run(width=0.2, rule=replace(RULE, widths=(0.5, 1.0)), state=start)
    assert all((state[name] != start[name]).any() for name in MLP.spec.parameters)


def test_at_one_width_it_is_plain_sgd_with_momentum():
    rule = replace(RULE, widths=(1.0,), batch_size=64, steps=5, weight_decay=0.01)
    samples = classes(MLP)
    state, loss = run(rule=rule)
    network = MLP.build(1.0)
    start = initial_state(MLP, 0)
    network.load_state_dict({name: torch.from_numpy(a) for name, a in start.items()})
    optimiser = torch.optim.SGD(
        network.parameters(), lr=rule.learning_rate, momentum=0.9, weight_decay=0.01
    )
    losses = []
    for _ in range(rule.steps):
        optimiser.zero_grad()
        found = nn.functional.cross_entropy(
            network(torch.from_numpy(samples.x)), torch.from_numpy(samples.y)
        )
        found.backward()
        optimiser.step()
        losses.append(float(found.detach()))
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(state[name], parameter.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_statistics_come_back_as_they_were_and_may_be_left_out():
    start = slice_state(initial_state(CNN, 0), CNN.spec, 0.5)
    state, _ = run(CNN, 0.5, state=start)
    bare, _ = run(CNN, 0.5, state={name: start[name] for name in CNN.spec.parameters})
    assert set(bare) == set(CNN.spec.parameters)
    for name in CNN.spec.statistics:
        np.testing.assert_array_equal(state[name], start[name])
    for name, array in bare.items():
        np.testing.assert_array_equal(array, state[name])


def test_every_step_is_reported_and_the_report_may_stop_the_training():
    seen = []
    run(rule=replace(RULE, steps=4), after_step=seen.append)
    assert seen == [1, 2, 3, 4]

    def stop(step):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(after_step=stop)


def test_each_pass_shows_each_sample_once_in_batches_of_one_size():
    shown = []

    class Spy(nn.Linear):
        def forward(self, x):
            shown.append(x[:, 0].detach().numpy().copy())
            return super().forward(x)

    spec = SpecBuilder()
    spec.tensors["weight"] = (spec.fixed(1), spec.fixed(1))
    spec.tensors["bias"] = spec.tensors["weight"][:1]
    model = SlimmableModel("spy", spec.spec(), regression(), (1,), lambda width: Spy(1, 1))
    x = np.arange(10, dtype=np.float32)[:, None]
    run(model, samples=Samples(x, x / 10, np.arange(10)), rule=replace(RULE, batch_size=4, steps=4))
    assert [len(batch) for batch in shown] == [4, 4, 4, 4]
    for start in (0, 2):
        assert len(set(np.concatenate(shown[start : start + 2]).tolist())) == 8


def test_layers_that_draw_numbers_follow_the_seed():
    spec = SpecBuilder()
    spec.linear("0", spec.fixed(1), spec.fixed(3))

    def build(width):
        return nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5))

    model = SlimmableModel("dropout", spec.spec(), regression(), (3,), build)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    samples = Samples(x, x[:, 0], np.arange(20))
    one, again = (run(model, samples=samples, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one[0]["0.weight"], again[0]["0.weight"])
    assert one[1] == again[1]


@pytest.mark.parametrize("task", ["regression", "reconstruction"])
def test_values_and_inputs_are_learnt_too(task):
    model = load_model("mlp", {"input_shape": [2, 3], "task": task, "hidden": [8]})
    x = np.random.default_rng(0).normal(size=(64, 2, 3)).astype(np.float32)
    samples = Samples(x, x[:, 0, 0] if task == "regression" else x, np.arange(64))
    _, before = run(model, samples=samples, rule=replace(RULE, steps=1))
    _, after = run(model, samples=samples, rule=replace(RULE, steps=80))
    assert after < 0.9 * before


def test_a_vector_of_targets_is_not_broadcast_against_a_column_of_outputs():
    loss = loss_function(regression())
    assert loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])) == 2.0
    with pytest.raises(TaskError, match="shape"):
        loss(torch.zeros(4, 1), torch.zeros(4, 3))


def test_a_loss_that_is_no_number_ends_the_training():
    state = initial_state(MLP, 0)
    state["layer.0.weight"][0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan at step 0; lower the learning rate"):
        run(state=state)


def test_weights_that_become_infinite_in_the_last_step_are_not_handed_back():
    rule = replace(RULE, steps=1, learning_rate=3e38)
    samples = classes(MLP)
    far = Samples(samples.x * 1e4, samples.y, samples.recording)
    with pytest.raises(FloatingPointError, match="became infinite"):
        run(rule=rule, samples=far)


def test_a_state_of_another_width_is_refused():
    with pytest.raises(SpecError, match="width 0.5 needs"):
        run(width=0.5, state=initial_state(MLP, 0))


def test_labels_that_the_model_does_not_have_are_refused():
    samples = classes(MLP)
    with pytest.raises(SamplesError, match="labels run from 5 to 6"):
        run(samples=Samples(samples.x, samples.y + 5, samples.recording))


def test_a_network_that_differs_from_its_spec_is_not_trained_half():
    spec = SpecBuilder()
    spec.tensors["weight"] = (spec.fixed(1), spec.fixed(4))
    model = SlimmableModel("half", spec.spec(), regression(), (4,), lambda width: nn.Linear(4, 1))
    x = np.zeros((4, 4), np.float32)
    state = {"weight": np.zeros((1, 4), np.float32)}
    with pytest.raises(ModelError, match="'bias' has shape"):
        run(model, state=state, samples=Samples(x, x[:, 0], np.arange(4)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"weight_decay": float("inf")},
    ],
)
def test_a_rule_that_cannot_train_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        replace(RULE, **wrong)


def moved(rule, state):
    """How far a training moves the weights, Euclidean."""
    after, _ = run(rule=rule, state=state)
    return float(np.sqrt(sum(np.sum((after[n] - state[n]) ** 2.0) for n in MLP.spec.parameters)))


def test_a_long_gradient_is_shortened_and_a_short_one_is_left_as_it_is():
    state = initial_state(MLP, 0)
    one = replace(RULE, steps=1, momentum=0.0, learning_rate=1.0)
    free = moved(one, state)
    half = moved(replace(one, gradient_norm=free / 2), state)
    assert half == pytest.approx(free / 2, rel=1e-3)
    assert moved(replace(one, gradient_norm=2 * free), state) == free


def test_a_rate_that_ruins_the_network_does_not_with_a_limited_gradient():
    wild = replace(RULE, learning_rate=1e6, steps=60)
    with pytest.raises(DivergenceError):
        run(rule=wild)
    _, loss = run(rule=replace(wild, gradient_norm=2e-7))
    assert loss < 0.69  # better than guessing between two classes


def test_the_proximal_term_is_the_gradient_of_the_distance_from_the_start():
    state = initial_state(MLP, 0)
    plain = replace(RULE, steps=1, momentum=0.0, learning_rate=0.1, weight_decay=0.0)
    # In the first step there is no distance yet; in the second it pulls back a first step's length.
    first, _ = run(rule=plain, state=state)
    again, _ = run(rule=replace(plain, proximal=3.0), state=state)
    two, _ = run(rule=replace(plain, steps=2), state=state)
    drawn, _ = run(rule=replace(plain, steps=2, proximal=3.0), state=state)
    for name in MLP.spec.parameters:
        np.testing.assert_array_equal(first[name], again[name])
        pull = 0.1 * 3.0 * (first[name] - state[name])
        np.testing.assert_allclose(drawn[name], two[name] - pull, atol=1e-6)


def test_a_stronger_pull_ends_nearer_to_the_start():
    state = initial_state(MLP, 0)
    far = [moved(replace(RULE, steps=30, proximal=mu), state) for mu in (0.0, 0.3, 3.0)]
    assert far == sorted(far, reverse=True)
    assert far[2] < far[0] / 2


THREE = load_model("mlp", {"input_shape": [4], "classes": ["a", "b", "c"], "hidden": [8]})


def test_with_a_masked_loss_outputs_for_unseen_classes_are_not_trained():
    state, samples = initial_state(THREE, 0), classes(THREE)  # of the classes 0 and 1
    head = [name for name in THREE.spec.parameters if THREE.spec.shape(name, 1.0)[0] == 3]
    plain, _ = run(THREE, state=state, samples=samples)
    masked, _ = run(THREE, state=state, samples=samples, rule=replace(RULE, masked_loss=True))
    assert head
    for name in head:
        assert (plain[name][2] != state[name][2]).any()
        np.testing.assert_array_equal(masked[name][2], state[name][2])
        assert (masked[name][:2] != state[name][:2]).any()


def test_where_all_classes_are_there_a_masked_loss_is_the_loss():
    plain, loss = run()
    masked, same = run(rule=replace(RULE, masked_loss=True))
    assert loss == same
    for name in MLP.spec.parameters:
        np.testing.assert_array_equal(plain[name], masked[name])


@pytest.mark.parametrize("mu", [-1.0, math.inf, math.nan])
def test_a_proximal_term_that_is_no_number_above_0_is_refused(mu):
    with pytest.raises(ValueError, match="proximal"):
        replace(RULE, proximal=mu)


@pytest.mark.parametrize("norm", [-1.0, math.inf, math.nan])
def test_a_gradient_norm_that_is_no_length_is_refused(norm):
    with pytest.raises(ValueError, match="gradient norm"):
        replace(RULE, gradient_norm=norm)
