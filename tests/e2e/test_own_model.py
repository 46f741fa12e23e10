"""A user's own network and own data, in a module of the user's: nothing of it ships with us."""

import csv
from functools import partial

import numpy as np
import pytest

from coordinator.fleet import confirmed
from edge_agent import Predictor
from tests.fakes.real_fleet import (
    SERVER,
    RealDevice,
    RealFleet,
    check_everybody_confirmed,
    check_history,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(240),
]
PLANT_MODEL = '''
"""Predicts a bearing's temperature from load, speed and the temperature of the room."""

import torch
from torch import nn

from slimmable.model import SlimmableModel
from slimmable.spec import AxisTerm, WidthSpec
from slimmable.task import regression
from slimmable.width import Axis

HIDDEN = Axis(12, scales=True, granule=3)


class Bearing(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.into = nn.Linear(3, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.out(torch.tanh(self.into(x)))


def bearing():
    spec = WidthSpec(
        axes=(HIDDEN, Axis(3, scales=False), Axis(1, scales=False)),
        tensors={
            "into.weight": (AxisTerm(0), AxisTerm(1)),
            "into.bias": (AxisTerm(0),),
            "out.weight": (AxisTerm(2), AxisTerm(0)),
            "out.bias": (AxisTerm(2),),
        },
        statistics=frozenset(),
    )
    build = lambda width: Bearing(HIDDEN.keep(width))
    return SlimmableModel("bearing", spec, regression(), (3,), build)
'''
TRACED_MODEL = '''
"""The same task with a network that knows nothing of widths: its width spec is derived."""

import torch
from torch import nn

from slimmable.from_module import slimmable_from_module
from slimmable.model import ModelInput
from slimmable.task import regression


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("range", torch.tensor([2.0, 2.0, 2.0]))  # a constant of the plant
        self.into = nn.Linear(3, 24)
        self.norm = nn.BatchNorm1d(24)
        self.gates = nn.Linear(24, 32)
        self.cell = nn.GRU(4, 8, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, x):
        hidden = self.norm(self.into(x / self.range))
        value, gate = self.gates(hidden).chunk(2, dim=1)
        steps, _ = self.cell((value * torch.sigmoid(gate)).unflatten(1, (4, 4)))
        return self.out(steps[:, -1])


def bearing():
    return slimmable_from_module("bearing", Gated, (ModelInput((3,)),), regression())
'''
COLUMNS = ("load", "speed", "room", "temperature", "day")
READER = {
    "reader": "csv",
    "reader_options": {"task": "regression", "label": "temperature", "recording": "day"},
}


def write_days(path, seed):
    """Write six days of measurements."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for day in range(6):
            for load, speed, room in rng.uniform(-1, 1, (25, 3)):
                temperature = load + 0.5 * speed + 0.3 * room + rng.normal(0, 0.02)
                row = (load, speed, room, temperature)
                writer.writerow([*(f"{value:.4f}" for value in row), day])


def write_everybody(fleet, module):
    (fleet.folder / "plant_model.py").write_text(module)
    write_days(fleet.folder / SERVER / "validation.csv", 0)
    for seed, name in enumerate(fleet.devices, start=1):
        write_days(fleet.folder / name / "own.csv", seed)


@pytest.mark.parametrize("module", [PLANT_MODEL, TRACED_MODEL], ids=["declared", "derived"])
def test_a_users_own_model_and_csv_files_go_through_the_whole_loop(tmp_path, module):
    data = {
        "train": {"data": "own.csv", **READER},
        "infer": {"evaluations": {"own": "own.csv"}, **READER},
    }
    with RealFleet(
        tmp_path / "fleet",
        [RealDevice("pump-1", config=data), RealDevice("pump-2", config=data)],
        campaign={
            "model": "plant_model:bearing",
            "widths": (0.25, 0.5, 1.0),  # as the rewards are: an untrained width is worth nothing
            "rounds": {"budget": 2, "minimum": 2},
            "training": {"steps": 40, "learning_rate": 0.05},
        },
        server={"validation": "validation.csv", **READER},
        environment={"PYTHONPATH": str(tmp_path / "fleet")},
        prepare=partial(write_everybody, module=module),
    ) as fleet:
        fleet.start_all()
        fleet.until_finished()

        check_history(fleet)
        check_everybody_confirmed(fleet.state)
        served = [device for device in fleet.state.devices.values() if confirmed(device)]
        assert served, fleet.last_logs()
        assert fleet.state.scored.curve[-1].score > max(0.2, fleet.state.untrained)
        for device in served:
            assert [one.data for one in device.report.evaluations] == ["own"]
            predictor = Predictor(fleet.folder / device.device / "data" / "slots")
            warm, cold = predictor.predict(
                np.array([[0.9, 0.5, 0.5], [-0.9, -0.5, -0.5]], np.float32)
            ).value.ravel()
            assert predictor.manifest.model == "bearing"
            assert warm > cold
