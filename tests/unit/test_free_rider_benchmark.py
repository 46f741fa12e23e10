"""The campaigns of the free-rider benchmark, small: what riders earn, and what is said of it."""

import numpy as np
import pytest

from benchmarks.contributions import kendall
from benchmarks.free_rider_cells import Cell, Judge, run_cell
from benchmarks.free_rider_tables import detection_table, goals, honest_table, outcome_table
from benchmarks.recorded_rounds import Member, Plan, evidence_of, record
from coordinator.measuring import Validation
from coordinator.settings import Rewards
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.training_rule import TrainingRule

MODEL = load_model("mlp", {"input_shape": [8], "classes": ["a", "b", "c"], "hidden": [24]})
pytestmark = pytest.mark.torch

RULE = TrainingRule(
    steps=6, batch_size=16, learning_rate=0.05, momentum=0.9, weight_decay=0.0, widths=(0.5, 1.0)
)
PLAN = Plan(MODEL, RULE, rounds=4, by_samples=False, seed=0)


def samples(count, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.standard_normal((count, 8)) + 2.0 * np.eye(8)[y]
    return Samples(x.astype(np.float32), y.astype(np.int64), np.arange(count))


OWN = [samples(60, seed) for seed in range(4)]


def judge(basis="ledger"):
    return Judge(
        Validation.of(samples(90, 50)),
        samples(90, 51),
        "exact-shapley",
        32,
        Rewards(ladder=(0.5, 1.0), basis=basis),
        decay=1.0,
    )


@pytest.fixture(scope="module")
def outcomes():
    cells = [Cell("homogeneous", 0, (kind,)) for kind in ("zero", "replayed-delta")]
    cells.append(Cell("imbalanced(0.8, 1)", 0, ("label-noise", "tiny-data")))
    return [one for cell in cells for one in run_cell(cell, PLAN, OWN, judge(), (0, 1))]


def rider(outcomes, kind, novelty):
    [found] = [r for o in outcomes if o.novelty == novelty for r in o.riders if r.kind == kind]
    return found


def test_an_unchanged_upload_earns_nothing_from_the_first_round_on(outcomes):
    for novelty in (0, 1):
        zero = rider(outcomes, "zero", novelty)
        assert (zero.share, zero.width, zero.payoff, zero.detected) == (0, 0, 0, 1)
        assert zero.held > 0.2


def test_a_replayed_delta_is_paid_without_novelty_and_not_with_it(outcomes):
    assert rider(outcomes, "replayed-delta", 0).share > 0.2
    known = rider(outcomes, "replayed-delta", 1)
    assert abs(known.share) < 0.01
    assert (known.width, known.payoff) == (0, 0)


def test_honest_devices_get_a_release_and_the_tables_say_so(outcomes):
    assert not any(outcome.demoted for outcome in outcomes[:4])
    assert [row[4] for row in honest_table(outcomes).rows[:2]] == [0, 0]
    kinds = [row[2] for row in outcome_table(outcomes).rows]
    assert kinds.count("replayed-delta") == 2
    # Campaigns with several kinds show up in no detection figure: they are no fair null.
    assert len(detection_table(outcomes).rows) == 4
    assert goals(outcomes)[0].measured == 0


def test_by_assessment_only_what_a_device_has_learnt_alone_counts():
    cell = Cell("homogeneous", 0, ("zero", "label-noise"))
    [found] = run_cell(cell, PLAN, OWN, judge("assessment"), (1,))
    shares = {one.kind: one.share for one in found.riders}
    assert shares["zero"] == pytest.approx(0, abs=1e-12)
    assert shares["label-noise"] < 0.5 < min(found.shares.values())
    assert not found.demoted


def test_recorded_rounds_know_the_changes_before_them():
    members = [Member("a", samples(60, 0)), Member("b", samples(60, 1), "size-lie")]
    recording = record(PLAN, members)
    assert [len(closed.known) for closed in recording.rounds] == [0, 1, 2, 2]
    assert recording.rounds[0].claims == {"a": 60, "b": 600}
    third = recording.rounds[2]
    for name in MODEL.spec.parameters:
        moved = third.base[name] - recording.rounds[1].base[name]
        np.testing.assert_array_equal(third.known[0][name], moved)
    _, shares = evidence_of(PLAN, third, Validation.of(samples(30, 2)), novelty=2)
    assert all(0 < share < 1 for share in shares.values())


def test_kendalls_tau_is_the_balance_of_pairs():
    assert kendall([1, 2, 3], [4, 5, 9]) == 1
    assert kendall([1, 2, 3], [9, 5, 4]) == -1
    assert kendall([1, 2, 3], [4, 9, 5]) == pytest.approx(1 / 3)
    assert kendall([1, 1, 1], [4, 9, 5]) == 0
