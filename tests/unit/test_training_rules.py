from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimmable.central import check_data, measure_widths, train_centrally
from slimmable.distillation import distance
from slimmable.evaluation import calibrate, initial_state
from slimmable.model import ModelError, ModelInput, SlimmableModel, load_model
from slimmable.model_check import check_model
from slimmable.models.spec_builder import SpecBuilder
from slimmable.samples import Samples, SamplesError
from slimmable.slicing import slice_state
from slimmable.spec import ProductTerm, SpecError
from slimmable.task import classification, reconstruction, regression
from slimmable.training import DivergenceError, Training, train
from slimmable.training_rule import Schedule, TrainingRule, WidthDraw, WidthRule
from slimmable.width_scores import Measurement, WidthScore, as_csv

pytestmark = pytest.mark.torch

GRID = (0.25, 0.5, 0.75, 1.0)
RULE = TrainingRule(
    steps=20, batch_size=16, learning_rate=0.05, momentum=0.9, weight_decay=0.0, widths=GRID
)
SANDWICH = replace(RULE, rule=WidthRule.SANDWICH)
MLP = load_model(
    "mlp", {"input_shape": [4], "classes": ["low", "high"], "hidden": [8, 8], "granule": 2}
)
VALUES = load_model("mlp", {"input_shape": [4], "task": "regression", "hidden": [8]})
CNN_OPTIONS = {
    "sensors": 2,
    "length": 8,
    "classes": ["flat", "steep"],
    "channels": [8, 16],
    "kernels": [3, 3],
    "granules": [2, 4],
}
CNN = load_model("cnn1d", CNN_OPTIONS)
GROUPS = load_model("cnn1d", {**CNN_OPTIONS, "norm": "group", "channels_per_group": 2})
IMAGES = load_model(
    "cnn2d",
    {
        "classes": ["a", "b"],
        "height": 8,
        "channels": [8, 8, 16, 16],
        "granules": [2, 2, 4, 4],
        "norm": "group",
        "channels_per_group": 2,
    },
)


def data(model, count=64, seed=7):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *model.input_shape)).astype(np.float32)
    total = x.reshape(count, -1).sum(axis=1)
    classifies = bool(model.task.classes)
    return Samples(
        x,
        (total > 0).astype(np.int64) if classifies else total.astype(np.float32),
        np.arange(count),
    )


def run(model=MLP, rule=RULE, width=1.0, seed=0):
    start = slice_state(initial_state(model, 0), model.spec, width)
    return train(model, start, width, data(model), rule, np.random.default_rng(seed))


# --- the widths of a step -------------------------------------------------------------------------


def draws(rule, width=1.0, count=200, seed=0):
    draw, rng = WidthDraw(rule, width), np.random.default_rng(seed)
    return [draw.draw(rng) for _ in range(count)]


def test_ordered_dropout_draws_every_width_of_the_slice_equally_often():
    drawn = draws(RULE, 0.75, count=3000)
    for width in (0.25, 0.5, 0.75):
        assert drawn.count((width,)) / 3000 == pytest.approx(1 / 3, abs=0.04)


def test_a_share_of_the_steps_takes_the_widest_width_that_there_is():
    rule = replace(RULE, widest_share=0.7)
    for width in rule.widths[1:]:
        draw = WidthDraw(rule, width)
        often = draw.frequencies()
        assert often[width] == pytest.approx(0.7)
        assert sum(often.values()) == pytest.approx(1)
        narrower = [chance for one, chance in often.items() if one < width]
        assert max(narrower) == pytest.approx(min(narrower))
        rng = np.random.default_rng(0)
        drawn = [draw.draw(rng)[0] for _ in range(4000)]
        assert drawn.count(width) / 4000 == pytest.approx(0.7, abs=0.03)
    assert WidthDraw(rule, rule.widths[0]).frequencies() == {rule.widths[0]: 1.0}


