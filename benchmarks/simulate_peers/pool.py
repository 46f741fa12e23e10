"""The experiment by hand, with two processes: ``python pool.py EXPERIMENT RESULT``."""

import multiprocessing
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from task import Experiment, correct, network, now, train_epoch, write_result

WORKERS = 2
State = dict[str, torch.Tensor]


def work(path: Path, number: int, pipe: Any) -> None:
    """Train every other client and test on every other image, until told None.

    Args:
        path: of the experiment.
        number: of this worker.
        pipe: takes (round, weights, whether to train) and gives (sum of the weights trained, or
            the number of images classified correctly).
    """
    torch.set_num_threads(1)
    data, model = Experiment(path), network().to(memory_format=torch.channels_last)
    while (order := pipe.recv()) is not None:
        round_, weights, training = order
        if training:
            total: State = {}
            for client in range(number, len(data.shards), WORKERS):
                model.load_state_dict(weights)
                train_epoch(model, data, client, round_)
                for name, tensor in model.state_dict().items():
                    total[name] = total[name] + tensor if name in total else tensor.clone()
            pipe.send({name: tensor.numpy() for name, tensor in total.items()})
        else:
            model.load_state_dict(weights)
            pipe.send(correct(model, data.test_x[number::WORKERS], data.test_y[number::WORKERS]))


def ask(pipes: list[Connection], round_: int, weights: State, *, training: bool) -> list[Any]:
    """Give every worker the same order and return their answers."""
    arrays = {name: tensor.contiguous() for name, tensor in weights.items()}
    for pipe in pipes:
        pipe.send((round_, arrays, training))
    return [pipe.recv() for pipe in pipes]


def main(path: Path, result: Path) -> None:
    """Run the rounds."""
    processes = multiprocessing.get_context("spawn")
    pipes = []
    for number in range(WORKERS):
        ours, theirs = processes.Pipe()
        processes.Process(target=work, args=(path, number, theirs), daemon=True).start()
        pipes.append(ours)
    torch.set_num_threads(1)
    data, weights = Experiment(path), network().state_dict()
    marks, accuracies = [now()], []
    for round_ in range(1, data.rounds + 1):
        sums = ask(pipes, round_, weights, training=True)
        weights = {
            name: torch.from_numpy(sum(one[name] for one in sums) / len(data.shards))
            for name in weights
        }
        right = ask(pipes, round_, weights, training=False)
        accuracies.append(sum(right) / len(data.test_y))
        marks.append(now())
    for pipe in pipes:
        pipe.send(None)
    write_result(result, marks, accuracies)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
