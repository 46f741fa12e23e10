"""Which form of a width is written, and which width is closest to a budget that none keeps."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exporter.budget import NO_BUDGET, Budget
from exporter.errors import QuantisationError
from exporter.selection import OVER_BUDGET, closest, select_form
from exporter.variant_choice import DYNAMIC, FP32, STATIC, VariantMeasure, choose_variant

FULL = VariantMeasure(FP32, 0.010, 1000, None)
FAST = VariantMeasure(STATIC, 0.004, 300, 0.005)
SLOW = VariantMeasure(DYNAMIC, 0.030, 280, 0.001)
LOSSY = VariantMeasure(STATIC, 0.004, 300, 0.2)
FAILED = VariantMeasure(DYNAMIC, 0.0, 0, None, failed="no operator has an int8 form")


def select(*forms, budget=NO_BUDGET, mode="auto"):
    medians = {form.name: form.latency_s for form in forms if not form.failed}
    return select_form(forms, medians, budget, max_score_loss=0.01, mode=mode)


def test_without_a_budget_the_best_form_is_taken():
    assert select(FULL, FAST, SLOW).name == STATIC
    assert select(FULL, SLOW).name == FP32
    assert select(FULL).name == FP32


def test_a_form_that_is_slower_than_float32_is_taken_where_only_it_keeps_the_budget():
    chosen = select(FULL, SLOW, budget=Budget(size_bytes=500))
    assert (chosen.name, chosen.reason) == (DYNAMIC, "int8-dynamic: keeps the budget")
    assert dict(chosen.rejected) == {FP32: "over budget: 1 kB > 500 B"}


def test_a_form_that_loses_too_much_is_not_taken_for_any_budget():
    chosen = select(FULL, LOSSY, FAILED, budget=Budget(size_bytes=500))
    assert chosen.name == ""
    assert chosen.preferred == FP32
    assert chosen.reason == "fp32: over budget: 1 kB > 500 B"
    assert "loses 0.2" in dict(chosen.rejected)[STATIC]
    assert dict(chosen.rejected)[DYNAMIC] == FAILED.failed


def test_a_form_that_was_asked_for_has_no_substitute():
    budget = Budget(latency_s=0.02)
    assert select(FULL, SLOW, budget=budget, mode="dynamic").name == ""
    assert select(FULL, SLOW, budget=Budget(size_bytes=500), mode="off").name == ""
    with pytest.raises(QuantisationError, match="no operator"):
        select(FULL, FAILED, mode="dynamic")


def test_float32_that_is_over_the_budget_is_marked_beside_a_chosen_int8():
    chosen = select(FULL, FAST, budget=Budget(size_bytes=500))
    assert chosen.name == STATIC
    assert dict(chosen.rejected)[FP32].startswith(OVER_BUDGET)


SIZES, TIMES = st.integers(1, 10_000), st.floats(1e-6, 1.0)
INT8 = st.one_of(
    st.builds(VariantMeasure, st.just(STATIC), TIMES, SIZES, st.none() | st.floats(-0.1, 0.1)),
    st.builds(VariantMeasure, st.just(STATIC), TIMES, SIZES, st.none(), st.just("failed")),
)
BUDGETS = st.builds(Budget, TIMES | st.just(math.inf), SIZES.map(float) | st.just(math.inf))


@given(st.builds(VariantMeasure, st.just(FP32), TIMES, SIZES, st.none()), INT8, BUDGETS)
def test_whatever_is_chosen_keeps_the_budget_and_the_allowed_loss(full, int8, budget):
    chosen = select(full, int8, budget=budget)
    forms = {form.name: form for form in (full, int8)}
    good = [
        form
        for form in forms.values()
        if not form.failed
        and budget.fits(form.latency_s, form.size)
        and (form.name == FP32 or (form.score_loss is not None and form.score_loss <= 0.01))
    ]
    if chosen.name:
        assert forms[chosen.name] in good
    else:
        assert not good
    assert chosen.name not in dict(chosen.rejected)


@given(st.builds(VariantMeasure, st.just(FP32), TIMES, SIZES, st.none()), INT8)
def test_a_budget_that_everything_keeps_changes_nothing(full, int8):
    free = choose_variant((full, int8), max_score_loss=0.01, mode="auto")
    found = select(full, int8, budget=Budget(2.0, 20_000.0))
    assert (found.name, found.reason, found.rejected) == (free.name, free.reason, free.rejected)


def test_the_closest_is_the_one_that_is_least_over():
    offers = {0.5: (FULL, LOSSY, FAILED), 1.0: (VariantMeasure(FP32, 0.04, 4000, None), FAST)}
    medians = {(w, f.name): f.latency_s for w, forms in offers.items() for f in forms}
    near = closest(offers, medians, Budget(0.001, 100.0), max_score_loss=0.01)
    assert near == "width 1 as int8-static with 4 ms, 300 B"


@given(BUDGETS, st.lists(st.tuples(TIMES, SIZES), min_size=1, max_size=6))
def test_nothing_is_closer_than_the_closest(budget, measured):
    assume(budget.limits_anything)
    offers = {
        float(width): (VariantMeasure(FP32, latency, size, None),)
        for width, (latency, size) in enumerate(measured, start=1)
    }
    medians = {(width, FP32): forms[0].latency_s for width, forms in offers.items()}
    near = closest(offers, medians, budget, max_score_loss=0.0)
    width = float(near.split()[1])
    least = min(budget.excess(latency, size) for latency, size in measured)
    assert budget.excess(*measured[int(width) - 1]) == least
