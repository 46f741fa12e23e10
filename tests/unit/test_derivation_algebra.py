"""Terms: what unification, cuts and reshapes keep."""

import math
from itertools import product as pairs

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from slimmable.derivation.algebra import (
    Prod,
    Reason,
    Sum,
    Term,
    Var,
    factors,
    freeze,
    is_free,
    leaves,
    resolve,
    segments,
    size_of,
    split_product,
    split_sum,
    unify,
    why_fixed,
)
from slimmable.derivation.reshape import reshape

FIXED = Reason("a test says so", "net.py:3")


def keep(leaf: Var) -> int:
    """Return how many entries an axis keeps: half, where it may scale."""
    return leaf.size if leaf.reason is not None else math.ceil(leaf.size / 2)


def kept(term: Term) -> list[int]:
    """Return the kept indices of a dimension."""
    term = resolve(term)
    if isinstance(term, Var):
        return list(range(keep(term)))
    if isinstance(term, Sum):
        found, offset = [], 0
        for part in term.parts:
            found += [offset + index for index in kept(part)]
            offset += size_of(part)
        return found
    found = [0]
    for part in term.parts:
        found = [outer * size_of(part) + inner for outer, inner in pairs(found, kept(part))]
    return found


@st.composite
def terms(draw, size=None):
    """Draw a dimension: composed at random, some axes fixed."""
    size = draw(st.integers(1, 48)) if size is None else size
    kind = draw(st.sampled_from(["var", "prod", "sum"]))
    divisors = [n for n in range(2, size) if size % n == 0]
    if kind == "prod" and divisors:
        outer = draw(st.sampled_from(divisors))
        return Prod((draw(terms(outer)), draw(terms(size // outer))))
    if kind == "sum" and size > 1:
        first = draw(st.integers(1, size - 1))
        return Sum((draw(terms(first)), draw(terms(size - first))))
    return Var(size, draw(st.sampled_from([None, None, FIXED])))


@st.composite
def equal_terms(draw):
    size = draw(st.integers(1, 48))
    return draw(terms(size)), draw(terms(size))


@given(equal_terms())
def test_unified_dimensions_keep_the_same_indices(both):
    one, other = both
    fixed = [leaf for term in both for leaf in leaves(term) if leaf.reason is not None]
    unify(one, other)
    assert kept(one) == kept(other)
    assert size_of(one) == size_of(other)
    assert all(leaf.reason is not None for term in fixed for leaf in leaves(term))


@given(equal_terms())
def test_unifying_twice_changes_nothing_more(both):
    unify(*both)
    before = kept(both[0])
    unify(*both)
    assert kept(both[0]) == before


@given(terms(), st.data())
def test_a_cut_into_factors_keeps_the_length_and_the_order(term, data):
    size = size_of(term)
    outer = data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    pair = split_product(term, outer)
    assume(pair is not None)
    assert size_of(pair[0]) == outer
    assert kept(Prod(pair)) == kept(term)


@given(terms(), st.data())
def test_a_cut_into_segments_keeps_the_length_and_the_order(term, data):
    assume(size_of(term) > 1)
    first = data.draw(st.integers(1, size_of(term) - 1))
    pair = split_sum(term, first)
    assume(pair is not None)
    assert size_of(pair[0]) == first
    assert kept(Sum(pair)) == kept(term)


@st.composite
def reshapes(draw):
    dims = draw(st.lists(terms(), min_size=1, max_size=3))
    left = math.prod(map(size_of, dims))
    assume(left <= 5000)
    sizes = []
    while left > 1 and len(sizes) < 3:
        sizes.append(draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0])))
        left //= sizes[-1]
    return dims, [*sizes, left]


def kept_entries(dims, sizes):
    positions = np.arange(math.prod(sizes)).reshape(sizes)
    return positions[np.ix_(*[kept(dim) for dim in dims])].reshape(-1).tolist()


@given(reshapes())
def test_a_reshaped_tensor_keeps_the_same_entries(case):
    dims, sizes = case
    reshaped = reshape(dims, sizes)
    assert [size_of(dim) for dim in reshaped] == sizes
    before = kept_entries(dims, [size_of(dim) for dim in dims])
    assert kept_entries(reshaped, sizes) == before


@given(reshapes())
def test_reshaping_again_changes_nothing_more(case):
    dims, sizes = case
    first = [kept(dim) for dim in reshape(dims, sizes)]
    assert [kept(dim) for dim in reshape(dims, sizes)] == first


def test_channels_and_pixels_flatten_to_a_product():
    channels = Var(8)
    (flat,) = reshape([channels, Var(4, FIXED), Var(4, FIXED)], [128])
    assert factors(flat)[0] is channels
    assert kept(flat) == list(range(64))


def test_a_dimension_is_cut_where_its_parts_are_counted():
    rows = Var(96)
    _, heads, size = reshape([rows], [3, 4, 8])
    assert [size_of(part) for part in factors(rows)] == [3, 4, 8]
    assert factors(rows)[1:] == [heads, size]


def test_fused_rows_are_three_equal_segments():
    inner = Var(32)
    rows = Prod((Var(3, FIXED), Var(4), Var(8)))
    unify(rows, Sum((inner, inner, inner)))
    assert [size_of(part) for part in factors(inner)] == [4, 8]
    assert is_free(inner)
    assert kept(rows) == kept(Sum((inner, inner, inner)))


def test_groups_over_a_concatenation_lie_inside_its_segments():
    skip, up = Var(32), Var(16)
    groups = Var(6)
    unify(Sum((skip, up)), Prod((groups, Var(8))))
    assert [size_of(part) for part in segments(groups)] == [4, 2]
    assert is_free(skip)
    assert is_free(up)


def test_groups_that_straddle_two_segments_are_frozen():
    skip, up = Var(20), Var(12)
    unify(Sum((skip, up)), Prod((Var(4), Var(8))), "net.py:7")
    assert not is_free(skip)
    assert why_fixed(up) == Reason("tied to a dimension that is composed otherwise", "net.py:7")


def test_dimensions_of_other_sizes_are_frozen_and_the_sizes_are_named():
    one, other = Var(6), Var(4)
    unify(one, other, "net.py:9")
    for term in (one, other):
        reason = why_fixed(term)
        assert reason is not None
        assert reason.text == "tied to a dimension of another size (6 and 4)"
        assert reason.place == "net.py:9"


def test_a_length_of_one_is_broadcast():
    one, other = Var(1), Var(4)
    unify(one, other)
    assert is_free(other)


def test_an_axis_that_is_a_part_of_itself_is_frozen():
    axis = Var(4)
    unify(axis, Sum((Var(2), axis)))  # another size
    assert not is_free(axis)
    inner = Var(4)
    unify(inner, Prod((inner, Var(1))))  # the same axis
    assert is_free(inner)


def test_the_first_reason_stays():
    axis = Var(4)
    freeze(axis, FIXED)
    freeze(axis, Reason("later"))
    assert why_fixed(axis) == FIXED


def test_what_cannot_be_cut_by_reshaping_is_frozen():
    axis = Var(6)
    reshaped = reshape([axis, Var(5)], [10, 3], "net.py:4")
    assert [size_of(dim) for dim in reshaped] == [10, 3]
    assert not any(map(is_free, reshaped))
    assert not is_free(axis)
