"""Which axes scale, and how they are rounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.derivation.algebra import Prod, Reason, Var, why_fixed
from slimmable.derivation.factor_choice import OTHER_FACTOR, TWICE
from slimmable.derivation.scaling import (
    NO_PARAMETER,
    ScalingSettings,
    choose_scaling,
    distinct_lengths,
    granule_for,
)
from slimmable.model import ModelError
from slimmable.width import WidthError

QUARTERS = (0.25, 0.5, 0.75, 1.0)
FIXED = Reason("kernel")


def scaled(*tensors, others=(), baked=None, **settings):
    return choose_scaling(tensors, others, ScalingSettings(**settings), baked or {})


@pytest.mark.parametrize(
    ("size", "granule"), [(512, 16), (64, 16), (32, 8), (16, 4), (24, 4), (8, 2), (12, 2), (5, 1)]
)
def test_channels_are_rounded_as_coarsely_as_the_widths_stay_distinct(size, granule):
    assert granule_for(size, QUARTERS, (16, 8, 4)) == granule


@given(
    st.integers(1, 600),
    st.sets(st.floats(0.05, 0.99), min_size=1, max_size=8),
    st.lists(st.sampled_from([32, 16, 8, 4, 3]), min_size=1, max_size=3),
)
def test_no_granule_gives_more_distinct_lengths_than_the_chosen_one(size, widths, granules):
    grid = (*sorted(widths), 1.0)
    chosen = granule_for(size, grid, granules)
    reached = distinct_lengths(size, grid, chosen)
    for other in (*granules, 2, 1):
        if other <= size:
            assert distinct_lengths(size, grid, other) <= reached


def test_the_outer_factor_scales():
    heads, size, rows = Var(4), Var(16), Var(3, FIXED)
    found = scaled([Prod((rows, heads, size))])
    assert found.granules == {heads: 1}
    assert why_fixed(size) == OTHER_FACTOR


def test_the_inner_factor_scales_if_asked():
    heads, size = Var(4), Var(16)
    assert scaled([Prod((heads, size))], factor="inner").granules == {size: 1}
    assert why_fixed(heads) == OTHER_FACTOR


def test_too_few_heads_for_the_widths_let_their_size_scale_and_say_so():
    heads, size = Var(2), Var(16)
    found = scaled([Prod((heads, size))])
    assert set(found.granules) == {size}
    assert found.remarks[size] == "scales in the place of its product's outer factor 2"


def test_where_no_factor_stays_distinct_the_usual_one_scales_and_says_so():
    heads, size = Var(2), Var(3)
    found = scaled([Prod((heads, size))])
    assert set(found.granules) == {heads}
    assert found.remarks[heads] == "only 2 lengths for 4 widths"


def test_channels_that_are_flattened_keep_their_rounding():
    channels = Var(64)
    found = scaled([channels], [Prod((channels, Var(49, FIXED)))])
    assert found.granules == {channels: 16}


def test_products_that_share_a_factor_agree():
    first, shared, last = Var(8), Var(8), Var(8)
    found = scaled([Prod((first, shared))], [Prod((shared, last))])
    # The first product's outer factor leaves the second only its last one.
    assert set(found.granules) == {first, last}


def test_a_product_without_a_parameter_does_not_need_a_scaling_factor():
    tokens, features, heads = Var(3), Var(32), Var(8)
    found = scaled([tokens, features], [Prod((tokens, features))], others=[[Prod((heads, tokens))]])
    assert set(found.granules) == {features}
    assert why_fixed(heads) == NO_PARAMETER


def test_an_axis_that_is_twice_a_factor_stays():
    channels = Var(16)
    assert not scaled([channels], [Prod((channels, channels))]).granules
    assert why_fixed(channels) == TWICE


def test_a_factor_whose_size_stands_in_the_code_leaves_the_scaling_to_another():
    heads, size = Var(4), Var(16)
    where = Reason("the number 0.25 stands", "net.py:8")
    found = scaled([Prod((heads, size))], baked={size: where}, factor="inner")
    assert set(found.granules) == {heads}
    assert why_fixed(size) == where
    assert found.remarks[heads] == (
        "scales in the place of its product's inner factor: the number 0.25 stands (net.py:8)"
    )


def test_an_axis_whose_size_stands_in_the_code_scales_with_a_remark():
    features = Var(64)
    found = scaled([features], baked={features: Reason("the number 8 stands", "net.py:8")})
    assert found.remarks[features] == "the number 8 stands (net.py:8), and keeps its value"


@st.composite
def shared_products(draw):
    axes = [Var(draw(st.integers(2, 12))) for _ in range(draw(st.integers(2, 7)))]
    picks = st.lists(st.sampled_from(range(len(axes))), min_size=2, max_size=3, unique=True)
    chosen = draw(st.lists(picks, min_size=1, max_size=6))
    return [Prod(tuple(axes[number] for number in numbers)) for numbers in chosen]


@given(shared_products(), st.sampled_from(["outer", "inner"]))
def test_never_do_two_factors_of_one_product_scale(products, factor):
    found = scaled(*[[product] for product in products], factor=factor)
    for product in products:
        assert sum(part in found.granules for part in product.parts) <= 1


@pytest.mark.parametrize(
    "wrong", [{"factor": "middle"}, {"granules": (0,)}, {"widths": (0.5,)}, {"widths": ()}]
)
def test_settings_that_no_network_can_follow_are_refused(wrong):
    with pytest.raises((ModelError, WidthError)):
        ScalingSettings(**wrong)