def test_the_widest_share_is_for_ordered_dropout_without_draw_weights():
    weighted = replace(RULE, widest_share=0.7, draw_weights=(1.0, 1.0, 2.0, 4.0))
    assert WidthDraw(weighted, 1.0).frequencies()[1.0] == pytest.approx(0.5)
    for rule in ("sandwich", "all-widths", "own-width", "widest-and-drawn"):
        chosen = replace(RULE, widest_share=0.7, rule=rule)
        plain = replace(chosen, widest_share=0.0)
        assert WidthDraw(chosen, 1.0).frequencies() == WidthDraw(plain, 1.0).frequencies()


def test_draw_weights_say_how_often_a_width_is_drawn_also_in_a_narrower_slice():
    rule = replace(RULE, draw_weights=(1.0, 1.0, 2.0, 4.0))
    drawn = draws(rule, count=4000)
    assert drawn.count((1.0,)) / 4000 == pytest.approx(0.5, abs=0.04)
    inner = draws(rule, 0.75, count=4000)
    assert inner.count((0.75,)) / 4000 == pytest.approx(0.5, abs=0.04)


@given(
    st.sets(st.integers(1, 20), min_size=1, max_size=6),
    st.integers(1, 20),
    st.integers(0, 5),
    st.integers(0, 9),
)
def test_a_sandwich_holds_the_widest_and_the_narrowest_of_the_slice(grid, width, between, seed):
    widths = tuple(one / 20 for one in sorted(grid))
    rule = replace(SANDWICH, widths=widths, random_widths=between)
    inside = [one for one in widths if one <= width / 20] or [width / 20]
    for drawn in draws(rule, width / 20, count=5, seed=seed):
        assert drawn == tuple(sorted(set(drawn), reverse=True))
        assert (drawn[0], drawn[-1]) == (inside[-1], inside[0])
        assert set(drawn) <= set(inside)
        assert len(drawn) == min(len(inside), 2 + between)


def test_every_width_between_gets_its_turn_in_the_sandwich():
    drawn = draws(replace(SANDWICH, random_widths=1), count=400)
    for middle in (0.5, 0.75):
        assert drawn.count((1.0, middle, 0.25)) == pytest.approx(200, abs=60)


@given(st.sampled_from((0.1, *GRID)), st.integers(0, 9))
def test_with_its_own_width_a_device_trains_that_and_no_other(width, seed):
    rule = replace(RULE, rule=WidthRule.OWN_WIDTH)
    assert draws(rule, width, count=5, seed=seed) == [(width,)] * 5
    assert WidthDraw(rule, width).frequencies() == {width: 1.0}
    assert WidthDraw(rule, width).teacher == width


def test_with_all_widths_each_step_takes_every_width_of_the_slice_the_widest_first():
    rule = replace(RULE, rule=WidthRule.ALL_WIDTHS)
    assert draws(rule, 0.75, count=3) == [(0.75, 0.5, 0.25)] * 3
    assert draws(rule, 0.1, count=1) == [(0.1,)]
    assert WidthDraw(rule, 0.75).frequencies() == {0.25: 1.0, 0.5: 1.0, 0.75: 1.0}


@pytest.mark.parametrize("kind", list(WidthRule))
@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.0])
def test_each_width_is_taken_as_often_as_the_rule_says_beforehand(kind, width):
    rule = replace(RULE, rule=kind, random_widths=1)
    drawn = [one for step in draws(rule, width, count=4000) for one in step]
    expected = WidthDraw(rule, width).frequencies()
    assert set(drawn) == set(expected)
    for one, often in expected.items():
        assert drawn.count(one) / 4000 == pytest.approx(often, abs=0.04)


def test_widest_and_drawn_takes_the_training_width_in_every_step_and_one_more_at_most():
    rule = replace(RULE, rule=WidthRule.WIDEST_AND_DRAWN)
    drawn = draws(rule, 0.75, count=60)
    assert {step[0] for step in drawn} == {0.75}
    assert {step[1:] for step in drawn} == {(), (0.5,), (0.25,)}


# --- the sandwich rule ----------------------------------------------------------------------------


