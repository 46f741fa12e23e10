"""`slimfleet export` in processes of its own: beside a running fleet, after it, and stopped."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from slimfleet import watch
from slimmable.evaluation import initial_state
from slimmable.state import encode_state
from tests.fakes.real_fleet import RealDevice, RealFleet
from tests.fakes.small_disk import SmallDisk
from tests.fakes.toy_models import toy

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


def environment(folder):
    return {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}


def slimfleet(folder, *arguments):
    """Run `slimfleet` in a folder to its end."""
    return subprocess.run(
        [sys.executable, "-m", "slimfleet", *map(str, arguments)],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.onnx")
    }


@pytest.mark.mqtt
def test_a_round_is_exported_while_the_server_runs_and_again_when_it_has_ended(tmp_path):
    devices = [RealDevice("press"), RealDevice("lathe", person=2)]
    campaign = {"rounds": {"budget": 1, "minimum": 1}}
    with RealFleet(tmp_path / "fleet", devices, campaign=campaign) as fleet:
        fleet.start_all()
        fleet.until_finished()
        widths = ("--widths", "0.25,1")
        live = slimfleet(tmp_path, "export", "--run", fleet.data, *widths, "--out", "live")
        assert live.returncode == 0, live.stderr
        assert "of fleet plant, round 1" in live.stdout
        fleet.terminate("server")
        rest = slimfleet(tmp_path, "export", "--run", fleet.data, *widths, "--out", "rest")
        assert rest.returncode == 0, rest.stderr
        curve = {point.width: point.score for point in fleet.state.scored.curve}
    assert digests(tmp_path / "live") == digests(tmp_path / "rest")
    index = json.loads((tmp_path / "rest" / "index.json").read_bytes())
    narrow, full = index["widths"]
    # Without samples nobody calibrates the narrow width anew, so its score is not the server's.
    assert (narrow["forms"][0]["score"], full["forms"][0]["score"]) == (None, curve[1.0])
    assert "give calibration samples" in rest.stderr
    unknown = slimfleet(
        tmp_path, "export", "--run", tmp_path / "fleet" / "server", "--round", "9", "--out", "x"
    )
    assert unknown.returncode == 1
    assert "has no finished round 9; there are rounds 0 to 1" in unknown.stderr


def test_samples_choose_int8_a_budget_chooses_a_width_and_the_file_is_verified(tmp_path):
    samples = watch.person_samples(3)
    np.savez(tmp_path / "own.npz", x=samples.x, y=samples.y, recording=samples.recording)
    options = {
        "sensors": len(watch.SENSORS),
        "length": watch.WINDOW,
        "classes": list(watch.EXERCISES),
    }
    done = slimfleet(
        tmp_path,
        *("export", "--model", "cnn1d", "--options", json.dumps(options), "--data", "own.npz"),
        *("--int8", "auto", "--max-loss", "1", "--device-budget", "size<=40kB", "--out", "models"),
    )
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "models" / "index.json").read_bytes())
    (best,) = [row for row in index["widths"] if row["recommended"]]
    # Full width only keeps the budget as int8.
    assert (best["width"], best["size"] <= 40_000) == (1.0, True)
    assert best["chosen"].startswith("int8")
    assert "over budget" in done.stdout
    file = Path("models") / best["file"]
    session = onnxruntime.InferenceSession(tmp_path / file)
    assert session.run(None, {"input": samples.x[:3]})[0].shape == (3, len(watch.EXERCISES))
    checked = slimfleet(tmp_path, "export", "--check", file, "--data", "own.npz")
    assert checked.returncode == 0, checked.stdout
    data = bytearray((tmp_path / file).read_bytes())
    data[len(data) // 2] ^= 0x40
    (tmp_path / file).write_bytes(data)
    checked = slimfleet(tmp_path, "export", "--check", file, "--data", "own.npz")
    assert checked.returncode == 1
    assert "it was altered" in checked.stdout


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "wide.safetensors"
    path.write_bytes(encode_state(initial_state(toy(hidden=4096), 0)))
    return path


def arguments(checkpoint, out):
    return [
        *("export", "--model", "tests.fakes.toy_models:toy", "--options", '{"hidden": 4096}'),
        *("--checkpoint", str(checkpoint), "--widths", "0.25,0.5,0.75,1.0", "--out", str(out)),
    ]


def test_a_full_disk_leaves_no_trace_of_the_export(tmp_path, checkpoint):
    disk = SmallDisk(tmp_path / "disk")
    try:
        disk.fill(os.getpid())
        before = sorted(disk.folder.iterdir())
        done = slimfleet(tmp_path, *arguments(checkpoint, disk.folder / "out"))
        disk.make_room(os.getpid())
        assert done.returncode == 1
        assert "no room" in done.stderr or "No space" in done.stderr
        assert not [path for path in before if path.name == "out"]
        assert not (disk.folder / "out").exists()
        done = slimfleet(tmp_path, *arguments(checkpoint, disk.folder / "out"))
        assert done.returncode == 0, done.stderr
    finally:
        disk.close()


def test_an_export_that_is_interrupted_leaves_no_file(tmp_path, checkpoint):
    process = subprocess.Popen(
        [sys.executable, "-m", "slimfleet", *arguments(checkpoint, tmp_path / "out")],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    templates = tmp_path / "cache" / "slimfleet" / "templates"
    deadline = time.monotonic() + PATIENCE_S
    while not list(templates.glob("*.template")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)  # the first of four widths is traced
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert not (tmp_path / "out").exists()
