import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slimmable.samples import SamplesError
from slimmable.task import (
    HISTOGRAM_BINS,
    TaskError,
    TaskKind,
    classification,
    reconstruction,
    regression,
)

TASK = classification(["ok", "worn", "broken"])
values = arrays(np.float32, (6, 2), elements=st.floats(-100, 100, width=32))
logits = arrays(np.float32, (5, 3), elements=st.floats(-1000, 1000, width=32))


@given(logits)
def test_cross_entropy_is_finite_and_agrees_with_the_decoded_probability(outputs):
    targets = np.array([0, 1, 2, 0, 1])
    losses = TASK.losses(outputs, targets)
    assert np.isfinite(losses).all()
    assert (losses >= 0).all()
    probability = TASK.decode(outputs).value[np.arange(5), targets]
    np.testing.assert_allclose(np.exp(-losses), probability, atol=1e-12)


def test_a_decoded_class_comes_with_its_probability():
    decoded = TASK.decode(np.log(np.array([[0.2, 0.7, 0.1]], dtype=np.float32)))
    assert decoded.label.tolist() == [1]
    np.testing.assert_allclose(decoded.value, [[0.2, 0.7, 0.1]], atol=1e-6)
    np.testing.assert_allclose(decoded.confidence, [0.7], atol=1e-6)


def test_a_rare_class_weighs_as_much_as_a_common_one():
    outputs = np.zeros((10, 3), np.float32)
    outputs[0, 0] = 5.0  # sure of class 0, which is wrong for the one rare sample
    targets = np.array([1] + [0] * 9)
    losses = TASK.losses(outputs, targets)
    assert TASK.balanced_loss(outputs, targets) == pytest.approx(
        (losses[0] + losses[1:].mean()) / 2
    )


def test_accuracy_is_the_share_of_right_answers():
    outputs = np.eye(3, dtype=np.float32)
    targets = np.array([0, 1, 0])
    assert TASK.score(outputs, targets) == pytest.approx(2 / 3)
    assert TASK.sample_scores(outputs, targets).tolist() == [1, 1, 0]


@given(values, values)
def test_the_score_is_the_mean_of_the_sample_scores(outputs, targets):
    for task in (regression(), reconstruction()):
        scores = task.sample_scores(outputs, targets)
        assert scores.shape == (6,)
        assert task.score(outputs, targets) == pytest.approx(scores.mean())


def test_saying_the_mean_explains_nothing_whatever_the_scales_of_the_values():
    targets = np.array([[0, 1000], [2, 1004], [4, 1008]], dtype=np.float32)
    mean = np.broadcast_to(targets.mean(axis=0), targets.shape)
    assert regression().score(mean, targets) == pytest.approx(0)
    assert regression().score(targets, targets) == 1
    assert regression().score(-targets, targets) < 0


def test_constant_targets_are_right_or_wrong():
    constant = np.full((3, 1), 2.0, np.float32)
    assert regression().score(constant, constant) == 1
    assert regression().score(constant + 1, constant) == 0


def test_a_column_of_outputs_is_compared_with_a_vector_of_targets():
    outputs, targets = np.array([[1.0], [2.0]]), np.array([1.0, 4.0])
    assert regression().losses(outputs, targets).tolist() == [0, 4]
    assert regression().balanced_loss(outputs, targets) == 2


def test_outputs_that_would_broadcast_are_refused():
    with pytest.raises(TaskError, match="shape"):
        regression().losses(np.zeros((4, 1)), np.zeros((4, 3)))


def test_a_regression_passes_its_values_on():
    outputs = np.array([[3.0], [4.0]])
    decoded = regression().decode(outputs)
    assert decoded.value is outputs
    assert decoded.label.tolist() == [0, 0]
    assert decoded.confidence.tolist() == [1, 1]


def test_a_badly_reconstructed_input_has_a_large_error_and_no_confidence():
    inputs = np.array([[0.0, 2.0, 4.0], [0.0, 2.0, 4.0]], dtype=np.float32)
    outputs = np.array([[0.0, 2.0, 4.0], [2.0, 2.0, 2.0]], dtype=np.float32)
    decoded = reconstruction().decode(outputs, inputs)
    np.testing.assert_allclose(decoded.value, [0, 8 / 3])
    np.testing.assert_allclose(decoded.confidence, [1, 0])
    with pytest.raises(TaskError, match="inputs"):
        reconstruction().decode(outputs)


def test_a_broken_network_has_no_confidence():
    decoded = TASK.decode(np.full((2, 3), np.nan, np.float32))
    assert decoded.confidence.tolist() == [0, 0]
    assert TASK.reference(decoded).confidence[0] == 2


def test_histograms_count_classes_and_tenths_of_confidence():
    outputs = np.log(np.array([[0.98, 0.01, 0.01], [0.3, 0.25, 0.45], [1, 1e-30, 1e-30]]))
    reference = TASK.reference(TASK.decode(outputs))
    assert reference.classes == (2, 0, 1)
    assert len(reference.confidence) == HISTOGRAM_BINS
    assert (reference.confidence[4], reference.confidence[9]) == (1, 2)
    plain = regression().reference(regression().decode(np.zeros((3, 1))))
    assert plain.classes == (3,)


@pytest.mark.parametrize(
    "targets",
    [
        np.array([0, 3]),
        np.array([-1, 0]),
        np.array([0.0, 1.0]),
        np.array([[0], [1]]),
    ],
)
def test_labels_that_the_model_does_not_have_are_refused(targets):
    with pytest.raises(SamplesError, match="labels"):
        TASK.check_targets(targets)


def test_targets_that_fit_the_task_pass():
    TASK.check_targets(np.array([0, 2, 1]))
    regression().check_targets(np.array([0.5, 1.5], dtype=np.float32))
    with pytest.raises(SamplesError, match="floating point"):
        regression().check_targets(np.array([1, 2]))


def test_tasks_are_made_by_name():
    assert regression().kind is TaskKind.REGRESSION
    assert reconstruction().kind is TaskKind.RECONSTRUCTION
    for wrong in ([], ["one"], ["a", "a"]):
        with pytest.raises(TaskError, match="two distinct"):
            classification(wrong)
