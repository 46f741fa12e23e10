import argparse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks import export, latency
from benchmarks.derivation_time import (
    DerivationTime,
    time_in_fresh_process,
    time_in_this_process,
)
from benchmarks.errors import BenchmarkError
from benchmarks.networks.catalogue import FULL_SIZE, LISTED
from benchmarks.references import REFERENCES, derive_reference, native_network, trained_looking
from benchmarks.results import as_text
from exporter.sessions import open_session

pytestmark = pytest.mark.torch


def timed(network, width, ratio, to_full=1.0, macs=1.0):
    return latency.Timed(network, width, 0.001, 0.001, ratio, 1.0, to_full, macs)


# --- which networks -------------------------------------------------------------------------------


def test_every_listed_network_is_measured_in_its_realistic_size_where_it_has_one():
    assert set(REFERENCES) == {*LISTED, *FULL_SIZE}
    assert all(REFERENCES[name] is entry for name, entry in FULL_SIZE.items())
    assert set(REFERENCES) >= latency.COMPUTE_BOUND


def test_an_unknown_network_is_refused_before_anything_is_measured():
    arguments = argparse.Namespace(networks=("lstn",), widths=(1.0,), turns=1, calls=1)
    with pytest.raises(BenchmarkError, match="no network 'lstn'; there are .*lstm"):
        latency.measure(arguments)


def test_norms_look_trained_and_weights_stay():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = network[0].weight.detach().clone()
    trained_looking(network)
    assert (network[0].weight == before).all()
    for tensor in (network[1].weight, network[1].running_mean, network[1].running_var):
        assert len(set(tensor.tolist())) == 4
    assert (network[1].running_var >= 0.5).all()


def test_a_network_that_was_built_otherwise_is_named():
    reference = derive_reference("two_heads", (0.5,))
    wrong = {name: array for name, array in reference.cut(0.5).items() if "bias" not in name}
    with pytest.raises(BenchmarkError, match="two_heads: the network built at width 0.5"):
        native_network(reference, 0.5, wrong)


# --- latency --------------------------------------------------------------------------------------


def test_both_files_of_a_width_compute_the_same(tmp_path):
    reference = derive_reference("two_inputs", (0.5,))
    files = latency._files(reference, 0.5, latency.TemplateCache(tmp_path))
    rng = np.random.default_rng(0)
    found = []
    sessions = [open_session(onnx) for onnx in (files.ours, files.native)]
    feed = {
        one.name: rng.standard_normal((2, *one.shape[1:])).astype(np.float32)
        for one in sessions[0].get_inputs()
    }
    found = [session.run(None, feed)[0] for session in sessions]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert files.macs > 0


def test_a_tiny_run_tells_ratios_of_every_width():
    arguments = argparse.Namespace(networks=("flatten_cnn",), widths=(0.5,), turns=2, calls=2)
    result = latency.measure(arguments)
    rows = [row[:2] for row in result.tables[0].rows]
    assert rows == [("flatten_cnn", 0.5), ("flatten_cnn", 1.0)]
    relative = result.tables[1].rows
    assert [row[1] for row in relative] == [0.5]
    assert 0.2 < relative[0][2] < 0.4  # about half squared
    assert "flatten_cnn, slowest width" in as_text(result, {}, "")


def test_the_slowest_width_of_a_network_is_held_against_the_goal():
    ratios = latency._sliced_ratios(
        [timed("vit", 0.5, 1.2), timed("vit", 1.0, 1.0), timed("tcn", 0.5, 1.01)]
    )
    assert [(one.name, one.met) for one in ratios] == [
        ("vit, slowest width 0.5", False),
        ("tcn, slowest width 0.5", True),
    ]


def test_only_compute_bound_networks_are_held_against_their_macs():
    found = [
        timed("resnet18", 0.5, 1.0, to_full=0.26, macs=0.25),
        timed("resnet18", 0.25, 1.0, to_full=0.08, macs=0.06),
        timed("lstm", 0.5, 1.0, to_full=0.5, macs=0.25),
        timed("resnet18", 1.0, 1.0),
    ]
    ratios = latency._compute_ratios(found)
    assert [one.met for one in ratios] == [True, False]
    (table,) = latency._compute_tables(found)
    assert [row[-1] for row in table.rows] == ["reached", "NOT REACHED", "none"]


# --- export ---------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 8))
def test_widths_for_torch_alone_are_spread_and_no_wider_than_the_mean(count, wanted):
    widths = tuple((number + 1) / count for number in range(count))
    chosen = export.spread(widths, wanted)
    assert len(set(chosen)) == len(chosen) == min(wanted, count)
    assert set(chosen) <= set(widths)
    # Wider ones would flatter us: they take torch longer.
    assert sum(chosen) / len(chosen) <= sum(widths) / len(widths) + 1e-9


def test_a_tiny_run_exports_each_width_and_times_a_width_spec(monkeypatch):
    monkeypatch.setattr(export, "time_in_fresh_process", time_in_this_process)
    arguments = argparse.Namespace(
        network="flatten_cnn", widths=(1.0, 0.5), repeats=1, derive=("flatten_cnn",)
    )
    result = export.measure(arguments)
    widths, derived = result.tables
    assert [row[0] for row in widths.rows] == [0.5, 1.0]
    assert widths.rows[0][1] < widths.rows[1][1]
    assert derived.rows[0][:2] == ("flatten_cnn", "1x12x12")
    assert min(derived.rows[0][2:6]) > 0
    assert [one.at_least for one in result.ratios] == [25, 5, None]
    assert "at 2 of 2 widths" in as_text(result, {}, "")


def test_torch_alone_is_counted_for_the_widths_where_it_was_not_measured():
    steps = export.Steps(0.1, 0.1, 0.1, 0.5, 0.6)
    found = [export.Timed(0.5, 10, steps, None), export.Timed(1.0, 20, steps, 3.0)]
    injection, release = export._export_ratios(found)
    assert (injection.measured, release.measured) == (6.0, 6.0)
    assert (injection.limit, release.limit) == (0.2, 1.0)
    assert (injection.met, release.met) == (True, True)


def test_recurrent_networks_have_their_own_limit():
    times = {
        "lstm": DerivationTime(9.0, 9.0, 1.0, 1.0),
        "vit": DerivationTime(5.0, 5.0, 1.0, 1.0),
        "tcn": DerivationTime(1.0, 1.0, 1.0, 1.0),
    }
    assert [(one.name, one.limit, one.met) for one in export._derivation_ratios(times)] == [
        ("slowest width spec, vit", 4.0, False),
        ("slowest width spec, lstm", 10.0, True),
    ]


def test_what_cannot_be_derived_is_said_in_one_line():
    with pytest.raises(BenchmarkError, match=r"width spec of lstn cannot be derived: .*no network"):
        time_in_fresh_process("lstn")
