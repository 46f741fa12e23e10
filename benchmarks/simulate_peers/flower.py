"""The experiment in Flower's simulation: ``python flower.py EXPERIMENT RESULT``."""

import sys
from pathlib import Path

import torch
from flower_client import app as client_app
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from task import Experiment, correct, network, now, write_result

ACTORS = 2


def main(path: Path, result: Path) -> None:
    """Run the rounds and test the global model after each."""
    torch.set_num_threads(1)
    data, model = Experiment(path), network()
    marks: list[float] = []
    accuracies: list[float] = []
    server_app = ServerApp()

    def test(round_: int, arrays: ArrayRecord) -> MetricRecord:
        if round_:
            model.load_state_dict(arrays.to_torch_state_dict())
            accuracies.append(correct(model, data.test_x, data.test_y) / len(data.test_y))
        marks.append(now())
        return MetricRecord({})

    @server_app.main()  # type: ignore[untyped-decorator]
    def serve(grid: Grid, _context: Context) -> None:
        clients = len(data.shards)
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients
        )
        strategy.start(
            grid,
            ArrayRecord(model.state_dict()),
            num_rounds=data.rounds,
            train_config=ConfigRecord({"experiment": str(path)}),
            evaluate_fn=test,
        )
        write_result(result, marks, accuracies)

    run_simulation(
        server_app,
        client_app,
        num_supernodes=len(data.shards),
        backend_config={
            "init_args": {"num_cpus": ACTORS, "include_dashboard": False},
            "client_resources": {"num_cpus": 1.0, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
