"""Machines of real speeds in a simulation: time, bytes and widths follow from them."""

import csv

import msgspec
import numpy as np
import pytest

from broker.messages import DropReason
from coordinator.settings import Settings
from journal.events import DeviceDropped, RoundClosed, RoundOpened, UpdateAccepted, WidthChosen
from profiler.prediction import SET_UP_STEPS
from slimfleet import cli
from slimfleet.simulation.campaign import SimulatedDevice, Tier, simulate
from slimfleet.simulation.errors import SimulationError
from slimfleet.simulation.round_facts import round_results, task_results
from slimmable.cost import payload_bytes
from slimmable.model import load_model
from tests.unit.test_simulation import CLASSES, blobs

pytestmark = pytest.mark.torch

MODEL = {"input_shape": [6], "classes": CLASSES, "hidden": [64]}
SPEC = load_model("mlp", MODEL).spec
STEPS = 8
CURVE = ((0.25, 0.1), (0.5, 0.2), (1.0, 0.4))


def size(width):
    return payload_bytes(SPEC, width)


def settings(**changes):
    plain = {
        "fleet": "sim",
        "model": "mlp",
        "options": MODEL,
        "widths": (0.25, 0.5, 1.0),
        "training": {
            "steps": STEPS,
            "batch_size": 8,
            "learning_rate": 0.1,
        },
        "rounds": {"budget": 2, "deadline_s": 60},
        "contributions": {"method": "data-size", "novelty": 0},
        "rewards": {"ladder": (0.25, 0.5, 1.0)},
    }
    return msgspec.convert(plain | changes, Settings)


def fleet(**tiers):
    return [
        SimulatedDevice(name, blobs(30, place), tier=tier)
        for place, (name, tier) in enumerate(tiers.items())
    ]


def play(folder, devices, chosen=None):
    return simulate(chosen or settings(), devices, blobs(60, 9), folder)


def of(outcome, kind):
    return [record.event for record in outcome.records if isinstance(record.event, kind)]


def tasks_of(outcome):
    return {(one.round, one.device): one for one in task_results(outcome.records, size)}


def test_a_training_takes_as_long_as_its_machine_does_and_so_does_the_round(tmp_path):
    quick, slow = Tier(name="pc", step_s=0.01), Tier(name="pi", step_s=CURVE)
    outcome = play(tmp_path, fleet(quick=quick, slow=slow))
    tasks = tasks_of(outcome)
    # An average step at full width draws each of the three widths equally often.
    expected = (STEPS + SET_UP_STEPS) * (0.1 + 0.2 + 0.4) / 3
    assert tasks[1, "slow"].train_s == pytest.approx(expected)
    assert tasks[1, "slow"].predicted_s == pytest.approx(expected)
    assert tasks[1, "quick"].train_s < 0.2
    rounds = round_results(outcome.records, tasks.values())
    assert rounds[0].closed_s - rounds[0].opened_s == pytest.approx(expected, abs=0.01)
    assert rounds[1].opened_s > rounds[0].closed_s
    assert rounds[0].device_s == pytest.approx(sum(tasks[1, n].device_s for n in ("quick", "slow")))


def test_transfers_take_time_by_the_rate_of_the_link(tmp_path):
    rate = 1000.0
    narrow = Tier(name="radio", step_s=0.001, link_bytes_per_s=rate)
    outcome = play(tmp_path, fleet(near=Tier(name="pc", step_s=0.001), far=narrow))
    near, far = (tasks_of(outcome)[1, name] for name in ("near", "far"))
    assert far.downloaded_bytes > size(far.width)  # it is encrypted
    assert far.download_s == pytest.approx(far.downloaded_bytes / rate)
    assert far.upload_s == pytest.approx(far.uploaded_bytes / rate, abs=0.01)
    assert far.uploaded_bytes == far.uploaded_float32 == far.downloaded_float32 == size(1.0)
    assert near.download_s == pytest.approx(0, abs=0.01)
    assert far.predicted_s == pytest.approx(far.device_s, rel=0.02)


