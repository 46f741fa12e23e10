"""What an ensemble says, against rules written out sample by sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.ensemble import NobodyError, consensus_lesson, mean_lesson


@st.composite
def ensembles(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    members, samples, classes = (draw(st.integers(1, 5)) for _ in range(3))
    shape = (samples, classes + 1)
    return [3 * rng.standard_normal(shape).astype(np.float32) for _ in range(members)]


def naive_consensus(said):
    """Return the consensus and the second voice, one sample at a time."""
    outputs, dissent, dissenting = [], [], []
    for sample in range(len(said[0])):
        logits = [one[sample].astype(np.float64) for one in said]
        sure = [float(np.mean((one - one.mean()) ** 2)) for one in logits]
        consensus = sum(w * one for w, one in zip(sure, logits, strict=True)) / sum(sure)
        others = [
            (w, one)
            for w, one in zip(sure, logits, strict=True)
            if np.argmax(one) != np.argmax(consensus)
        ]
        outputs.append(consensus)
        dissenting.append(bool(others))
        weight = sum(w for w, _ in others)
        dissent.append(sum((w * one for w, one in others), np.zeros_like(consensus)))
        dissent[-1] = dissent[-1] / weight if others else dissent[-1]
    return np.array(outputs), np.array(dissent), np.array(dissenting)


@given(ensembles())
def test_the_consensus_is_that_of_the_paper_sample_by_sample(said):
    lesson = consensus_lesson(said)
    outputs, dissent, dissenting = naive_consensus(said)
    np.testing.assert_allclose(lesson.outputs, outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lesson.dissent, dissent, rtol=1e-4, atol=1e-5)
    assert lesson.dissenting.tolist() == dissenting.tolist()


@given(ensembles(), st.randoms(use_true_random=False))
def test_the_order_of_the_members_does_not_matter(said, random):
    turned = random.sample(said, len(said))
    for rule in (mean_lesson, consensus_lesson):
        ours, theirs = rule(said), rule(turned)
        np.testing.assert_allclose(ours.outputs, theirs.outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.dissent, theirs.dissent, rtol=1e-5, atol=1e-6)


@given(ensembles(), st.integers(1, 4))
def test_members_that_agree_say_what_each_of_them_says(said, count):
    for rule in (mean_lesson, consensus_lesson):
        lesson = rule([said[0]] * count)
        np.testing.assert_allclose(lesson.outputs, said[0], rtol=1e-5, atol=1e-6)
    assert not lesson.dissenting.any()
    assert not lesson.dissent.any()


def test_who_is_sure_of_a_class_outvotes_two_who_are_not():
    sure = np.array([[6.0, 0.0, 0.0]], np.float32)
    unsure = np.array([[0.0, 0.1, 0.0]], np.float32)
    assert consensus_lesson([sure, unsure, unsure]).outputs.argmax() == 0
    # The second voice is theirs alone.
    np.testing.assert_allclose(consensus_lesson([sure, unsure, unsure]).dissent, unsure)


def test_who_knows_nothing_at_all_weighs_the_same_as_the_others():
    flat = np.full((2, 3), 0.5, np.float32)
    lesson = consensus_lesson([flat, flat])
    assert np.isfinite(lesson.outputs).all()
    np.testing.assert_allclose(lesson.outputs, flat)


def test_the_mean_holds_one_member_at_a_time():
    alive = []

    def said():
        for value in range(5):
            alive.append(value)
            assert len(alive) == 1
            yield np.full((2, 2), value, np.float32)
            alive.pop()

    np.testing.assert_allclose(mean_lesson(said()).outputs, 2.0)


@pytest.mark.parametrize("rule", [mean_lesson, consensus_lesson])
def test_an_ensemble_of_nobody_is_refused(rule):
    with pytest.raises(NobodyError):
        rule([])
