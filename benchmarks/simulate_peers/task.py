"""The learning task of the peers: their network, a client's epoch, the test. Plain torch.

This folder's programs run in an environment of their own, so nothing of ours is imported here.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

RATE, MOMENTUM, BATCH, TEST_BATCH = 0.05, 0.9, 64, 200
Array = npt.NDArray[np.float32]


class Experiment:
    """The data of all clients, read from the file that every program gets.

    Attributes:
        x, y: (N, 1, 28, 28) and (N,), what is trained on.
        shards: (clients, samples) indices.
        test_x, test_y: what the global model is tested on.
        rounds: how many.
    """

    def __init__(self, path: Path) -> None:
        """Read it all."""
        with np.load(path) as arrays:
            self.x, self.test_x = (torch.from_numpy(arrays[name]) for name in ("x", "test_x"))
            self.y, self.test_y = (torch.from_numpy(arrays[name]) for name in ("y", "test_y"))
            self.shards = torch.from_numpy(arrays["shards"])
            self.rounds = int(arrays["rounds"])


def network() -> nn.Module:
    """Return the CNN of 105,866 parameters, always with the same initial weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train_epoch(model: nn.Module, experiment: Experiment, client: int, round_: int) -> None:
    """Train one local epoch: SGD with momentum, the samples in an order of this round."""
    rng = torch.Generator().manual_seed(1000 * round_ + client)
    mine = experiment.shards[client]
    order = mine[torch.randperm(len(mine), generator=rng)]
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    model.train()
    for batch in order.split(BATCH):
        optimiser.zero_grad()
        functional.cross_entropy(model(experiment.x[batch]), experiment.y[batch]).backward()
        optimiser.step()


def correct(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """Return how many test images are classified correctly."""
    model.eval()
    with torch.no_grad():
        parts = zip(x.split(TEST_BATCH), y.split(TEST_BATCH), strict=True)
        return sum(int((model(part).argmax(1) == labels).sum()) for part, labels in parts)


def write_result(path: Path, marks: Iterable[float], accuracies: Iterable[float]) -> None:
    """Write what the benchmark reads.

    Args:
        path: of the result.
        marks: monotonic times: before round 1, then after each round and its test.
        accuracies: of the global model after each round.
    """
    found = {"marks": list(marks), "accuracies": list(accuracies)}
    path.write_text(json.dumps(found), encoding="utf-8")


def now() -> float:
    """Return the time that rounds are measured by."""
    return time.monotonic()