def test_a_step_of_all_widths_is_a_sandwich_with_all_between():
    one = replace(RULE, rule=WidthRule.ALL_WIDTHS, steps=1, batch_size=64)
    other = replace(SANDWICH, steps=1, batch_size=64)
    (first, loss), (second, same) = run(rule=one), run(rule=other)
    assert loss == pytest.approx(same)
    for name in MLP.spec.parameters:
        np.testing.assert_allclose(first[name], second[name], atol=1e-6)


def test_a_sandwich_step_is_one_step_along_the_mean_of_the_slices_gradients():
    rule = replace(SANDWICH, steps=1, batch_size=64, momentum=0.0)
    start = initial_state(MLP, 0)
    sandwich, loss = run(rule=rule)
    moved = dict.fromkeys(MLP.spec.parameters, np.zeros(1, np.float32))
    losses = []
    for width in GRID:
        alone, one = run(rule=replace(rule, rule=WidthRule.ORDERED_DROPOUT, widths=(width,)))
        losses.append(one)
        moved = {name: moved[name] + alone[name] - start[name] for name in moved}
    assert loss == pytest.approx(np.mean(losses))
    for name, step in moved.items():
        np.testing.assert_allclose(sandwich[name] - start[name], step / len(GRID), atol=1e-6)


def test_at_one_width_both_rules_are_the_same_training():
    one, loss = run(rule=replace(SANDWICH, widths=(1.0,), distillation=0.7))
    other, other_loss = run(rule=replace(RULE, widths=(1.0,)))
    assert loss == other_loss
    for name in MLP.spec.parameters:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("model", [MLP, CNN, GROUPS, VALUES], ids=["mlp", "bn", "gn", "values"])
@pytest.mark.parametrize("distillation", [0.0, 0.5])
@pytest.mark.parametrize("kind", list(WidthRule))
def test_every_rule_learns(model, distillation, kind):
    rule = replace(RULE, rule=kind, distillation=distillation, learning_rate=0.05)
    _, before = run(model, replace(rule, steps=1))
    _, after = run(model, replace(rule, steps=100))
    assert after < 0.9 * before


@pytest.mark.parametrize("distillation", [0.0, 1.0])
@pytest.mark.parametrize("kind", list(WidthRule))
def test_the_same_seed_gives_the_same_weights(kind, distillation):
    rule = replace(RULE, rule=kind, distillation=distillation, random_widths=1)
    one, again = (run(CNN, rule, seed=3) for _ in range(2))
    assert one[1] == again[1]
    for name in CNN.spec.parameters:
        np.testing.assert_array_equal(one[0][name], again[0][name])


def test_a_narrow_training_width_sandwiches_what_lies_inside_it():
    state, _ = run(CNN, SANDWICH, width=0.5)
    assert {name: array.shape for name, array in state.items()} == {
        name: CNN.spec.shape(name, 0.5) for name in CNN.spec.tensors
    }


def test_constants_are_sliced_with_the_weights_and_stay_as_they_are():
    """A buffer that scales the hidden features: each slice gets its part of it."""

    class Scaled(nn.Module):
        def __init__(self, hidden):
            super().__init__()
            self.inner, self.outer = nn.Linear(4, hidden), nn.Linear(hidden, 1)
            self.register_buffer("scale", torch.zeros(hidden))  # a network has not the real ones

        def forward(self, x):
            return self.outer(self.inner(x) * self.scale)

    builder = SpecBuilder()
    hidden = builder.scaling(8, 2)
    builder.linear("inner", hidden, builder.fixed(4))
    builder.linear("outer", builder.fixed(1), hidden)
    builder.tensors["scale"] = (hidden,)
    spec = replace(builder.spec(), constants=frozenset({"scale"}))
    model = SlimmableModel(
        "scaled", spec, regression(), (4,), lambda width: Scaled(spec.shape("scale", width)[0])
    )
    start = initial_state(model, 0)
    start["scale"] = np.array([1, 1, 0, 0, 0, 0, 0, 0], np.float32)
    state, _ = train(model, start, 1.0, data(model), RULE, np.random.default_rng(0))
    np.testing.assert_array_equal(state["scale"], start["scale"])
    moved = (state["outer.weight"] != start["outer.weight"])[0]
    assert moved.tolist() == [True] * 2 + [False] * 6
    del start["scale"]
    with pytest.raises(SpecError, match="'scale' is missing"):
        train(model, start, 1.0, data(model), RULE, np.random.default_rng(0))


