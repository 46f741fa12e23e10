"""The Pareto front of an export."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.front import Candidate, dominates, pareto_front

FEW = st.integers(0, 4).map(float)  # few values, so that ties happen
CANDIDATES = st.lists(st.builds(Candidate, st.none() | FEW, FEW, FEW), max_size=12)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([], ()),
        ([Candidate(0.5, 1, 1)], (True,)),
        ([Candidate(None, 1, 1)], (False,)),
        # The second is slower and larger, and scores no better.
        ([Candidate(0.9, 1, 1), Candidate(0.9, 2, 2)], (True, False)),
        # A trade: smaller, or better.
        ([Candidate(0.8, 1, 1), Candidate(0.9, 2, 2)], (True, True)),
        # Slower, but nothing else is as small.
        ([Candidate(0.9, 1, 9), Candidate(0.8, 2, 3)], (True, True)),
        # An unmeasured one pushes nothing off the front.
        ([Candidate(None, 0, 0), Candidate(0.1, 5, 5)], (False, True)),
    ],
)
def test_the_front_holds_what_nothing_beats(candidates, expected):
    assert pareto_front(candidates) == expected


@given(CANDIDATES)
def test_whatever_is_off_the_front_is_beaten_by_something_on_it(candidates):
    front = pareto_front(candidates)
    assert len(front) == len(candidates)
    chosen = [one for one, on in zip(candidates, front, strict=True) if on]
    for candidate, on_front in zip(candidates, front, strict=True):
        if candidate.score is None:
            assert not on_front
        else:
            assert on_front != any(dominates(one, candidate) for one in chosen)


@given(CANDIDATES)
def test_a_measured_set_has_a_front_and_the_best_of_each_kind_is_on_it(candidates):
    measured = [one for one in candidates if one.score is not None]
    front = pareto_front(candidates)
    assert any(front) == bool(measured)
    if measured:
        on_it = [one for one, on in zip(candidates, front, strict=True) if on]
        assert max(one.score for one in on_it) == max(one.score for one in measured)
        assert min(one.latency_s for one in on_it) == min(one.latency_s for one in measured)
        assert min(one.size_bytes for one in on_it) == min(one.size_bytes for one in measured)


@given(CANDIDATES, st.randoms())
def test_the_order_of_the_candidates_does_not_matter(candidates, random):
    order = list(range(len(candidates)))
    random.shuffle(order)
    front = pareto_front(candidates)
    assert pareto_front([candidates[i] for i in order]) == tuple(front[i] for i in order)
