"""The real training process, driven through its parent side."""

import asyncio
import os
import re
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from broker.messages import DropReason, TrainingSettings
from edge_agent import trainer_protocol as protocol
from edge_agent.trainer_process import TrainerProcess, TrainerSettings, TrainRequest
from edge_agent.training_failure import OutOfMemory, TrainingFailed
from profiler.emulation import SLOW_MOTION
from profiler.prediction import training_cost
from slimfleet.watch import EXERCISES, person_samples
from slimmable.evaluation import initial_state
from slimmable.model import load_model
from slimmable.slicing import check_state, slice_state
from slimmable.state import decode_state, encode_state
from slimmable.training_rule import TrainingRule

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
MODEL = "cnn1d"
OPTIONS = {"sensors": 6, "length": 100, "classes": list(EXERCISES)}
WIDTHS = (0.25, 0.5)
FOREVER = 10**6  # steps that nobody waits for
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    samples = person_samples(1).take(np.arange(96))
    path = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(path, x=samples.x, y=samples.y, recording=samples.recording)
    return path


@pytest.fixture(scope="module")
def model():
    return load_model(MODEL, OPTIONS)


@pytest.fixture(scope="module")
def request_for(model):
    full = initial_state(model, seed=0)

    def build(steps: int, width: float = 0.5, **changes) -> TrainRequest:
        settings = TrainingSettings(
            steps=steps,
            batch_size=16,
            learning_rate=0.05,
            momentum=0.9,
            weight_decay=1e-4,
            widths=WIDTHS,
        )
        plain = TrainRequest(
            model=MODEL,
            options=OPTIONS,
            spec_hash=model.spec.spec_hash,
            width=width,
            state=encode_state(slice_state(full, model.spec, width)),
            training=settings,
            seed=3,
        )
        return replace(plain, **changes)

    return build


@asynccontextmanager
async def trainer(data: Path, **changes):
    settings = TrainerSettings(data=data, environment={"PYTHONPATH": str(ROOT)}, **changes)
    process = TrainerProcess(settings)
    try:
        yield process
    finally:
        await process.close()


async def gone(pid: int) -> bool:
    async with asyncio.timeout(DEADLINE_S):
        while _runs(pid):  # noqa: ASYNC110  another process's child: nothing tells us of its end
            await asyncio.sleep(0.02)
    return True


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_one_process_profiles_trains_and_leaves(data, model, request_for):
    async with trainer(data) as process:
        benchmark = await process.profile(MODEL, OPTIONS, WIDTHS, batch_size=16)
        assert [cost.width for cost in benchmark.costs] == list(WIDTHS)
        assert all(cost.step_s > 0 for cost in benchmark.costs)
        assert all(cost.peak_bytes >= benchmark.baseline_bytes > 0 for cost in benchmark.costs)
        assert (benchmark.spec_hash, benchmark.samples) == (model.spec.spec_hash, 96)
        assert benchmark.failures == ()
        rule = TrainingRule(**msgspec.structs.asdict(request_for(1).training))
        assert training_cost(benchmark.costs, 0.5, rule) is not None

        seen = []
        trained = await process.train(request_for(12), 60, lambda done, of: seen.append((done, of)))
        state = decode_state(trained.state)
        check_state(state, model.spec, 0.5)
        before = decode_state(request_for(12).state)
        assert any(not np.array_equal(state[name], before[name]) for name in state)
        assert seen == [(5, 12), (10, 12), (12, 12)]
        assert trained.steps == 12
        assert trained.samples == 96
        assert np.isfinite(trained.loss)

        again = await process.train(request_for(12), 60)
        assert again.state == trained.state, "the same seed gives the same weights"
        assert process.starts == 1
        pid = process.pid
    assert await gone(pid)
    assert process.pid is None


async def test_emulated_training_takes_cpu_time_times_the_factor(data, request_for):
    async with trainer(data, factor=SLOW_MOTION) as process:
        trained = await process.train(request_for(4), 60)
    assert trained.emulated_s == pytest.approx(trained.cpu_s * SLOW_MOTION, rel=0.2)


async def test_a_training_process_killed_in_mid_training_is_replaced(data, request_for):
    async with trainer(data) as process:
        started = asyncio.Event()
        training = asyncio.create_task(
            process.train(request_for(FOREVER), 60, lambda done, of: started.set())
        )
        await asyncio.wait_for(started.wait(), DEADLINE_S)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(TrainingFailed, match="ended by SIGKILL") as caught:
            await training
        assert caught.value.reason is DropReason.TRAINING_FAILED
        assert (await process.train(request_for(2), 60)).steps == 2
        assert process.starts == 2


async def test_training_beyond_the_memory_budget_is_out_of_memory_and_not_the_end(
    data, request_for
):
    async with trainer(data) as process:
        await process.start()
        resident = psutil.Process(process.pid).memory_info().rss
    # Room for torch, none for training.
    async with trainer(data, memory_budget=resident + 4 * MIB) as process:
        with pytest.raises(OutOfMemory, match=r"out of memory at width 0\.5: needs") as caught:
            await process.train(request_for(FOREVER), 60)
        assert caught.value.width == 0.5
        assert caught.value.reason is DropReason.OUT_OF_MEMORY
        benchmark = await process.profile(MODEL, OPTIONS, WIDTHS, batch_size=16)
        assert benchmark.costs == ()
        assert benchmark.failures
        assert all("out of memory at width" in line for line in benchmark.failures)


