"""How long, and at what rate, each device trains in a round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import WidthCost
from coordinator.duties import shared
from coordinator.local_training import assessment_training, ordinary_steps, round_training
from coordinator.publications import publications
from coordinator.settings import Contributions, Settings, Training
from tests.fakes.office import Office, profile, settings, share_of

SMALL, LARGE = "lathe", "press"


def campaign(**training):
    return Settings(fleet="plant", model="cnn1d", training=Training(**training))


def office(contributions=None, **training):
    """A campaign of one device with 64 samples and one with 640."""
    changes = {"training": Training(batch_size=32, **training)}
    desk = Office(settings(contributions=contributions or Contributions(), **changes)).begin()
    desk.join(SMALL, samples=64)
    desk.join(LARGE, samples=640)
    return desk


def told_steps(desk):
    """What stands in the tasks that are published, device -> steps."""
    shares = {wanted: share_of(wanted) for wanted in shared(desk.state)}
    said = publications(desk.state, shares, lambda *_: None)
    tasks = {topic: body for topic, body in said.items() if type(body).__name__ == "Task"}
    return {topic.device: task.training.steps for topic, task in tasks.items()}


def test_without_epochs_everybody_takes_the_same_steps():
    desk = office(steps=7)
    assert told_steps(desk) == {SMALL: 7, LARGE: 7}


def test_with_epochs_each_device_passes_over_its_own_samples():
    desk = office(epochs=2.0)
    assert told_steps(desk) == {SMALL: 4, LARGE: 40}


def test_the_prediction_is_for_the_steps_that_the_device_itself_takes():
    desk = office(epochs=1.0)
    seconds = {task.device: task.predicted_s for task in desk.state.round.opened.tasks}
    assert seconds[LARGE] - seconds[SMALL] == pytest.approx(18 * 0.1)


def test_a_slow_device_is_told_fewer_steps_and_the_others_all():
    desk = office(steps=20)
    deadline = desk.state.settings.rounds.deadline_s * 0.8
    costs = (WidthCost(width=0.25, step_s=deadline / 10.5, peak_bytes=1),)
    desk.join("old", costs=costs)
    desk._answer()
    desk.scored({SMALL: 0.5, LARGE: 0.3})
    assert desk.state.devices["old"].reason.startswith("width 0.25 with 8 of 20 steps: 0.25 would")
    assert told_steps(desk) == {SMALL: 20, LARGE: 20, "old": 8}
    seconds = {task.device: task.predicted_s for task in desk.state.round.opened.tasks}
    assert seconds["old"] <= deadline


@given(st.integers(0, 10**9), st.floats(0.01, 100), st.integers(1, 512))
def test_whatever_a_device_claims_it_takes_at_least_one_step(samples, epochs, batch):
    steps = ordinary_steps(campaign(epochs=epochs, batch_size=batch), profile(samples=samples))
    assert steps >= 1
    assert abs(steps - max(1, epochs * samples / batch)) <= 0.5


def test_a_device_without_a_profile_takes_one_step():
    assert ordinary_steps(campaign(epochs=1.0), None) == 1


def test_the_learning_rate_falls_with_every_aggregated_round_and_with_no_other():
    desk = office(Contributions(alone_rounds=3), learning_rate=0.1, round_decay=0.5)
    assert desk.state.round.opened.training.learning_rate == 0.1
    desk.assessed()
    for expected in (0.1, 0.05, 0.025):
        assert desk.state.round.opened.training.learning_rate == pytest.approx(expected)
        desk.round_()


def test_an_assessment_is_as_long_as_so_many_rounds_and_its_rate_falls_where_that_of_rounds_does():
    desk = office(Contributions(alone_rounds=15), epochs=1.0, round_decay=0.5)
    assert told_steps(desk) == {SMALL: 30, LARGE: 300}
    assert desk.state.round.opened.training.schedule == "cosine"
    assert desk.state.round.opened.budget_s == 15 * desk.settings.rounds.deadline_s
    assert assessment_training(campaign()).schedule == "constant"


def test_a_round_before_any_was_aggregated_has_the_full_rate():
    assert round_training(campaign(learning_rate=0.2, round_decay=0.1), 0).learning_rate == 0.2