# --- distillation ---------------------------------------------------------------------------------


def test_distance_to_probabilities_is_cross_entropy_and_lets_no_gradient_into_the_teacher():
    outputs = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.2, 1.0, -1.0], [2.0, 0.0, 0.5]], requires_grad=True)
    found = distance(classification(["a", "b", "c"]), outputs, teacher)
    soft, log_p = teacher.softmax(1), outputs.log_softmax(1)
    assert float(found.detach()) == pytest.approx(float(-(soft * log_p).sum(1).mean().detach()))
    found.backward()
    assert teacher.grad is None
    expected = (outputs.softmax(1) - soft) / 2
    torch.testing.assert_close(outputs.grad, expected.detach())


@pytest.mark.parametrize("task", [regression(), reconstruction()], ids=str)
def test_distance_between_values_is_the_mean_squared_error(task):
    teacher = torch.tensor([[1.0], [3.0]], requires_grad=True)
    found = distance(task, torch.tensor([[2.0], [1.0]], requires_grad=True), teacher)
    assert float(found.detach()) == 2.5
    found.backward()
    assert teacher.grad is None


def test_the_widest_slice_of_a_step_learns_from_the_targets_alone():
    """With full distillation the outermost weights move as they do without it."""
    plain, _ = run(rule=replace(SANDWICH, steps=1))
    distilled, _ = run(rule=replace(SANDWICH, steps=1, distillation=1.0))
    name = "layer.1.weight"
    inner = len(MLP.spec.indices(name, 0.75)[0])
    np.testing.assert_array_equal(plain[name][inner:], distilled[name][inner:])
    assert (plain[name][:inner, :inner] != distilled[name][:inner, :inner]).any()


def test_with_full_distillation_a_narrow_slice_follows_the_teacher_not_the_targets():
    """Targets turned round change nothing where the widest slice is never drawn."""
    rule = replace(RULE, steps=6, batch_size=64, distillation=1.0, draw_weights=(1, 1, 1, 1e-12))
    samples = data(MLP)
    turned = Samples(samples.x, 1 - samples.y, samples.recording)
    start = initial_state(MLP, 0)
    one, other = (
        train(MLP, start, 1.0, each, rule, np.random.default_rng(0))[0]
        for each in (samples, turned)
    )
    for name in MLP.spec.parameters:
        np.testing.assert_array_equal(one[name], other[name])
    assert any((one[name] != start[name]).any() for name in MLP.spec.parameters)


def test_the_teacher_of_ordered_dropout_is_the_widest_slice_and_is_not_trained_by_it():
    shown = []

    rule = replace(
        RULE, steps=1, batch_size=64, distillation=1.0, draw_weights=(1, 1e-12, 1e-12, 1e-12)
    )
    training = Training(MLP, initial_state(MLP, 0), 1.0, data(MLP), rule, np.random.default_rng(0))
    for width, piece in training._slices.items():
        forward = piece.forward

        def spied(tensors, x, forward=forward, width=width):
            outputs = forward(tensors, x)
            shown.append((width, outputs.requires_grad))
            return outputs

        piece.forward = spied
    training.step()
    assert shown == [(1.0, False), (0.25, True)]


# --- the learning rate ----------------------------------------------------------------------------


def test_a_constant_rate_is_the_given_number_itself():
    assert {RULE.rate(step) for step in range(20)} == {0.05}


@given(st.integers(1, 300), st.data())
def test_a_cosine_rises_to_its_highest_and_falls_to_almost_nothing(steps, draw):
    warm_up = draw.draw(st.integers(0, steps - 1))
    rule = replace(RULE, steps=steps, schedule=Schedule.COSINE, warm_up=warm_up)
    rates = [rule.rate(step) for step in range(steps)]
    assert rates[warm_up] == rule.learning_rate == max(rates)
    assert rates[:warm_up] == sorted(rates[:warm_up])
    assert rates[warm_up:] == sorted(rates[warm_up:], reverse=True)
    assert min(rates) > 0
    assert rates[-1] <= rule.learning_rate * 5.0 / (steps - warm_up) ** 2


