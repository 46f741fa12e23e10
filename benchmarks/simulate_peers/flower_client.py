"""What a client does in Flower's simulation; its actors import it."""

from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import Experiment, network, train_epoch

app = ClientApp()


@lru_cache(maxsize=1)
def experiment(path: str) -> Experiment:
    """Read the data once per process."""
    torch.set_num_threads(1)
    return Experiment(Path(path))


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Train one client."""
    config = message.content["config"]
    data, model = experiment(str(config["experiment"])), network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    client = int(context.node_config["partition-id"])
    train_epoch(model, data, client, int(config["server-round"]))
    answer = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(data.shards[client])}),
        }
    )
    return Message(content=answer, reply_to=message)
