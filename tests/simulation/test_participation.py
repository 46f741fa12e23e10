"""Machines that are a hundred times apart all take part, with deadlines that the policy chooses."""

import argparse

import pytest

from benchmarks import participation
from journal.events import RoundClosed, RoundOpened
from slimfleet.simulation.campaign import EPOCH, Tier
from slimfleet.simulation.round_facts import task_results
from tests.simulation.test_tiers import CURVE, fleet, of, play, settings, size

pytestmark = pytest.mark.torch

ROUNDS = 20
SLOWER = {"workstation": 1.0, "board": 8.0, "gateway": 30.0, "controller": 100.0}
PEAKS = ((0.25, 100.0), (0.5, 200.0), (1.0, 400.0))


def machines(**changes):
    known = {"step_s": CURVE, "noise": 0.1, "peak_mb": PEAKS, "memory_mb": 1000.0}
    return fleet(
        **{name: Tier(name=name, slower=slower / 10, **known) for name, slower in SLOWER.items()},
        radio=Tier(name="radio", slower=0.1, link_bytes_per_s=1e3, **known),
        tiny=Tier(name="tiny", **(known | {"memory_mb": 50.0})),
    )


def shares_of(outcome):
    tasks = task_results(outcome.records, size)
    names = [*SLOWER, "radio", "tiny"]
    found = participation.shares(outcome.records, tasks, names)
    return {one.device: one for one in found}


def rounds(**changes):
    return {"budget": ROUNDS, "minimum": ROUNDS, "deadline_s": 120.0} | changes


def test_every_device_that_can_hold_the_smallest_width_takes_part_in_almost_every_round(tmp_path):
    chosen = settings(rounds=rounds(deadline="chosen"), uploads={"encoding": "adaptive"})
    outcome = play(tmp_path, machines(), chosen)
    found = shares_of(outcome)
    assert found["tiny"].share == 0
    assert "needs 100 of 50 MiB" in found["tiny"].why
    for name in (*SLOWER, "radio"):
        assert found[name].share >= participation.GOAL, found[name]
    assert set(found["workstation"].widths) == {1.0}
    assert min(found["controller"].steps) < max(found["workstation"].steps)
    budgets = {event.budget_s for event in of(outcome, RoundOpened)}
    assert max(budgets) < 120
    assert all("devices can take part" in event.reason for event in of(outcome, RoundOpened))
    assert {task.upload for event in of(outcome, RoundOpened) for task in event.tasks} >= {
        "float32",
        "top-k",
    }
    assert len(of(outcome, RoundClosed)) == ROUNDS
    tasks = [task for task in task_results(outcome.records, size) if task.outcome == "counted"]
    sent = {one.device: one.uploaded_bytes / one.uploaded_float32 for one in tasks}
    assert sent["workstation"] == 1
    assert sent["radio"] < 0.5


def test_with_the_whole_network_and_all_steps_only_the_quick_ones_take_part(tmp_path):
    fedavg = settings(
        widths=(1.0,),
        rounds=rounds(deadline_s=20.0),
        rewards={"ladder": (1.0,)},
        width_policy={"least_steps": 8},
    )
    found = shares_of(play(tmp_path, machines(), fedavg))
    assert found["workstation"].share == 1
    assert found["controller"].share == 0
    assert "no width fits: 1 would take" in found["controller"].why


def test_a_fleet_of_boasters_is_found_out_and_no_round_stands_still(tmp_path):
    honest = {name: Tier(name=name, step_s=CURVE, slower=0.1) for name in ("a", "b")}
    liars = {
        "liar": Tier(name="liar", step_s=CURVE, slower=20.0, claims=0.01),
        "hopeless": Tier(name="hopeless", step_s=CURVE, slower=1e4, claims=1e-4),
    }
    chosen = settings(rounds=rounds(budget=30, minimum=30, deadline_s=30.0))
    outcome = play(tmp_path, fleet(**honest, **liars), chosen)
    tasks = task_results(outcome.records, size)
    found = {
        one.device: one for one in participation.shares(outcome.records, tasks, [*honest, *liars])
    }
    assert found["a"].share == found["b"].share == 1
    assert found["liar"].share > 0.5
    last = [task for task in tasks if task.device == "hopeless"]
    assert {task.outcome for task in last} == {"late"}
    assert len(last) < 20
    assert of(outcome, RoundOpened)[-1].not_invited["hopeless"].startswith("late in ")


def test_a_device_takes_part_from_the_minute_on_in_which_its_hours_begin(tmp_path):
    quick = Tier(name="pc", step_s=CURVE, slower=10.0)
    chosen = settings(
        rounds=rounds(budget=12, minimum=12), width_policy={"hours": {"late": "08:02-09:00"}}
    )
    outcome = play(tmp_path, fleet(a=quick, b=quick, late=quick), chosen)
    opened = [record for record in outcome.records if isinstance(record.event, RoundOpened)]
    for record in opened:
        names = {task.device for task in record.event.tasks}
        assert ("late" in names) is (record.at >= EPOCH + 120)
    assert {"late" in {t.device for t in r.event.tasks} for r in opened} == {True, False}


def test_the_benchmark_says_whether_its_goal_is_reached(monkeypatch):
    monkeypatch.setattr(
        participation, "MACHINES", (*participation.MACHINES[:2], participation.MACHINES[-1])
    )
    parser = argparse.ArgumentParser()
    participation.add_arguments(parser)
    result = participation.measure(parser.parse_args(["--rounds", "2", "--demo-rounds", "0"]))
    (table,) = result.tables
    assert [row[0] for row in table.rows] == ["workstation", "factory-pc", "tiny-board"]
    assert [row[5] for row in table.rows] == [100.0, 100.0, None]
    assert table.rows[2][-1] == "no room for the smallest width"
    assert [one.met for one in result.ratios] == [True, True]