async def test_a_machine_too_small_for_torch_says_so_instead_of_training(data):
    async with trainer(data, memory_budget=64 * MIB) as process:
        benchmark = await process.profile(MODEL, OPTIONS, WIDTHS, batch_size=16)
    assert benchmark.costs == ()
    assert "out of memory before training: needs" in benchmark.failures[0]
    assert "of 64 MiB" in benchmark.failures[0]


async def test_bad_commands_are_answered_and_the_process_lives_on(data, request_for):
    async with trainer(data) as process:
        await process.start()
        child = process._child
        for garbage in (b"\xc1not msgpack", b"", b"\x81\xa4type\xa7Unknown"):
            await child.send_frame(protocol.LENGTH.pack(len(garbage)) + garbage)
            reply = await child.reply(lambda event: None)
            assert isinstance(reply, protocol.Failed)
            assert reply.code == "bad-command"
            assert "not a frame" in reply.detail
        cases = [
            ({"spec_hash": "0" * 64}, DropReason.WRONG_SPEC, "same version"),
            ({"state": b"garbage"}, DropReason.BAD_BYTES, "safetensors"),
            ({"width": 0.25}, DropReason.WRONG_SPEC, "has shape"),
            ({"model": "nonesuch"}, DropReason.TRAINING_FAILED, "no model 'nonesuch'"),
            ({"behaviour": "lazy"}, DropReason.TRAINING_FAILED, "no behaviour 'lazy'"),
        ]
        for changes, reason, text in cases:
            with pytest.raises(TrainingFailed, match=text) as caught:
                await process.train(replace(request_for(2), **changes), 60)
            assert caught.value.reason is reason
        assert (await process.train(request_for(2), 60)).steps == 2
        assert process.starts == 1


async def test_data_that_is_not_there_is_a_clear_failure(tmp_path, request_for):
    async with trainer(tmp_path / "none.npz") as process:
        with pytest.raises(TrainingFailed, match=r"none\.npz.*check the path"):
            await process.train(request_for(2), 60)


async def test_a_cancelled_training_stops_and_the_process_is_used_again(data, request_for):
    # A factor this large waits for hours after the first step: only a cancellation ends it.
    async with trainer(data, factor=1e6) as process:
        await process.start()
        pid = process.pid
        stepped = asyncio.Event()
        training = asyncio.create_task(
            process.train(request_for(1), 600, lambda done, of: stepped.set())
        )
        await asyncio.wait_for(stepped.wait(), DEADLINE_S)
        training.cancel()
        with pytest.raises(asyncio.CancelledError):
            await training
        await process.ping()
        assert (process.pid, process.starts) == (pid, 1)


async def test_a_training_that_never_answers_is_ended_at_its_timeout(data, request_for):
    async with trainer(data) as process:
        await process.start()
        with pytest.raises(TrainingFailed, match=r"no answer .* within 0.5 s"):
            await process.train(request_for(FOREVER), 0.5)
        assert process.pid is None


async def test_a_free_rider_returns_what_it_received(data, request_for):
    async with trainer(data) as process:
        lazy = request_for(5, behaviour="free-rider")
        trained = await process.train(lazy, 60)
        noisy = await process.train(replace(lazy, noise=1e-3), 60)
    received = decode_state(lazy.state)
    assert all(np.array_equal(a, received[n]) for n, a in decode_state(trained.state).items())
    drift = max(np.abs(a - received[n]).max() for n, a in decode_state(noisy.state).items())
    assert 0 < drift < 1e-2


async def test_the_training_process_exits_with_its_parent(data, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, pathlib, sys\n"
        "from edge_agent.trainer_process import TrainerProcess, TrainerSettings\n"
        "async def main():\n"
        "    process = TrainerProcess(TrainerSettings(data=pathlib.Path(sys.argv[1])))\n"
        "    await process.start()\n"
        "    sys.stdout.write(f'{process.pid}\\n'); sys.stdout.flush()\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n",
        encoding="utf-8",
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        str(data),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    assert await gone(pid)


def dying(at, by):
    return "tests.fakes.dying_network:dying", OPTIONS | {"at": at, "by": by}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("at", "by", "measured", "said", "starts"),
    [
        (
            [0.5],
            "SIGILL",
            [0.25, 0.75, 1.0],
            ["width 0.5: .*illegal instruction: this"],
            2,
        ),
        (
            [0.5, 0.75],
            "SIGILL",
            [0.25],
            ["width 0.5: .*SIGILL", "width 0.75: .*SIGILL", "width 1: not tried"],
            2,
        ),
        (
            [0.5],
            "SIGKILL",
            [0.25],
            ["width 0.5: .*memory", "width 0.75: not tried", "width 1: not tried"],
            1,
        ),
    ],
)
async def test_a_width_that_ends_the_process_costs_that_width_and_not_the_measured_ones(
    data, at, by, measured, said, starts
):
    async with trainer(data) as process:
        benchmark = await process.profile(*dying(at, by), (0.25, 0.5, 0.75, 1.0), batch_size=16)
        assert [cost.width for cost in benchmark.costs] == measured
        assert len(benchmark.failures) == len(said)
        for line, pattern in zip(benchmark.failures, said, strict=True):
            assert re.match(pattern, line)
        assert process.starts == starts
        assert benchmark.passing == (by == "SIGKILL")
        assert benchmark.samples == 96
        assert not any(cost.interpolated for cost in benchmark.costs)


async def test_a_torch_that_dies_at_the_first_width_is_named_with_what_to_do(data):
    async with trainer(data) as process:
        benchmark = await process.profile(*dying([0.25], "SIGILL"), (0.25,), batch_size=16)
    assert benchmark.costs == ()
    assert "needs another CPU; install another version of torch" in benchmark.failures[0]
