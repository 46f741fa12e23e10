"""How the simulator deals labelled data to devices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfleet.simulation.partitions import PartitionError, check_scheme, partition

SCHEMES = ("homogeneous", "dirichlet(1)", "dirichlet(0.3)", "imbalanced(0.8, 1)", "classes(2)")


def labels(count=1000, classes=5, seed=0):
    return np.random.default_rng(seed).integers(classes, size=count)


def deal(y, scheme, devices=4, seed=1, **more):
    return partition(y, scheme, devices, np.random.default_rng(seed), **more)


@given(
    st.sampled_from(SCHEMES), st.integers(2, 6), st.integers(1000, 2000), st.integers(0, 2**32 - 1)
)
def test_no_sample_is_dealt_twice_and_nobody_gets_less_than_the_minimum(
    scheme, devices, count, seed
):
    parts = deal(labels(count, seed=seed), scheme, devices, seed)
    dealt = np.concatenate(parts)
    assert len(parts) == devices
    assert min(len(part) for part in parts) >= 10
    assert len(np.unique(dealt)) == len(dealt)
    assert dealt.min() >= 0
    assert dealt.max() < count
    if not scheme.startswith("classes"):
        assert len(dealt) == count


@given(st.integers(1, 7), st.integers(100, 300), st.integers(0, 2**32 - 1))
def test_homogeneous_devices_differ_by_one_sample_at_most(devices, count, seed):
    y = labels(count, seed=seed)
    parts = deal(y, "homogeneous", devices, seed)
    counts = np.array([np.bincount(y[part], minlength=5) for part in parts])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


def test_the_majors_share_their_fraction_of_every_class():
    y = np.repeat(np.arange(10), 1000)
    parts = deal(y, "imbalanced(0.8,2)", 5)
    counts = np.array([np.bincount(y[part]) for part in parts])
    np.testing.assert_allclose(counts[:2], 400, atol=1)
    np.testing.assert_allclose(counts[2:], 200 / 3, atol=1)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_each_device_holds_its_own_class_and_as_many_as_asked(each, devices, seed):
    y = np.repeat(np.arange(4), 200)
    parts = deal(y, f"classes({each})", devices, seed)
    for device, part in enumerate(parts):
        held = np.unique(y[part])
        assert len(held) == each
        assert device % 4 in held
    for label in range(4):
        counts = [n for part in parts if (n := np.sum(y[part] == label))]
        assert not counts or (sum(counts) == 200 and max(counts) - min(counts) <= 1)


def test_a_small_alpha_makes_devices_less_alike():
    y = labels(5000)

    def unlikeness(scheme):
        counts = np.array([np.bincount(y[part], minlength=5) for part in deal(y, scheme)])
        return np.std(counts / counts.sum(axis=0), axis=0).mean()

    assert unlikeness("dirichlet(100)") < unlikeness("dirichlet(1)") < unlikeness("dirichlet(0.1)")


def test_the_same_generator_deals_the_same():
    for scheme in SCHEMES:
        for one, other in zip(deal(labels(), scheme), deal(labels(), scheme), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "scheme",
    [
        *("", "iid", "homogeneous(1)", "dirichlet", "dirichlet(0)", "dirichlet(-1)"),
        *("dirichlet(nan)", "dirichlet(inf)", "dirichlet(a)", "imbalanced(0.8)"),
        *("imbalanced(1, 1)", "imbalanced(0.8, 1.5)", "imbalanced(0.8, 0)", "classes(0)"),
        *("classes(1.5)", "classes(nan)", "classes(1", "classes(1)(1)"),
    ],
)
def test_what_names_no_scheme_is_refused(scheme):
    with pytest.raises(PartitionError, match="is no partition; write one like homogeneous"):
        check_scheme(scheme)


def test_what_cannot_be_dealt_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(PartitionError, match="leaves one of 8 devices with 3, and 10"):
        partition(labels(30), "homogeneous", 8, rng)
    with pytest.raises(PartitionError, match="in 1000 draws"):
        partition(np.repeat(np.arange(5), 9), "dirichlet(0.001)", 4, rng)
    with pytest.raises(PartitionError, match="somebody must be left"):
        partition(labels(), "imbalanced(0.8, 4)", 4, rng)
    with pytest.raises(PartitionError, match="has only 5 classes"):
        partition(labels(), "classes(6)", 4, rng)
    with pytest.raises(PartitionError, match="at least one"):
        partition(labels(), "homogeneous", 0, rng)
    with pytest.raises(PartitionError, match="one whole number for each sample"):
        partition(np.zeros((4, 2)), "homogeneous", 2, rng)
