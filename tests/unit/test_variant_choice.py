"""Which form of a width is shipped."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import QuantisationError
from exporter.variant_choice import (
    DYNAMIC,
    FP32,
    LEAST_GAIN,
    MODES,
    STATIC,
    VariantMeasure,
    choose_variant,
    measure_loss,
)
from slimmable.task import classification, regression

SLOW, QUICK, QUICKEST = 10e-3, 6e-3, 4e-3
MS = st.floats(1e-6, 1.0)
LOSSES = st.none() | st.floats(-0.5, 0.5) | st.just(math.nan)


def measured(name, latency=SLOW, loss=0.0, **more):
    return VariantMeasure(name, latency, 1000, loss, **more)


@st.composite
def candidates(draw):
    made = [measured(FP32, draw(MS))]
    for name in draw(st.sets(st.sampled_from((STATIC, DYNAMIC)))):
        failed = draw(st.sampled_from(("", "", "no such operator")))
        made.append(measured(name, draw(MS), draw(LOSSES), failed=failed))
    return draw(st.permutations(made))


@given(candidates(), st.floats(0, 0.2))
def test_auto_takes_the_fastest_that_loses_no_more_than_allowed(candidates, allowed):
    choice = choose_variant(candidates, max_score_loss=allowed, mode="auto")
    by_name = {one.name: one for one in candidates}
    fp32, chosen = by_name[FP32], by_name[choice.name]
    good = [
        one
        for one in candidates
        if one.name != FP32
        and not one.failed
        and one.score_loss is not None
        and one.score_loss <= allowed
        and one.latency_s <= fp32.latency_s * (1 - LEAST_GAIN)
    ]
    assert chosen.latency_s == min((one.latency_s for one in good), default=fp32.latency_s)
    assert (choice.name == FP32) == (not good)


@given(candidates(), st.floats(0, 0.2))
def test_every_form_is_either_chosen_or_rejected_with_a_reason(candidates, allowed):
    choice = choose_variant(candidates, max_score_loss=allowed, mode="auto")
    told = [choice.name, *(name for name, _ in choice.rejected)]

    assert sorted(told) == sorted(one.name for one in candidates)
    assert all(why for _, why in choice.rejected)
    assert choice.reason.startswith(choice.name)


@given(candidates(), st.floats(0, 0.2), st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(candidates, allowed, random):
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert choose_variant(candidates, max_score_loss=allowed, mode="auto") == choose_variant(
        shuffled, max_score_loss=allowed, mode="auto"
    )


@given(candidates(), st.floats(0, 0.2))
def test_allowing_more_loss_never_makes_the_choice_slower(candidates, allowed):
    by_name = {one.name: one.latency_s for one in candidates}
    strict = choose_variant(candidates, max_score_loss=0.0, mode="auto")
    loose = choose_variant(candidates, max_score_loss=allowed, mode="auto")
    assert by_name[loose.name] <= by_name[strict.name]


def test_the_reason_names_latency_ratio_loss_and_criterion():
    forms = [
        measured(FP32),
        measured(STATIC, QUICK, 0.004, criterion="score on 500 labelled samples"),
        measured(DYNAMIC, 3 * SLOW),
    ]
    choice = choose_variant(forms, max_score_loss=0.01, mode="auto")
    assert choice.reason == (
        "int8-static: 6 ms, 0.60x of fp32 for a loss of 0.004"
        " (score on 500 labelled samples, allowed 0.01)"
    )
    assert dict(choice.rejected)[DYNAMIC] == "30 ms, 3.00x of fp32, which is not at least 5% faster"


def test_a_fast_form_that_loses_too_much_is_left_for_a_slower_one():
    forms = [measured(FP32), measured(STATIC, QUICKEST, 0.02), measured(DYNAMIC, QUICK, 0.0)]
    choice = choose_variant(forms, max_score_loss=0.01, mode="auto")
    assert choice.name == DYNAMIC
    assert dict(choice.rejected)[STATIC].startswith("loses 0.02")


def test_a_form_of_unknown_loss_is_not_taken():
    forms = [measured(FP32), measured(STATIC, QUICKEST, None)]
    choice = choose_variant(forms, max_score_loss=1.0, mode="auto")
    assert choice.name == FP32
    assert "not known" in choice.rejected[0][1]


@pytest.mark.parametrize(("mode", "name"), [("static", STATIC), ("dynamic", DYNAMIC)])
def test_a_form_that_was_asked_for_is_taken_whatever_it_costs(mode, name):
    forms = [measured(FP32), measured(STATIC, 9 * SLOW, 0.3), measured(DYNAMIC, 9 * SLOW, 0.3)]
    choice = choose_variant(forms, max_score_loss=0.0, mode=mode)
    assert choice.name == name
    assert "9.00x of fp32, loss 0.3" in choice.reason


@pytest.mark.parametrize("lacking", [[], [measured(STATIC, failed="no int8 form")]])
def test_a_form_that_was_asked_for_and_is_not_there_is_an_error(lacking):
    with pytest.raises(QuantisationError, match="int8-static was asked for"):
        choose_variant([measured(FP32), *lacking], max_score_loss=0.0, mode="static")


def test_off_takes_float32():
    forms = [measured(FP32), measured(STATIC, QUICKEST)]
    assert choose_variant(forms, max_score_loss=1.0, mode="off").name == FP32


@pytest.mark.parametrize(
    "forms",
    [
        [],
        [measured(STATIC)],
        [measured(FP32), measured(FP32)],
        [measured(FP32, failed="no memory")],
    ],
)
def test_without_float32_there_is_no_choice(forms):
    for mode in MODES:
        with pytest.raises(ValueError, match="each once, with fp32"):
            choose_variant(forms, max_score_loss=0.0, mode=mode)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'fast'"):
        choose_variant([measured(FP32)], max_score_loss=0.0, mode="fast")


def test_with_labels_the_loss_is_a_difference_of_scores():
    task = classification(["a", "b"])
    expected = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = measure_loss(task, expected, found, np.array([0, 1, 0, 0]))
    assert loss.value == pytest.approx(0.25)
    assert loss.criterion == "score on 4 labelled samples"


def test_without_labels_the_loss_is_the_share_of_changed_classes():
    expected, found = np.eye(4), np.eye(4)[[0, 1, 2, 2]]
    loss = measure_loss(classification(["a", "b", "c", "d"]), expected, found)
    assert loss.value == pytest.approx(0.25)
    assert "share of 4 samples" in loss.criterion


def test_without_labels_and_classes_the_loss_is_the_error_relative_to_the_spread():
    expected = np.array([[-1.0], [1.0]])
    assert measure_loss(regression(), expected, expected).value == 0
    assert measure_loss(regression(), expected, expected + 0.1).value == pytest.approx(0.1)
    constant = np.ones((3, 1))
    assert measure_loss(regression(), constant, constant).value == 0
    assert measure_loss(regression(), constant, constant + 1e-3).value == 1
