import csv
import json

import numpy as np
import pytest

from benchmarks.cell_runner import cell_file, write_json
from benchmarks.errors import BenchmarkError
from benchmarks.fairness.data import TASKS, Parts
from benchmarks.heterogeneity import __main__ as command
from benchmarks.heterogeneity import campaign, cells, measures, report, runner
from benchmarks.heterogeneity.cases import CASES, FLEET
from benchmarks.heterogeneity.cells import Cell
from benchmarks.heterogeneity.experiment import run_on
from benchmarks.heterogeneity.goals import goals
from benchmarks.heterogeneity.methods import METHODS, NAMED, OURS
from slimfleet.simulation.devices import SimulatedDevice
from slimmable.model import load_model
from slimmable.samples import Samples

pytestmark = pytest.mark.torch
COSTS = {
    "widths": [0.25, 0.5, 0.75, 1.0],
    "step_s": [0.003, 0.004, 0.005, 0.006],
    "training_bytes": [3e6, 6e6, 9e6, 13e6],
}
TASK = TASKS["fashion-mnist"]
ROUNDS = 3


def images(count, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 10
    x = rng.normal(size=(count, 1, 28, 28)) + y[:, None, None, None] / 3
    return Samples(x.astype(np.float32), y.astype(np.int64), np.arange(count))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One real cell of two methods, with costs that were measured before."""
    folder = tmp_path_factory.mktemp("results")
    write_json(folder / "costs.json", {"fashion-mnist": COSTS})
    parts = Parts(tuple(images(128, seed) for seed in range(10)), images(40, 11), images(30, 12))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(campaign, "ROUNDS", ROUNDS)
        for method in (OURS, "fedavg"):
            cell = Cell("fashion-mnist", "all", method, 0)
            write_json(cell_file(folder, cell), run_on(parts, cell, 0.05, folder))
    return folder


def found(method, scores, seed=0, *, mb=1.0, participation=1.0, device_s=10.0):
    """Return a cell as if it had been run; ``scores`` of the full width, in points."""
    rounds = [
        {
            "downloaded_bytes": mb * 5e5,
            "uploaded_bytes": mb * 5e5,
            "closed_s": float(at),
            "device_s": device_s,
        }
        for at in range(1, len(scores) + 1)
    ]
    device = dict.fromkeys(("joules", "down_bytes", "up_bytes", "float32_bytes"), 1.0)
    return {
        "cell": {"data": "d", "case": "c", "method": method, "seed": seed, "tuning": None},
        "commit": "abc",
        "widths": [0.5, 1.0],
        "rounds": rounds,
        "scores": [{"0.5": score / 100 - 0.02, "1": score / 100} for score in scores],
        "devices": [{**device, "participation": participation}],
    }


# --- what is run ----------------------------------------------------------------------------------


def test_eight_methods_run_in_four_cases_on_two_data_sets_with_three_seeds():
    assert len(NAMED) == 8
    assert len(cells.named(cells.DATA)) == 8 * 4 * 2 * 3
    assert len({cell.key for cell in (*cells.named(cells.DATA), *cells.others())}) == len(
        cells.named(cells.DATA)
    ) + len(cells.others())


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("method", list(METHODS))
def test_what_all_methods_share_is_the_same_whatever_the_method(case, method):
    parts = [SimulatedDevice(name=f"d-{n}", samples=images(10, 0)) for n in range(10)]

    def settings(name):
        return campaign.settings_of(TASK, METHODS[name], CASES[case], 3, 0.1, 1.0, parts)

    one, other = settings(method), settings(OURS)
    assert one.rounds.deadline_s == other.rounds.deadline_s
    assert one.training.learning_rate == other.training.learning_rate
    assert one.training.epochs == other.training.epochs
    assert one.training.batch_size == other.training.batch_size
    assert one.uploads == other.uploads or "uploads" in METHODS[method].settings
    assert one.uploads == other.uploads or METHODS[method] not in NAMED
    assert (one.seed, one.rounds.budget) == (3, campaign.ROUNDS)


def test_half_of_the_fleet_could_train_the_full_width_by_the_deadline():
    for case in (CASES["compute"], CASES["link"], CASES["all"]):
        machines = case.machines(len(FLEET))
        fits = [one.factor + 2 * one.link_time <= case.deadline(len(FLEET)) for one in machines]
        assert sum(fits) in (len(FLEET) // 2, len(FLEET) // 2 + 1)


def test_what_does_not_limit_a_case_is_plentiful_in_it():
    assert {one.factor for one in CASES["link"].machines(10)} == {1.0}
    assert {one.link_time for one in CASES["memory"].machines(10)} == {0.0}
    assert {one.memory_share for one in CASES["compute"].machines(10)} == {1.0}


def test_every_machine_has_memory_for_the_narrowest_width_and_not_all_for_the_widest():
    model = load_model(TASK.model, dict(TASK.options))
    shares = [
        campaign.tier_of(machine, model, 1.0, COSTS) for machine in CASES["memory"].machines(10)
    ]
    needs = [needed / 2**20 for needed in COSTS["training_bytes"]]
    assert all(tier.memory_mb >= needs[0] for tier in shares)
    assert 0 < sum(tier.memory_mb >= needs[-1] for tier in shares) < len(shares)


# --- a real cell ----------------------------------------------------------------------------------


def test_a_cell_tells_rounds_widths_devices_time_and_bytes(results):
    one = json.loads(cell_file(results, Cell("fashion-mnist", "all", OURS, 0)).read_text())
    assert len(one["rounds"]) == len(one["scores"]) == ROUNDS
    assert set(one["scores"][-1]) == {"0.25", "0.5", "0.75", "1"}
    assert len(one["devices"]) == 10
    assert len({width for device in one["devices"] for width in device["widths"]}) > 1
    assert all(device["joules"] > 0 for device in one["devices"] if device["participation"])
    times = [round_["closed_s"] for round_ in one["rounds"]]
    assert times == sorted(times)
    assert measures.total(one, "float32_bytes") == pytest.approx(
        measures.total(one, "down_bytes") + measures.total(one, "up_bytes"), rel=0.01
    )


def test_devices_that_cannot_train_the_full_width_take_no_part_in_fedavg(results):
    ours, fedavg = (
        json.loads(cell_file(results, Cell("fashion-mnist", "all", name, 0)).read_text())
        for name in (OURS, "fedavg")
    )
    assert {width for device in fedavg["devices"] for width in device["widths"]} == {1.0}
    assert measures.participation(fedavg)[1] == 0
    assert measures.participation(ours)[0] > measures.participation(fedavg)[0]


def test_the_report_has_a_row_for_each_method_and_the_goals_below(results):
    text = report.write_all(results, "test")
    assert "fashion-mnist, all" in text
    assert OURS in text
    assert "every device in 95 % of the rounds" in text
    with (results / "rounds.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * ROUNDS
    assert (results / "progress-fashion-mnist.png").stat().st_size > 10_000


def test_an_empty_folder_is_reported_as_such(tmp_path):
    assert "no cell is finished" in report.write_all(tmp_path, "test")


# --- measures and goals ---------------------------------------------------------------------------


def test_time_and_bytes_to_a_score_are_those_of_the_first_round_that_reaches_it():
    curve = measures.curve(found(OURS, (50, 60, 70), mb=2.0))
    assert curve.first("time_s", 60) == 2.0
    assert curve.first("megabytes", 60) == pytest.approx(4.0)
    assert curve.first("time_s", 71) is None


def test_the_score_at_a_budget_is_that_of_the_last_round_inside_it():
    curve = measures.curve(found(OURS, (50, 60, 70, 80), device_s=10.0))
    assert curve.at("device_s", 30.0) == pytest.approx(70)
    assert curve.at("device_s", 5.0) == 0


def judged(name, methods):
    return next(goal for goal in goals(methods) if goal.name.startswith(name))


def test_a_method_that_scores_more_at_equal_device_seconds_takes_the_goal():
    ours = [found(OURS, (60, 70, 70, 70), seed) for seed in range(3)]
    same = [found("heterofl", (60, 70, 70, 70), seed) for seed in range(3)]
    better = [found("fjord", (60, 75, 75, 75), seed) for seed in range(3)]
    assert judged("within", {OURS: ours, "heterofl": same}).met
    goal = judged("within", {OURS: ours, "heterofl": same, "fjord": better})
    assert not goal.met
    assert "of fjord" in goal.detail


def test_a_method_that_took_more_device_time_is_judged_where_ours_ends():
    ours = [found(OURS, (60, 70, 70), device_s=10.0)]
    dear = [found("sheterofl", (40, 50, 60, 90, 90, 90), device_s=20.0)]
    one, other = goals({OURS: ours, "sheterofl": dear})[:2]
    assert one.met
    assert not other.met


def test_traffic_is_compared_where_the_reference_ends():
    ours = [found(OURS, (72, 72, 72, 72), mb=1.0)]
    theirs = [found("heterofl", (50, 60, 70, 70, 70), mb=1.0)]
    assert judged("at most half", {OURS: ours, "heterofl": theirs}).met
    slow = [found(OURS, (50, 60, 65, 72), mb=1.0)]
    assert not judged("at most half", {OURS: slow, "heterofl": theirs}).met
    never = [found(OURS, (50, 60, 60, 60), mb=1.0)]
    assert "is not reached" in judged("at most half", {OURS: never, "heterofl": theirs}).detail


def test_one_device_that_is_left_out_takes_the_goal_of_participation():
    assert judged("every device", {OURS: [found(OURS, (70,))]}).met
    assert not judged("every device", {OURS: [found(OURS, (70,), participation=0.9)]}).met


# --- running --------------------------------------------------------------------------------------


def test_a_learning_rate_is_chosen_on_validation_data_and_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.cell_runner, "run_cells", lambda *_: 0)
    cell = Cell("fashion-mnist", "all", OURS, 0)
    for at, trial in enumerate(cells.tuning("fashion-mnist", [OURS])):
        write_json(cell_file(tmp_path, trial), found(OURS, (50 + 5 * (at == 1),)))
    runner.tune([cell], tmp_path, 1, lambda _line: None)
    assert runner.rate_of(cell, tmp_path) == runner.STEP_SIZES["fashion-mnist"][1]
    with pytest.raises(BenchmarkError, match="no learning rate was chosen for fjord"):
        runner.rate_of(Cell("fashion-mnist", "all", "fjord", 0), tmp_path)


def test_cells_are_named_without_running_them(capsys):
    assert command.main(["--list", "--only", "memory_slimfleet"]) == 0
    assert capsys.readouterr().out.split() == [
        f"{data}_memory_slimfleet_s{seed}" for data in cells.DATA for seed in cells.SEEDS
    ]
    assert command.main(["--only", "nothing-like-it", "--list"]) == 1
