"""What the agent asks of its training process arrives there, every field of it."""

import asyncio
import dataclasses
from pathlib import Path

from broker.messages import TrainingSettings
from edge_agent.trainer_process import TrainerProcess, TrainerSettings, TrainRequest
from edge_agent.trainer_protocol import Trained

TRAINING = TrainingSettings(
    steps=5, batch_size=8, learning_rate=0.1, momentum=0.9, weight_decay=0.0, widths=(1.0,)
)
REQUEST = TrainRequest(
    model="mlp",
    options={"hidden": [3]},
    spec_hash="abc",
    width=0.5,
    state=b"state",
    training=TRAINING,
    seed=3,
    behaviour="free-rider",
    noise=0.5,
    evaluate=True,
    upload="int8",
    upload_keep=0.1,
    correction=b"correction",
    start_seed=4,
    never_send=("head.*",),
    kept="kept",
    payload="public-scores",
    knowledge_weight=0.3,
    public="public/file",
    digest_steps=6,
)


def test_every_field_of_a_request_reaches_the_training_process():
    sent = []

    async def exchange(command, _timeout_s, _listener):
        sent.append(command)
        return Trained(
            state=b"", loss=0.0, steps=1, samples=1, cpu_s=0.0, emulated_s=0.0, peak_bytes=1
        )

    process = TrainerProcess(TrainerSettings(Path("own.npz")))
    process._exchange = exchange
    asyncio.run(process.train(REQUEST, 1.0))
    for field in dataclasses.fields(REQUEST):
        asked = getattr(REQUEST, field.name)
        assert asked != field.default, f"{field.name}: choose another value than the default"
        assert getattr(sent[0], field.name) == asked, field.name
