"""A student against the loss and the optimiser of the papers, written out with torch's own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimmable.ensemble import Lesson, consensus_lesson, mean_lesson
from slimmable.evaluation import initial_state, outputs
from slimmable.model import load_model
from slimmable.slicing import slice_state
from slimmable.student import LOOKS, PATIENCE, StudentRule, lesson_loss, teach
from slimmable.task import classification, regression
from tests.fakes.toy_models import toy

pytestmark = pytest.mark.torch

CLASSES = ("a", "b", "c")
GRID = (0.25, 0.5, 1.0)


def rule(**changes):
    plain = {"steps": 20, "batch_size": 8, "learning_rate": 0.01, "widths": GRID}
    return StudentRule(**{**plain, **changes})


def model():
    return load_model("mlp", {"input_shape": [4], "classes": CLASSES, "hidden": [16, 16]})


def inputs(count=40):
    return np.random.default_rng(5).standard_normal((count, 4)).astype(np.float32)


def said_by(network, state, x, width=1.0):
    return outputs(network, width, slice_state(state, network.spec, width), x)


# --- the loss -------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.0, 5.0]))
def test_feddf_is_the_divergence_from_the_softmax_of_the_mean_logits(seed, temperature):
    rng = np.random.default_rng(seed)
    said = [rng.standard_normal((6, 3)).astype(np.float32) for _ in range(3)]
    student = rng.standard_normal((6, 3)).astype(np.float32)
    total = 0.0
    for sample in range(6):
        p = softmax(sum(one[sample].astype(float) for one in said) / 3 / temperature)
        q = softmax(student[sample].astype(float) / temperature)
        total += sum(p * np.log(p / q)) / 6
    found = lesson_loss(
        classification(CLASSES),
        torch.tensor(student),
        mean_lesson(said),
        rule(temperature=temperature),
    )
    assert float(found) == pytest.approx(temperature**2 * total, rel=1e-3, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 1.0]))
def test_fed_et_adds_the_divergence_from_those_who_disagree(seed, diversity):
    rng = np.random.default_rng(seed)
    said = [2 * rng.standard_normal((6, 3)).astype(np.float32) for _ in range(3)]
    student = rng.standard_normal((6, 3)).astype(np.float32)
    lesson = consensus_lesson(said)
    total = 0.0
    for sample in range(6):
        q = softmax(student[sample].astype(float))
        total -= math.log(q[lesson.outputs[sample].argmax()]) / 6
        if lesson.dissenting[sample]:
            p = softmax(lesson.dissent[sample].astype(float))
            total += diversity * sum(p * np.log(p / q)) / 6
    found = lesson_loss(
        classification(CLASSES), torch.tensor(student), lesson, rule(diversity=diversity)
    )
    assert float(found) == pytest.approx(total, rel=1e-3, abs=1e-5)


def softmax(logits):
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def test_values_are_compared_by_their_squared_distance():
    told = Lesson(np.array([[1.0], [3.0]], np.float32))
    found = lesson_loss(regression(), torch.tensor([[0.0], [1.0]]), told, rule())
    assert float(found) == pytest.approx((1 + 4) / 2)


# --- learning -------------------------------------------------------------------------------------


def test_a_step_at_one_width_is_adams():
    network, x = toy(kind="regression", out=1), inputs()
    state = initial_state(network, 0)
    wanted = Lesson(np.ones((40, 1), np.float32))
    one = rule(steps=3, batch_size=40, widths=(1.0,))
    found = teach(network, state, x, wanted, one, np.random.default_rng(0))

    twin = network.build(1.0)
    twin.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    adam = torch.optim.Adam(twin.parameters())
    for step in range(3):
        adam.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 3))
        adam.zero_grad()
        torch.nn.functional.mse_loss(twin(torch.tensor(x)), torch.tensor(wanted.outputs)).backward()
        adam.step()
    for name, tensor in twin.state_dict().items():
        np.testing.assert_allclose(found.state[name], tensor, rtol=1e-4, atol=1e-6)
    assert found.steps == 3


def test_every_width_of_the_grid_comes_closer_to_the_ensemble():
    network, x = model(), inputs(200)
    start = initial_state(network, 0)
    told = 3 * said_by(network, initial_state(network, 1), x)
    found = teach(network, start, x, Lesson(told), rule(steps=60), np.random.default_rng(0))
    for width in GRID:
        apart = [np.mean((said_by(network, s, x, width) - told) ** 2) for s in (start, found.state)]
        assert apart[1] < 0.8 * apart[0]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_identical_teachers_leave_an_identical_student_where_it_is(temperature):
    network, x = toy(classes=CLASSES), inputs()  # without batch norm, whose batches all differ
    state = initial_state(network, 0)
    lesson = mean_lesson([said_by(network, state, x)] * 3)
    alone = rule(steps=50, widths=(1.0,), temperature=temperature)
    found = teach(network, state, x, lesson, alone, np.random.default_rng(0))
    assert found.steps == 50
    assert all((found.state[name] == state[name]).all() for name in state)


def test_the_same_seed_teaches_the_same_and_the_world_draws_on_undisturbed():
    network, x = model(), inputs()
    state, told = initial_state(network, 0), Lesson(said_by(model(), initial_state(model(), 1), x))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = teach(network, state, x, told, rule(), np.random.default_rng(1))
    assert torch.rand(1) == expected
    second = teach(network, state, x, told, rule(), np.random.default_rng(1))
    other = teach(network, state, x, told, rule(), np.random.default_rng(2))
    assert all((first.state[name] == second.state[name]).all() for name in state)
    assert any((first.state[name] != other.state[name]).any() for name in state)


# --- the judge ------------------------------------------------------------------------------------


def judged(losses, steps=20):
    """Teach before a judge who says these losses, the first about the start."""
    network, x = model(), inputs()
    states, given_losses = [], iter(losses)

    def judge(state):
        states.append(state)
        return next(given_losses)

    told = Lesson(said_by(network, initial_state(network, 1), x))
    found = teach(
        network,
        initial_state(network, 0),
        x,
        told,
        rule(steps=steps),
        np.random.default_rng(0),
        judge,
    )
    return found, states


def test_the_best_look_is_kept_and_three_worse_ones_end_it():
    found, states = judged([1.0, 0.9, 0.5, 0.6, 0.7, 0.8])
    assert (found.steps, found.loss_before, found.loss_after) == (4, 1.0, 0.5)
    assert found.state is states[2]
    assert len(states) == 3 + PATIENCE


def test_where_no_look_is_better_nothing_is_taught():
    found, states = judged([1.0, 1.0, 1.1, 1.2])
    assert found.steps == 0
    assert found.state is states[0]
    assert found.loss_after == 1.0


def test_a_judge_looks_ten_times_and_at_the_end():
    found, states = judged([1.0 - 0.05 * at for at in range(LOOKS + 1)])
    assert len(states) == LOOKS + 1
    assert found.steps == 20


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_few_steps_are_looked_at_one_by_one(steps):
    _, states = judged([1.0 - 0.05 * at for at in range(steps + 1)], steps)
    assert len(states) == steps + 1


def test_a_start_that_says_nan_is_left_alone():
    found, states = judged([math.nan])
    assert found.steps == 0
    assert "NaN" in found.trouble
    assert len(states) == 1


def test_a_lesson_that_breaks_the_network_is_not_taken():
    network, x = toy(kind="regression", out=1), inputs()
    state = initial_state(network, 0)
    absurd = Lesson(np.full((40, 1), 3e38, np.float32))
    found = teach(network, state, x, absurd, rule(), np.random.default_rng(0))
    assert found.state is state
    assert found.steps == 0
    assert "loss is inf" in found.trouble
