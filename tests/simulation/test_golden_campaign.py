"""One small campaign, real from the first weights to the rewards, whose numbers must not move.

Four honest devices of different data sizes, one that sends back what it received and one that
repeats the model's last change. After a change that is meant to move the numbers, write the golden
file anew and say in the commit why they moved::

    python -m tests.simulation.test_golden_campaign
"""

import json
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from coordinator.settings import Settings
from journal.events import RewardsAllocated, RoundScored
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimmable.samples import Samples

pytestmark = pytest.mark.torch

GOLDEN = Path(__file__).parents[1] / "contract" / "golden" / "campaign.json"
CLASSES = ("idle", "turning", "jammed", "worn")
FEATURES = 8
SIZES = {"press": 600, "lathe": 100, "mill": 40, "fan": 16}
RIDERS = {"rider-replay": "replayed-delta", "rider-zero": "zero"}
VALIDATION = 2000
# Processors add in different orders. Of the largest contribution, and of the validation samples:
TOLERANCE, FLIPPED = 1e-3, 3
SETTINGS = msgspec.convert(
    {
        "fleet": "golden",
        "model": "mlp",
        "options": {"input_shape": [FEATURES], "classes": CLASSES, "hidden": [32, 16]},
        "widths": (0.25, 0.5, 1.0),
        "seed": 3,
        "training": {"steps": 20, "batch_size": 16, "learning_rate": 0.1},
        "rounds": {"budget": 3, "minimum": 3},
        "rewards": {"ladder": (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)},
    },
    Settings,
)


def samples(count, seed):
    """Return overlapping clouds around two centres a class, which no line can tell apart."""
    centres = np.random.default_rng(1).standard_normal((2 * len(CLASSES), FEATURES))
    rng = np.random.default_rng((2, seed))
    cloud = np.arange(count) % len(centres)
    x = 1.3 * centres[cloud] + rng.standard_normal((count, FEATURES))
    return Samples(x.astype(np.float32), (cloud % len(CLASSES)).astype(np.int64), np.arange(count))


def played(folder):
    """Play the campaign and return what the golden file holds of it."""
    devices = [
        SimulatedDevice(name, samples(count, at)) for at, (name, count) in enumerate(SIZES.items())
    ]
    devices += [
        SimulatedDevice(name, samples(60, 10 + at), rider=kind)
        for at, (name, kind) in enumerate(RIDERS.items())
    ]
    outcome = simulate(SETTINGS, devices, samples(VALIDATION, 99), folder)
    events = [record.event for record in outcome.records]
    scored = [event for event in events if isinstance(event, RoundScored)]
    (allocated,) = (event for event in events if isinstance(event, RewardsAllocated))
    return {
        "untrained": outcome.state.untrained,
        "rounds": [
            {
                "method": event.method,
                "evaluations": event.coalitions,
                "before": event.value_before,
                "after": event.value_after,
                "contributions": {one.device: one.score for one in event.contributions},
            }
            for event in scored
        ],
        "curve": {
            f"{point.width:g}": {"score": point.score, "offered": point.offered}
            for point in scored[-1].curve
        },
        "rule": allocated.rule,
        "note": allocated.note,
        "rewards": {
            one.device: {
                "contribution": one.contribution,
                "low": one.low,
                "high": one.high,
                "width": one.width,
                "equals": list(one.equals),
            }
            for one in sorted(allocated.rewards, key=lambda one: -one.contribution)
        },
    }


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return played(tmp_path_factory.mktemp("golden") / "run")


def largest(golden):
    return max(reward["contribution"] for reward in golden["rewards"].values())


def test_every_contribution_of_every_round_is_what_it_was(found, golden):
    near = TOLERANCE * largest(golden)
    assert len(found["rounds"]) == len(golden["rounds"]) == SETTINGS.rounds.budget
    for now, then in zip(found["rounds"], golden["rounds"], strict=True):
        assert (now["method"], now["evaluations"]) == (then["method"], then["evaluations"])
        assert now["contributions"] == pytest.approx(then["contributions"], abs=near)
        for value in ("before", "after"):
            assert now[value] == pytest.approx(then[value], abs=near)


def test_the_accounts_and_their_intervals_are_what_they_were(found, golden):
    near = TOLERANCE * largest(golden)
    for what in ("contribution", "low", "high"):
        now, then = (
            {device: reward[what] for device, reward in one["rewards"].items()}
            for one in (found, golden)
        )
        assert now == pytest.approx(then, abs=near)


def test_the_measured_widths_score_what_they_scored(found, golden):
    near = FLIPPED / VALIDATION
    assert found["untrained"] == pytest.approx(golden["untrained"], abs=near)
    assert list(found["curve"]) == list(golden["curve"])
    for width, then in golden["curve"].items():
        assert found["curve"][width]["offered"] == then["offered"]
        assert found["curve"][width]["score"] == pytest.approx(then["score"], abs=near)


def test_ranks_rule_and_rewards_are_what_they_were(found, golden):
    assert list(found["rewards"]) == list(golden["rewards"])
    assert (found["rule"], found["note"]) == (golden["rule"], golden["note"])
    for what in ("width", "equals"):
        for device, then in golden["rewards"].items():
            assert found["rewards"][device][what] == then[what]


def test_the_golden_campaign_says_something(golden):
    """Else the file could be written anew with numbers that guard nothing."""
    widths = {device: reward["width"] for device, reward in golden["rewards"].items()}
    assert golden["rule"] == "equal-gain"
    assert widths["press"] == 1.0 > widths["fan"] > 0.0
    assert {widths[rider] for rider in RIDERS} == {0.0}
    assert golden["rewards"]["press"]["equals"]
    assert golden["curve"]["1"]["score"] > 2 * golden["untrained"]


def _write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(played(Path(folder) / "run"), indent=1) + "\n")


if __name__ == "__main__":
    _write()
