"""A candidate is tried in a real child process; whatever happens to that, this one goes on."""

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from edge_agent import probe as probe_module
from edge_agent.probe import probe, probe_runtime
from edge_agent.slots import ModelSlots
from tests.fakes.toy_onnx import always, linear, manifest_of


def pair(folder, onnx, manifest):
    (folder / "model.onnx").write_bytes(onnx)
    (folder / "manifest.msgpack").write_bytes(msgspec.msgpack.encode(manifest))
    return folder / "model.onnx", folder / "manifest.msgpack"


def python(program):
    return [sys.executable, "-c", program]


def dies_by(signal_name):
    return python(f"import os, signal; os.kill(os.getpid(), signal.{signal_name})")


ANYWHERE = (Path("model.onnx"), Path("manifest.msgpack"))


async def test_a_sound_model_answers_in_a_child_process(tmp_path):
    onnx, manifest = always(1)
    installed = ModelSlots(tmp_path).install(manifest, onnx, 1)
    result = await probe(installed.path, installed.manifest_path)
    assert result.ok, result.detail
    assert 0 < result.latency_s <= result.latency_p95_s
    assert result.load_s > 0
    assert result.code == ""
    assert manifest.digest[:12] in result.detail


async def test_the_child_finds_its_code_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = await probe_runtime()
    assert result.ok, result.detail
    assert result.runtime
    assert result.detail == f"onnxruntime {result.runtime} works"


@pytest.mark.parametrize(
    ("onnx", "changes", "code", "what"),
    [
        (b"no model", {}, "unreadable", "cannot load"),
        (linear(np.ones((4, 3))), {"input_shape": (5,)}, "unreadable", "export it again"),
        (linear(np.full((4, 3), np.nan)), {}, "wrong-output", "NaN or infinite"),
        (linear(np.ones((4, 2))), {}, "wrong-output", "shape (2, 2)"),
    ],
)
async def test_a_faulty_model_is_refused_with_its_reason(tmp_path, onnx, changes, code, what):
    result = await probe(*pair(tmp_path, onnx, manifest_of(onnx, **changes)))
    assert not result.ok
    assert result.code == code
    assert result.runtime
    assert what in result.detail


async def test_a_missing_file_is_no_crash(tmp_path):
    result = await probe(tmp_path / "model.onnx", tmp_path / "manifest.msgpack")
    assert (result.ok, result.code) == (False, "unreadable")


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(
    ("signal_name", "code", "advice"),
    [
        ("SIGILL", "illegal-instruction", "install another onnxruntime version"),
        ("SIGSEGV", "crashed", "install another onnxruntime version"),
        ("SIGBUS", "crashed", "check the disk"),
        ("SIGABRT", "crashed", "SIGABRT"),
        ("SIGKILL", "killed", "the memory ran out"),
        ("SIGTERM", "crashed", "signal 15"),
    ],
)
async def test_a_child_that_dies_is_reported_with_what_to_do(signal_name, code, advice):
    result = await probe(*ANYWHERE, command=dies_by(signal_name))
    assert (result.ok, result.code) == (False, code)
    assert advice in result.detail
    assert "\n" not in result.detail


@pytest.mark.parametrize(
    "program",
    [
        "",
        "print('hello')",
        "print('{}')",
        "print('[1, 2]')",
        "import sys; sys.stdout.buffer.write(bytes(range(256)))",
        "raise SystemExit(3)",
        "import sys; print('out of luck', file=sys.stderr); raise SystemExit(1)",
    ],
)
async def test_a_child_that_talks_nonsense_is_reported(program):
    result = await probe_runtime(command=python(program))
    assert (result.ok, result.code) == (False, "no-answer")
    assert "no answer" in result.detail
    assert ("out of luck" in result.detail) == ("out of luck" in program)


async def test_what_the_child_prints_before_its_answer_is_ignored():
    answer = json.dumps({"ok": True, "detail": "fine", "latency_s": 0.5})
    result = await probe_runtime(command=python(f"print('noise'); print({answer!r})"))
    assert (result.ok, result.latency_s, result.detail) == (True, 0.5, "fine")


async def test_a_child_that_never_answers_is_killed():
    before = set(psutil.Process().children())
    result = await probe_runtime(command=python("import time; time.sleep(1000)"), timeout_s=0.3)
    assert (result.ok, result.code) == (False, "timeout")
    assert set(psutil.Process().children()) <= before


@pytest.mark.skipif(os.name != "posix", reason="Unix sockets")
async def test_a_probe_that_is_cancelled_leaves_no_child(tmp_path):
    started = asyncio.Event()

    def enter(_, writer):
        started.set()
        writer.close()

    door = await asyncio.start_unix_server(enter, tmp_path / "door")
    program = (
        "import socket, time; door = socket.socket(socket.AF_UNIX);"
        f"door.connect({str(tmp_path / 'door')!r}); time.sleep(1000)"
    )
    before = set(psutil.Process().children())
    task = asyncio.create_task(probe_runtime(command=python(program)))
    async with asyncio.timeout(30):
        await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(psutil.Process().children()) <= before
    door.close()
    await door.wait_closed()


async def test_a_child_that_cannot_be_started_is_reported():
    result = await probe_runtime(command=["/nonexistent/python"])
    assert (result.ok, result.code) == (False, "no-answer")


def test_the_child_refuses_half_of_its_arguments(capsys):
    with pytest.raises(SystemExit):
        probe_module.main(["model.onnx"])
    assert "or --runtime" in capsys.readouterr().err