def test_fewer_bits_travel_faster_and_the_plain_bytes_are_known_too(tmp_path):
    tier = Tier(name="radio", step_s=0.001, link_bytes_per_s=1000.0)
    chosen = settings(uploads={"encoding": "int8"})
    outcome = play(tmp_path, fleet(one=tier, other=tier), chosen)
    task = tasks_of(outcome)[1, "one"]
    assert task.uploaded_bytes < 0.5 * task.uploaded_float32
    assert task.upload_s == pytest.approx(task.uploaded_bytes / 1000.0, abs=0.01)
    (first, *_) = round_results(outcome.records, tasks_of(outcome).values())
    assert first.uncompressed_bytes == 4 * size(1.0)
    assert first.uploaded_bytes + first.downloaded_bytes < first.uncompressed_bytes


def test_the_width_follows_from_speed_link_and_memory(tmp_path):
    peaks = ((0.25, 100.0), (0.5, 200.0), (1.0, 400.0))
    outcome = play(
        tmp_path,
        fleet(
            pc=Tier(name="pc", step_s=CURVE),
            slow=Tier(name="slow", step_s=CURVE, slower=25.0),
            far=Tier(name="far", step_s=CURVE, link_bytes_per_s=size(1.0) / 30.0),
            small=Tier(name="small", step_s=CURVE, peak_mb=peaks, memory_mb=250.0),
            tiny=Tier(name="tiny", step_s=CURVE, peak_mb=peaks, memory_mb=50.0),
        ),
    )
    chosen = {one.device: one for one in of(outcome, WidthChosen)}
    assert {name: one.width for name, one in chosen.items()} == {
        "pc": 1.0,
        "slow": 0.5,
        "far": 0.5,
        "small": 0.5,
        "tiny": 0.0,
    }
    assert "would take" in chosen["slow"].reason
    assert "out of memory at width 1: needs 400 of 250 MiB" in chosen["small"].reason
    assert {one.device for one in of(outcome, RoundOpened)[0].tasks} == {
        *("pc", "slow", "far", "small")
    }


def test_who_takes_longer_than_the_deadline_is_late_and_costs_its_seconds(tmp_path):
    liar = Tier(name="liar", step_s=CURVE, slower=1000.0, claims=0.001)
    honest = Tier(name="pc", step_s=0.01)
    outcome = play(tmp_path, fleet(a=honest, b=honest, liar=liar))
    (dropped, *_) = of(outcome, DeviceDropped)
    assert (dropped.device, dropped.reason) == ("liar", DropReason.LATE)
    task = tasks_of(outcome)[1, "liar"]
    assert task.outcome == "late"
    assert task.train_s is task.upload_s is None
    assert task.device_s == pytest.approx(60, abs=1)
    assert task.downloaded_float32 == size(1.0)
    assert task.uploaded_bytes == task.uploaded_float32 == 0


def test_noise_and_other_work_spread_the_seconds_and_a_seed_gives_the_same_ones(tmp_path):
    chosen = settings(rounds={"budget": 6, "minimum": 6})
    tiers = {
        "still": Tier(name="still", step_s=0.1),
        "noisy": Tier(name="noisy", step_s=0.1, noise=0.2),
        "busy": Tier(name="busy", step_s=0.1, busy=0.5, busy_slower=3.0),
    }
    outcome = play(tmp_path / "one", fleet(**tiers), chosen)
    again = play(tmp_path / "again", fleet(**tiers), chosen)
    seconds = {
        name: [one.train_s for one in tasks_of(outcome).values() if one.device == name]
        for name in tiers
    }
    assert len(set(seconds["still"])) == 1
    assert len({round(second, 6) for second in seconds["noisy"]}) == 6
    assert 0.05 < np.std(np.log(seconds["noisy"])) < 0.5
    usual = seconds["still"][0]
    assert {round(second / usual, 6) for second in seconds["busy"]} == {1.0, 3.0}
    assert [r.at for r in outcome.records] == [r.at for r in again.records]


