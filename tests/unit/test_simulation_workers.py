"""The training processes of a simulation, with stand-ins for the processes."""

import subprocess
import sys

import pytest
import torch

from broker.messages import TrainingSettings
from edge_agent import trainer
from edge_agent.trainer_protocol import DataSource, Failed, TrainCommand
from slimfleet.simulation import worker, workers
from slimfleet.simulation.errors import SimulationError
from slimmable.torch_device import computing_on, torch_device

COMMAND = TrainCommand(
    model="mlp",
    options={},
    spec_hash="",
    data=DataSource(path="", reader="npz"),
    width=1.0,
    state=b"",
    training=TrainingSettings(
        steps=1, batch_size=1, learning_rate=0.1, momentum=0.0, weight_decay=0.0, widths=(1.0,)
    ),
    seed=7,
)


class Mortal:
    """A training process that dies with its first command as long as `lives` lasts."""

    deaths = 0

    def __init__(self):
        self.process = self

    def exchange(self, command):
        if Mortal.deaths:
            Mortal.deaths -= 1
            return None
        return Failed(code="error", detail=f"seed {command.seed}")

    def kill(self):
        pass

    def end(self):
        return -9


@pytest.fixture
def mortal(monkeypatch):
    monkeypatch.setattr(workers, "_Child", Mortal)
    return Mortal


def test_a_training_whose_process_died_is_computed_by_the_next_one(mortal):
    mortal.deaths = 1
    with workers.open_workers(2) as pool:
        replies = [pool.submit(COMMAND) for _ in range(5)]
        assert {reply().detail for reply in replies} == {"seed 7"}


def test_two_deaths_of_one_training_end_the_simulation(mortal):
    mortal.deaths = 2
    with (
        workers.open_workers(1) as pool,
        pytest.raises(SimulationError, match="was ended by SIGKILL.*take fewer workers"),
    ):
        pool.submit(COMMAND)()


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(workers, "training_obstacle", lambda: "install slimfleet[train]")
    with (
        pytest.raises(SimulationError, match="install slimfleet"),
        workers.open_workers(0),
    ):
        pass


def test_a_worker_computes_on_the_torch_device_of_whoever_started_it(monkeypatch):
    """The process is left out: what it would be started with is what it is given here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    started, trained_on = [], []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    monkeypatch.setattr(trainer, "main", lambda _kept: trained_on.append(torch_device()))
    for name in ("cpu", "cuda:1", "auto"):
        with computing_on(name):
            workers._Child()
        monkeypatch.setattr(sys, "argv", started[-1][2:])
        worker.main()
    assert [command[1:3] for command in started] == [["-m", "slimfleet.simulation.worker"]] * 3
    assert trained_on == [torch.device("cpu"), torch.device("cuda:1"), torch.device("cuda")]
