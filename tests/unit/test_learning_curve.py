"""What a contribution is worth, read off the network's own learning curve."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.fleet import Phase
from coordinator.learning_curve import learning_curve, worth
from tests.fakes.office import Office, curve, settings

STEEP = [(6.0, 0.7), (8.0, 0.75), (9.0, 0.78), (10.0, 0.8)]
points = st.lists(st.tuples(st.floats(-10, 10), st.floats(-0.5, 1.5)), max_size=12)
scores = st.floats(0, 1)


def test_who_made_the_first_rounds_progress_is_worth_what_the_network_scored_after_it():
    found = learning_curve(0.1, 0.8, STEEP)
    assert worth(0.6, found) == pytest.approx(0.7)
    assert worth(0.3, found) == pytest.approx(0.4)
    assert worth(0.95, found) == pytest.approx(0.79)


def test_beyond_the_average_it_goes_on_as_steeply_as_over_the_second_half():
    found = learning_curve(0.1, 0.8, STEEP)
    half = 0.1 + 0.6 * 5 / 6  # on the way to the first round's score
    assert worth(0.5, found) == pytest.approx(half)
    assert worth(1.5, found) == pytest.approx(0.8 + (0.8 - half))


def test_without_rounds_or_progress_the_curve_is_a_line():
    for rounds in ([], [(0.0, 0.5)], [(2.0, 0.5), (-1.0, 0.4)]):
        assert worth(0.25, learning_curve(0.1, 0.9, rounds)) == pytest.approx(0.3)


def test_a_network_that_got_worse_is_worth_no_more_than_the_untrained_one():
    assert worth(0.7, learning_curve(0.5, 0.2, [(1.0, 0.4), (2.0, 0.2)])) == 0.5


@given(points, scores, scores, st.floats(-1, 3), st.floats(-1, 3))
def test_more_is_never_worth_less_and_the_ends_are_the_untrained_and_the_trained_network(
    rounds, untrained, trained, one, other
):
    found = learning_curve(untrained, trained, rounds)
    assert worth(min(one, other), found) <= worth(max(one, other), found) + 1e-12
    assert worth(0.0, found) == worth(-1.0, found) == untrained
    assert worth(1.0, found) == max(untrained, trained)


def test_a_campaign_remembers_its_progress_and_rewards_by_it():
    desk = Office(settings(rounds={"min_devices": 2, "budget": 2})).begin("press", "lathe")
    desk._answer()
    desk.scored({"press": 0.5, "lathe": 0.3}, points=curve({0.25: 0.5, 1.0: 0.7}))
    desk._answer()
    desk.scored({"press": 0.1, "lathe": 0.1}, points=curve({0.25: 0.6, 1.0: 0.8}))
    made, scored = zip(*desk.state.progress, strict=True)
    assert made == pytest.approx((0.8, 1.0))
    assert scored == pytest.approx((0.7, 0.8))
    assert desk.state.phase is Phase.EXPORTING
    rewards = {one.device: one for one in desk.state.allocation.rewards}
    # The lathe has 0.4 of an average of 0.5: four fifths of the progress made a score of 0.7.
    assert rewards["lathe"].value == pytest.approx(0.7)
    assert desk.replayed() == desk.state