def test_the_schedule_reaches_the_weights():
    """After a whole cosine the last steps hardly move anything."""
    rule = replace(RULE, steps=40, schedule=Schedule.COSINE, momentum=0.0, widths=(1.0,))
    training = Training(MLP, initial_state(MLP, 0), 1.0, data(MLP), rule, np.random.default_rng(0))
    moves = []
    before = training.state()
    for _ in range(rule.steps):
        training.step()
        after = training.state()
        moves.append(max(np.abs(after[name] - before[name]).max() for name in after))
        before = after
    assert moves[-1] < 0.02 * max(moves[:5])


# --- rules that cannot be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rule": "sandwhich"}, "sandwhich"),
        ({"schedule": "linear"}, "linear"),
        ({"random_widths": -1}, "random widths must be"),
        ({"distillation": 1.5}, "distillation 1.5 must be"),
        ({"distillation": float("nan")}, "must be"),
        ({"warm_up": 20}, "warm-up of 20 steps must be"),
        ({"warm_up": -1}, "must be"),
        ({"widest_share": 1.0}, "widest share 1.0 must be"),
        ({"widest_share": -0.1}, "at least 0 and below 1"),
        ({"widest_share": float("nan")}, "at least 0 and below 1"),
        ({"draw_weights": (1.0,)}, "one number above 0 for each"),
        ({"draw_weights": (1.0, 1.0, 1.0, 0.0)}, "above 0"),
        ({"draw_weights": (1.0, 1.0, 1.0, 1.0), "rule": "sandwich"}, "left out with sandwich"),
    ],
)
def test_a_rule_that_no_training_can_follow_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(RULE, **wrong)


def test_a_rule_may_be_given_by_its_name():
    rule = replace(RULE, rule="sandwich", schedule="cosine")
    assert (rule.rule, rule.schedule) == (WidthRule.SANDWICH, Schedule.COSINE)


# --- group norm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [GROUPS, IMAGES], ids=["cnn1d", "cnn2d"])
def test_groups_scale_and_their_channels_do_not(model):
    check_model(model, GRID)
    assert model.spec.statistics == frozenset()
    for width in GRID:
        network = model.build(width)
        for norm in network.norm:
            assert norm.num_channels // norm.num_groups == 2
    assert [model.build(width).norm[1].num_groups for width in (0.5, 1.0)] in ([4, 8], [2, 4])


def test_whole_groups_are_kept():
    for width in np.linspace(0.05, 1, 20):
        assert GROUPS.spec.shape("norm.1.weight", float(width))[0] % 4 == 0
    assert isinstance(GROUPS.spec.tensors["norm.0.weight"][0], ProductTerm)


def test_a_group_of_a_narrow_slice_is_computed_as_in_the_full_network():
    """The first stage of a slice gives exactly the first channels of the full network."""
    state = initial_state(GROUPS, 0)
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=a.shape).astype(np.float32) for name, a in state.items()}
    x = torch.from_numpy(data(GROUPS, 5).x)
    whole, narrow = GROUPS.build(1.0), GROUPS.build(0.5)
    for network, cut in ((whole, state), (narrow, slice_state(state, GROUPS.spec, 0.5))):
        network.load_state_dict({name: torch.from_numpy(array) for name, array in cut.items()})
    with torch.no_grad():
        full, part = (one.norm[0](one.conv[0](x)) for one in (whole, narrow))
    np.testing.assert_allclose(part.numpy(), full[:, : part.shape[1]].numpy(), atol=1e-6)


def test_a_network_of_group_norms_needs_no_calibration():
    cut = slice_state(initial_state(GROUPS, 0), GROUPS.spec, 0.5)
    assert calibrate(GROUPS, 0.5, cut, data(GROUPS).x) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layer"}, "use one of"),
        ({"norm": "group", "channels_per_group": 3}, "8 channels do not fill groups of 3"),
        ({"norm": "group", "channels_per_group": 0}, "at least 1"),
    ],
)
def test_norms_that_cannot_be_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        load_model("cnn1d", {**CNN_OPTIONS, **options})


