"""Predicted round time and memory."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.prediction import (
    FIRST_STEP_BYTES,
    SET_UP_STEPS,
    extrapolate_memory,
    follow_ratio,
    out_of_memory_line,
    predict_memory,
    predict_round,
    training_cost,
)
from profiler.profile import WidthCost
from slimmable.training_rule import TrainingRule, WidthRule

MIB = 2**20
GRID = (0.25, 0.5, 1.0)
DROPOUT = TrainingRule(
    steps=1, batch_size=1, learning_rate=0.1, momentum=0.0, weight_decay=0.0, widths=GRID
)
COSTS = (
    WidthCost(0.25, 0.1, 200 * MIB),
    WidthCost(0.5, 0.3, 250 * MIB),
    WidthCost(1.0, 1.1, 400 * MIB),
)
seconds = st.floats(1e-6, 1e3)
sizes = st.integers(0, 2**33)


def test_an_average_step_is_the_mean_over_the_widths_that_are_drawn():
    cost = training_cost(COSTS, 0.5, DROPOUT)
    assert cost.step_s == pytest.approx(0.2)
    assert cost.peak_bytes == 250 * MIB
    assert training_cost(COSTS, 1.0, DROPOUT).step_s == pytest.approx(0.5)


def test_a_step_of_the_sandwich_rule_costs_all_the_widths_that_it_takes():
    both_ends = replace(DROPOUT, rule=WidthRule.SANDWICH, random_widths=0)
    assert training_cost(COSTS, 1.0, both_ends).step_s == pytest.approx(1.2)
    all_three = replace(DROPOUT, rule=WidthRule.SANDWICH, random_widths=1)
    assert training_cost(COSTS, 1.0, all_three).step_s == pytest.approx(1.5)
    assert training_cost(COSTS, 0.25, all_three).step_s == pytest.approx(0.1)


def test_a_step_of_the_own_width_costs_that_width_and_needs_no_other_measurement():
    own = replace(DROPOUT, rule=WidthRule.OWN_WIDTH)
    assert training_cost(COSTS, 1.0, own).step_s == pytest.approx(1.1)
    assert training_cost(COSTS[2:], 1.0, own).peak_bytes == 400 * MIB
    assert training_cost(COSTS[:2], 1.0, own) is None


def test_a_step_of_all_widths_costs_the_sum_of_those_inside():
    every = replace(DROPOUT, rule=WidthRule.ALL_WIDTHS)
    assert training_cost(COSTS, 1.0, every).step_s == pytest.approx(1.5)
    assert training_cost(COSTS, 0.5, every).step_s == pytest.approx(0.4)
    assert training_cost(COSTS, 0.5, every).peak_bytes == 250 * MIB
    assert training_cost(COSTS[1:], 1.0, every) is None


def test_weighted_draws_cost_by_how_often_each_width_is_drawn():
    wide = replace(DROPOUT, draw_weights=(1.0, 1.0, 2.0))
    assert training_cost(COSTS, 1.0, wide).step_s == pytest.approx((0.1 + 0.3 + 2.2) / 4)


def test_a_width_that_was_not_measured_has_no_cost():
    assert training_cost(COSTS[:2], 1.0, DROPOUT) is None
    assert training_cost(COSTS[1:], 0.5, DROPOUT) is None


def test_a_width_below_the_grid_trains_alone():
    assert training_cost((WidthCost(0.125, 0.05, 1),), 0.125, DROPOUT).step_s == 0.05


def test_a_round_is_its_steps_and_its_transfers():
    predicted = predict_round(COSTS[0], 20, 3_000_000, 1_000_000, 2_000_000.0)
    assert predicted == pytest.approx((20 + SET_UP_STEPS) * 0.1 + 2.0)


def test_an_unknown_link_costs_nothing():
    assert predict_round(COSTS[0], 20, 10**9, 10**9, 0.0) == predict_round(COSTS[0], 20, 0, 0, 1.0)


@given(seconds, st.integers(1, 1000), sizes, sizes, st.floats(1.0, 1e9))
def test_more_steps_or_bytes_never_make_a_round_shorter(step_s, steps, down, up, link):
    cost = WidthCost(1.0, step_s, 0)
    predicted = predict_round(cost, steps, down, up, link)
    assert predicted <= predict_round(cost, steps + 1, down, up, link)
    assert predicted <= predict_round(cost, steps, down + 1, up, link)
    assert predicted >= steps * step_s


def test_memory_follows_the_fitted_formula():
    predicted = predict_memory(228 * MIB, 45 * MIB, 144 * MIB)
    assert predicted == pytest.approx(228 * MIB + FIRST_STEP_BYTES + (216 + 178.56) * MIB, rel=1e-6)


@given(sizes, sizes, sizes, sizes, sizes)
def test_a_wider_sub_model_is_never_expected_to_need_less(peak, p, a, more_p, more_a):
    assert extrapolate_memory(peak, (p, p + more_p), (a, a + more_a)) >= peak
    assert extrapolate_memory(peak, (p, p), (a, a)) == peak


def test_the_line_about_memory_gives_width_need_and_budget():
    line = out_of_memory_line(1.0, 600 * MIB, 512 * MIB)
    assert line == "out of memory at width 1: needs 600 of 512 MiB"


@given(st.floats(0.1, 10), seconds)
def test_the_ratio_closes_in_on_what_is_observed(truth, predicted):
    ratio = 1.0
    for _ in range(40):
        ratio = follow_ratio(ratio, predicted, truth * predicted)
    assert ratio == pytest.approx(truth, rel=0.01)


def test_a_round_that_was_not_observed_teaches_nothing():
    assert follow_ratio(1.3, 0.0, 5.0) == 1.3
    assert follow_ratio(1.3, 5.0, 0.0) == 1.3
