"""The training processes of a simulation, with stand-ins for the processes."""

import pytest

from broker.messages import TrainingSettings
from edge_agent.trainer_protocol import DataSource, Failed, TrainCommand
from slimfleet.simulation import workers
from slimfleet.simulation.errors import SimulationError

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
