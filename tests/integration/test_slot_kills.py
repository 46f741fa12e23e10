"""Real processes, killed at every step of a deployment and of the outbox: a model always works."""

import os
import runpy
import subprocess
import sys
from collections import deque
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_agent.inference import Predictor
from edge_agent.outbox import Outbox
from edge_agent.slots import ModelSlots
from journal.crashpoints import CRASH_AT, CRASHPOINTS, KILLED
from tests.fakes.toy_onnx import FEATURES, always

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills POSIX processes")

ROOT = Path(__file__).parents[2]
WRITER = Path(__file__).with_name("device_writer.py")
PROGRAM = runpy.run_path(str(WRITER))
OUTBOX_STEPS, KEPT, update_of = (PROGRAM[name] for name in ("OUTBOX_STEPS", "KEPT", "update_of"))
MODELS = {name: always(label) for label, name in enumerate("abc")}
NAMES = {manifest.digest: name for name, (_, manifest) in MODELS.items()}
ONES = np.ones((1, FEATURES), dtype=np.float32)

# (current, previous, confirmed, counters ahead) after each step of the child.
SLOTS_AFTER = (
    ("a", "", True, 0),
    ("a", "", True, 0),
    ("b", "a", False, 1),
    ("b", "a", True, 1),
    ("b", "a", True, 1),
    ("c", "b", False, 2),
    ("b", "", True, 2),
    ("b", "", True, 3),
    ("", "", False, 4),
    ("", "", False, 4),
    ("a", "", False, 5),
    ("a", "", True, 5),
)
ROUND = len(SLOTS_AFTER) - 1


def slots_after(done):
    turn, step = divmod(done, ROUND)
    current, previous, confirmed, ahead = SLOTS_AFTER[step]
    return current, previous, confirmed, 1 + 5 * turn + ahead


def outbox_after(done):
    """Rounds and contents that wait after so many steps."""
    waiting = {}
    for step in OUTBOX_STEPS[:done]:
        if step is None:
            waiting.pop(next(iter(waiting)))
        else:
            waiting.pop(step[0], None)
            waiting[step[0]] = step[1]
            waiting = dict(deque(waiting.items(), maxlen=KEPT))
    return list(waiting.items())


def child(task, folder, times=1, crash_at=""):
    return subprocess.Popen(
        [sys.executable, WRITER, task, folder, str(times)],
        env={**os.environ, "PYTHONPATH": str(ROOT), CRASH_AT: crash_at},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Count the lines that were not read yet; `communicate` loses what `readline` has buffered."""
    with process:
        return len(process.stdout.readlines())


def prepare(folder):
    """Let model a run, and lay all models out for the child."""
    folder.mkdir()
    slots = ModelSlots(folder / "agent")
    for name, (onnx, manifest) in MODELS.items():
        (folder / f"{name}.onnx").write_bytes(onnx)
        (folder / f"{name}.manifest").write_bytes(msgspec.msgpack.encode(manifest))
    onnx, manifest = MODELS["a"]
    slots.install(manifest, onnx, 1)
    slots.activate(manifest.digest, 1)
    slots.confirm()
    return folder


def check_slots(folder, done):
    """What was acknowledged holds; what was under way is done or not begun; the model answers."""
    seen_by_others = Predictor(folder / "agent")
    slots = ModelSlots(folder / "agent")
    current, previous = slots.current(), slots.previous()
    found = (
        NAMES[current.digest] if current else "",
        NAMES[previous.digest] if previous else "",
        bool(current and current.confirmed),
        slots.last_counter(),
    )
    assert found in (slots_after(done), slots_after(done + 1))
    if current:
        assert previous is None or previous.read() == MODELS[NAMES[previous.digest]][0]
        predictor = Predictor(folder / "agent")
        assert predictor.digest == seen_by_others.digest == current.digest
        assert predictor.predict(ONES).label[0] == "abc".index(found[0])
    kept = {model.digest for model in (current, previous) if model}
    assert {path.name for path in (folder / "agent" / "models").iterdir()} == kept
    assert not list((folder / "agent").rglob("*.tmp"))


def go_on_with_slots(folder):
    onnx, manifest = MODELS["c"]
    slots = ModelSlots(folder / "agent")
    counter = slots.last_counter() + 1
    slots.install(manifest, onnx, counter)
    slots.activate(manifest.digest, counter)
    slots.confirm()
    assert Predictor(folder / "agent").predict(ONES).label[0] == 2


def go_on_with_outbox(folder):
    outbox = Outbox(folder / "outbox", kept=KEPT)
    outbox.put(update_of(9, b"nine"), b"nine")
    assert Outbox(folder / "outbox").pending()[-1] == update_of(9, b"nine")


def check_outbox(folder, done):
    outbox = Outbox(folder / "outbox", kept=KEPT)
    found = [(one.round, outbox.data(one.blob.blob)) for one in outbox.pending()]
    assert found in (outbox_after(done), outbox_after(done + 1))
    assert len(list((folder / "outbox").iterdir())) == len(found)


def ours(prefix):
    return sorted(name for name in CRASHPOINTS if name.startswith(f"{prefix}-"))


def passes(task, folder, place):
    """Kill one child after another at the next pass of a place, until a child passes no more."""
    # A temporary file changes nothing that is read: some passes stand for all.
    for nth in (1, 2, 3) if "-temp-" in place else range(1, 100):
        here = prepare(folder / str(nth))
        process = child(task, here, crash_at=f"{place}:{nth}")
        done = finish(process)
        if process.returncode == 0:
            assert nth > 1, f"never passed {place}"
            return
        assert process.returncode == KILLED
        yield here, done


@pytest.mark.parametrize("place", ours("slots"))
def test_a_kill_while_models_change_leaves_a_working_model(tmp_path, place):
    for folder, done in passes("slots", tmp_path, place):
        check_slots(folder, done)
        go_on_with_slots(folder)


@pytest.mark.parametrize("place", ours("outbox"))
def test_a_kill_while_the_outbox_changes_loses_no_update(tmp_path, place):
    for folder, done in passes("outbox", tmp_path, place):
        check_outbox(folder, done)
        go_on_with_outbox(folder)


@pytest.mark.parametrize("lines", [7, 16, 38])
def test_sigkill_at_any_moment_leaves_a_working_model(tmp_path, lines):
    folder = prepare(tmp_path / "device")
    process = child("slots", folder, times=1000)
    for _ in range(lines):
        process.stdout.readline()
    process.kill()
    done = lines + finish(process)
    assert process.returncode < 0
    check_slots(folder, done)
    go_on_with_slots(folder)


@pytest.mark.parametrize("lines", [1, 3, 6])
def test_sigkill_at_any_moment_loses_no_update(tmp_path, lines):
    folder = prepare(tmp_path / "device")
    process = child("outbox", folder)
    for _ in range(lines):
        process.stdout.readline()
    process.kill()
    check_outbox(folder, min(lines + finish(process), len(OUTBOX_STEPS)))


def test_every_step_of_both_has_a_place_to_be_killed_at():
    assert {"slots-file", "slots-placing", "slots-state", "slots-collecting"} == {
        "-".join(name.split("-")[:2]) for name in ours("slots")
    }
    assert {"outbox-file", "outbox-put", "outbox-settle"} == {
        "-".join(name.split("-")[:2]) for name in ours("outbox")
    }