def test_a_closed_round_knows_why_each_task_did_not_count(tmp_path):
    """All the work of a round that misses its quorum is there, and none of it counted."""
    slow = Tier(name="slow", step_s=CURVE, slower=30.0, claims=0.5)
    chosen = settings(rounds={"budget": 1, "minimum": 1, "quorum": 2, "retry_s": 1.0})
    outcome = play(tmp_path, fleet(a=Tier(name="pc", step_s=0.01), b=slow), chosen)
    assert of(outcome, RoundClosed)[0].aggregated == ()
    first = tasks_of(outcome)[1, "a"]
    assert first.outcome == "round-abandoned"
    assert first.device_s < 1.0
    assert first.uploaded_bytes > 0
    assert of(outcome, UpdateAccepted)


@pytest.mark.parametrize(
    ("tier", "why"),
    [
        ({"step_s": 0.0}, "step_s = 0 must be above 0"),
        ({"step_s": -1.0}, "step_s = -1 must be above 0"),
        ({"step_s": float("nan")}, "step_s = nan must be above 0"),
        ({"step_s": ()}, "step_s must be pairs"),
        ({"step_s": ((1.0, 0.1), (0.5, 0.2))}, "the widths ascending"),
        ({"step_s": ((0.5, 0.1), (2.0, 0.2))}, "from above 0 to 1"),
        ({"step_s": ((0.5, 0.0),)}, "step_s = 0 must be above 0"),
        ({"step_s": 1.0, "peak_mb": -1.0}, "peak_mb = -1 must be at least 0"),
        ({"step_s": 1.0, "memory_mb": -1.0}, "memory_mb = -1"),
        ({"step_s": 1.0, "busy": 1.5}, "busy = 1.5 must be at least 0 and at most 1"),
        ({"step_s": 1.0, "slower": 0.0}, "slower = 0 must be above 0"),
        ({"step_s": 1.0, "claims": float("inf")}, "claims = inf"),
        ({"step_s": 1.0, "count": 0}, "count must be at least 1"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(tmp_path, tier, why):
    odd = Tier(name="odd", **tier)
    with pytest.raises(SimulationError, match=why):
        play(tmp_path, fleet(a=odd, b=odd))


EXPERIMENT = """
devices = [4]

[data]
path = "data.npz"

[[tiers]]
name = "pc"
count = 2
step_s = 0.01

[[tiers]]
name = "pi"
step_s = [[0.5, 0.02], [1.0, 0.05]]
link_bytes_per_s = 5e3

[campaign]
model = "mlp"
options = { input_shape = [6], classes = ["a", "b", "c"], hidden = [16] }
widths = [0.5, 1.0]
training = { steps = 8, batch_size = 8, learning_rate = 0.1 }
rounds = { budget = 1, minimum = 1 }
rewards = { ladder = [0.5, 1.0] }
contributions = { coalitions = 4 }
"""


def test_an_experiment_deals_tiers_in_turn_and_tells_what_each_task_took(tmp_path, capsys):
    samples = blobs(200, 1)
    np.savez(tmp_path / "data.npz", x=samples.x, y=samples.y, recording=samples.recording)
    file, out = tmp_path / "experiment.toml", tmp_path / "out"
    file.write_text(EXPERIMENT)
    assert cli.main(["simulate", str(file), "--out", str(out), "--workers", "1"]) == 0
    tables = {}
    for name in ("devices", "rounds", "tasks"):
        with (out / f"{name}.csv").open(newline="") as table:
            tables[name] = list(csv.DictReader(table))
    assert [row["tier"] for row in tables["devices"]] == ["pc", "pc", "pi", "pc"]
    slow = tables["tasks"][2]
    assert (slow["device"], slow["outcome"]) == ("device-3", "counted")
    assert float(slow["train_s"]) == pytest.approx(10 * 0.035)
    assert float(slow["upload_s"]) == pytest.approx(int(slow["uploaded_bytes"]) / 5e3, abs=0.01)
    assert float(tables["rounds"][0]["closed_s"]) > float(slow["device_s"])

    file.write_text(EXPERIMENT.replace("count = 2", "count = 0"))
    assert cli.main(["simulate", str(file), "--out", str(tmp_path / "bad")]) == 4
    assert "tier 'pc': it needs a name, and count" in capsys.readouterr().err