# --- training in one place ------------------------------------------------------------------------


def central(model=CNN, rule=RULE, every=8, seed=0, **more):
    return train_centrally(
        model,
        initial_state(model, 0),
        data(model),
        data(model, seed=8),
        rule,
        np.random.default_rng(seed),
        measure_every=every,
        **more,
    )


def test_training_in_one_place_measures_every_width_on_the_way_and_at_the_end():
    steps, seen = [], []
    _, measured = central(
        after_step=lambda step, loss: steps.append((step, loss)), after_measurement=seen.append
    )
    assert [one.step for one in measured] == [8, 16, 20]
    assert seen == list(measured)
    assert [row.width for row in measured[-1].scores] == list(GRID)
    assert [step for step, _ in steps] == list(range(1, 21))
    assert measured[1].training_loss == pytest.approx(np.mean([loss for _, loss in steps[8:16]]))


def test_measuring_more_often_changes_nothing():
    often, rare = central(every=1)[0], central(every=100)[0]
    for name, array in often.items():
        np.testing.assert_array_equal(array, rare[name])


def test_it_is_the_same_training_as_on_a_device():
    state, _ = central()
    expected, _ = run(CNN)
    for name in CNN.spec.parameters:
        np.testing.assert_array_equal(state[name], expected[name])


def test_what_comes_back_is_calibrated_at_full_width():
    state, _ = central()
    found = calibrate(CNN, 1.0, state, data(CNN).x)
    for name in CNN.spec.statistics:
        np.testing.assert_array_equal(state[name], found[name])


def test_the_last_measurement_is_of_what_comes_back():
    state, measured = central()
    again = measure_widths(CNN, state, GRID, data(CNN).x, data(CNN, seed=8))
    assert again == measured[-1].scores


def test_training_in_one_place_leaves_torchs_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    central()
    assert torch.equal(torch.rand(1), expected)


def test_a_training_that_diverges_says_what_to_do():
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        central(VALUES, replace(RULE, learning_rate=1e12))


def test_data_that_does_not_fit_is_refused():
    samples = data(MLP)
    with pytest.raises(
        SamplesError, match=r"samples of shape \(4,\), model 'cnn1d' takes \(2, 8\)"
    ):
        check_data(CNN, samples, "training data")
    with pytest.raises(SamplesError, match="one sample is too few"):
        check_data(MLP, samples.take(np.array([0])), "training data")
    wrong = Samples(samples.x, samples.y + 3, samples.recording)
    with pytest.raises(SamplesError, match="labels run from 3"):
        check_data(MLP, wrong, "training data")


@pytest.mark.parametrize(
    "more", [{"other_inputs": (ModelInput((2,)),)}, {"input_dtype": "int64"}], ids=["two", "tokens"]
)
def test_networks_with_other_inputs_are_not_trained_here(more):
    with pytest.raises(ModelError, match="one float32 input can be trained"):
        check_data(replace(MLP, **more), data(MLP), "training data")


def test_the_table_holds_a_line_per_measurement_and_width():
    rows = (WidthScore(0.5, 0.25, 1.5), WidthScore(1.0, 0.75, 0.5))
    text = as_csv([Measurement(10, 2.0, rows), Measurement(20, 1.0, rows)]).decode()
    assert text.splitlines()[:3] == [
        "step,width,score,validation_loss,training_loss",
        "10,0.5,0.25,1.5,2",
        "10,1,0.75,0.5,2",
    ]
    assert len(text.splitlines()) == 5


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 80), st.integers(1, 100))
def test_any_batch_of_any_data_trains(count, batch):
    samples = data(MLP, count)
    rule = replace(SANDWICH, steps=2, batch_size=batch)
    _, loss = train(MLP, initial_state(MLP, 0), 1.0, samples, rule, np.random.default_rng(0))
    assert np.isfinite(loss)
