"""What a device's updates leave out comes with its own next update, whichever process trains."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent import trainer_protocol as protocol
from edge_agent.error_feedback import ErrorFeedback
from edge_agent.trainer_process import TrainerProcess, TrainerSettings
from edge_agent.training_job import Trainer
from slimfleet.simulation.devices import SimulatedDevice, SimulatedTrainer
from slimmable.evaluation import initial_state
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.state import decode_state, encode_state
from tests.unit.test_train_request import REQUEST, TRAINING

pytestmark = pytest.mark.torch

OPTIONS = {"input_shape": [4], "classes": ["idle", "turning"], "hidden": [8]}
MODEL = load_model("mlp", OPTIONS)
STATE = initial_state(MODEL, 0)
ASKED = replace(REQUEST, behaviour="honest", payload="state-dict", upload="top-k", width=1.0)


def samples(seed):
    rng = np.random.default_rng(seed)
    return Samples(rng.normal(size=(40, 4)).astype("f4"), np.arange(40) % 2, np.arange(40))


def command(folder, seed, left=b""):
    path, own = folder / f"{seed}.npz", samples(seed)
    np.savez(path, x=own.x, y=own.y, recording=own.recording)
    return protocol.TrainCommand(
        model="mlp",
        options=OPTIONS,
        spec_hash=MODEL.spec.spec_hash,
        data=protocol.DataSource(path=str(path), reader="npz"),
        width=1.0,
        state=encode_state(STATE),
        training=TRAINING,
        seed=5,
        upload="top-k",
        upload_keep=0.1,
        left=left,
    )


@pytest.mark.parametrize("keep_bytes", [0, 10**6])
def test_an_update_hangs_on_its_command_and_on_nothing_trained_before_it(tmp_path, keep_bytes):
    trainer = Trainer(lambda _event: None, threading.Event(), keep_bytes)
    first = trainer.answer(command(tmp_path, 1))
    trainer.answer(command(tmp_path, 2))
    again = trainer.answer(command(tmp_path, 1))
    assert again.state == first.state
    assert again.left == first.left


def test_what_was_left_out_is_added_to_the_next_change(tmp_path):
    trainer = Trainer(lambda _event: None, threading.Event())
    first = trainer.answer(command(tmp_path, 1))
    carried = trainer.answer(command(tmp_path, 1, first.left))

    def whole(trained):
        sent, left = decode_state(trained.state), decode_state(trained.left)
        names = sorted(left)
        change = np.concatenate([left[name].ravel() for name in names])
        change[sent["top-k/index"]] += sent["top-k/value"]
        return change, np.concatenate([decode_state(first.left)[n].ravel() for n in names])

    alone, before = whole(first)
    together, _ = whole(carried)
    np.testing.assert_allclose(together, alone + before, atol=1e-5)
    assert np.abs(before).max() > 0


def test_another_width_or_another_network_begins_with_nothing_left_out():
    feedback = ErrorFeedback()
    assert feedback.of("spec", 0.5) == b""
    feedback.keep("spec", 0.5, b"left")
    assert feedback.of("spec", 0.5) == b"left"
    assert feedback.of("spec", 1.0) == feedback.of("other", 0.5) == b""
    feedback.keep("spec", 1.0, b"")
    assert feedback.of("spec", 0.5) == b""


def reply(number):
    return protocol.Trained(
        state=b"",
        loss=0.0,
        steps=1,
        samples=1,
        cpu_s=0.0,
        emulated_s=0.0,
        peak_bytes=1,
        left=f"left by {number}".encode(),
    )


def test_a_device_hands_over_what_its_last_update_left_out():
    seen = []

    async def exchange(asked, _timeout_s, _listener):
        seen.append(asked.left)
        return reply(len(seen))

    process = TrainerProcess(TrainerSettings(Path("own.npz")))
    process._exchange = exchange

    async def train():
        for width in (1.0, 1.0, 0.5, 0.5):
            await process.train(replace(ASKED, width=width), 1.0)

    asyncio.run(train())
    assert seen == [b"", b"left by 1", b"", b"left by 3"]


class Remembering:
    """Workers that say what they were given."""

    def __init__(self):
        self.seen = []

    def submit(self, asked):
        self.seen.append((asked.data.path.rpartition("/")[2], asked.left))
        answer = reply(len(self.seen))
        return lambda: answer


def test_simulated_devices_do_not_get_what_another_one_left_out(tmp_path):
    pool = Remembering()
    devices = [
        SimulatedTrainer(SimulatedDevice(name, samples(1)), tmp_path, MODEL.spec, 2, 0, pool)
        for name in ("a", "b")
    ]

    async def train():
        for device in (*devices, *devices):
            await device.train(ASKED, 1.0)

    asyncio.run(train())
    assert pool.seen == [
        ("a.npz", b""),
        ("b.npz", b""),
        ("a.npz", b"left by 1"),
        ("b.npz", b"left by 2"),
    ]
