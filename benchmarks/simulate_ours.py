"""The experiment in our simulator: ``python -m benchmarks.simulate_ours EXPERIMENT RESULT``."""

import json
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.fashion_mnist import CLASSES
from coordinator.settings import Settings
from journal.events import RoundScored
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimmable.samples import Samples

WORKERS = 2
RATE, MOMENTUM, BATCH = 0.05, 0.9, 64  # those of simulate_peers/task.py


def settings_for(rounds: int, samples: int) -> Settings:
    """Return a campaign that does what the peers do: one width, one epoch, no Shapley values.

    Contributions by data size need no coalition of devices to be measured: like the peers, the
    server tests one model a round.

    Args:
        rounds: how many.
        samples: of each device.
    """
    plain = {
        "fleet": "benchmark",
        "model": "benchmarks.fairness.network:cnn",
        "options": {"classes": list(CLASSES)},
        "widths": (1.0,),
        "training": {
            "steps": -(-samples // BATCH),
            "batch_size": BATCH,
            "learning_rate": RATE,
            "momentum": MOMENTUM,
            "weight_decay": 0.0,
        },
        "rounds": {"budget": rounds, "minimum": rounds},
        "contributions": {"method": "data-size", "novelty": 0},
        "rewards": {"ladder": (1.0,)},
    }
    return msgspec.convert(plain, Settings).check()


def main(path: Path, result: Path) -> None:
    """Run the campaign."""
    with np.load(path) as arrays:
        x, y, shards = arrays["x"], arrays["y"], arrays["shards"]
        test = Samples(arrays["test_x"], arrays["test_y"], np.arange(len(arrays["test_y"])))
        rounds = int(arrays["rounds"])
    devices = [
        SimulatedDevice(f"device-{number}", Samples(x[shard], y[shard], shard))
        for number, shard in enumerate(shards)
    ]
    marks: list[float] = []
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
        outcome = simulate(
            settings_for(rounds, shards.shape[1]),
            devices,
            test,
            Path(folder) / "fleet",
            workers=WORKERS,
            progress=lambda _done, _budget: marks.append(time.monotonic()),
        )
    events = [record.event for record in outcome.records]
    scores = [event.curve[-1].score for event in events if isinstance(event, RoundScored)]
    found = {"marks": marks[: rounds + 1], "accuracies": scores}
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
