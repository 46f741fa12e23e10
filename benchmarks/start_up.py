"""How long until a device's program has its first answer, and how much memory does that take?

A plain script imports ONNX Runtime, opens the file and runs it. Ours imports `Predictor`, finds the
current model in an agent's folder, checks its digest and its manifest, and answers in classes and
probabilities. Each runs in a fresh process, in turns. Time is from the first line of the program to
the answer: the start of Python itself, which is the same for both, does not hide the difference.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from packaging.requirements import Requirement

from benchmarks.arguments import positive
from benchmarks.errors import BenchmarkError
from benchmarks.results import Ratio, Result, Table
from edge_agent.slots import ModelSlots
from edge_agent.stored_model import SLOTS_FOLDER
from exporter.export import export_width
from exporter.manifest import ExportedModel, manifest_for
from exporter.templates import TemplateCache
from slimfleet.demo.scenario import MODEL_OPTIONS
from slimmable.evaluation import initial_state
from slimmable.model import SlimmableModel, load_model
from slimmable.slicing import slice_state
from slimmable.task import HISTOGRAM_BINS, Reference

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("broker", "edge_agent", "journal", "slimmable")
PLAIN, ONE_THREAD, OURS = "plain script", "plain script, one thread", "Predictor"
GOAL = 1.1
OPTIONS: dict[str, dict[str, Any]] = {
    "cnn1d": MODEL_OPTIONS,
    "resnet18": {"classes": [str(number) for number in range(10)]},
}

_BEFORE = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import numpy
x = numpy.zeros({shape}, numpy.float32)
"""
# The memory of the process itself: what getrusage tells of a child can be its parent's.
_AFTER = """
assert label.shape == (1,)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
import json, resource, sys
try:
    lines = open("/proc/self/status").read().splitlines()
    peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
print(json.dumps([wall, cpu, peak]))
"""
_PROGRAMS = {
    PLAIN: """
import onnxruntime
session = onnxruntime.InferenceSession({file!r}, providers=["CPUExecutionProvider"])
label = session.run(None, {{"input": x}})[0].argmax(axis=1)
""",
    ONE_THREAD: """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession({file!r}, options, providers=["CPUExecutionProvider"])
label = session.run(None, {{"input": x}})[0].argmax(axis=1)
""",
    OURS: """
from edge_agent import Predictor
label = Predictor({agent!r}).predict(x).label
""",
}


@dataclass(frozen=True)
class Start:
    """One start.

    Attributes:
        wall, cpu: seconds from the first line to the answer.
        peak: most bytes of resident memory.
    """

    wall: float
    cpu: float
    peak: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--model", choices=sorted(OPTIONS), default="cnn1d", help="cnn1d is the demo's network"
    )
    parser.add_argument("--repeats", type=positive, default=40, help="starts of each program")


def measure(arguments: argparse.Namespace) -> Result:
    """Start the programs in turns."""
    model = load_model(arguments.model, OPTIONS[arguments.model])
    starts: dict[str, list[Start]] = {name: [] for name in _PROGRAMS}
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as place:
        folder = Path(place)
        file = _install(model, folder)
        packages = _base_install(folder / "packages")
        filled = {
            "shape": (1, *model.input_shape),
            "file": str(file),
            "agent": str(folder / "agent"),
        }
        for name in starts:
            _start(name, filled, packages)  # compiles what is not compiled yet, fills the cache
        order = list(starts)
        for turn in range(arguments.repeats):
            random.Random(turn).shuffle(order)
            for name in order:
                starts[name].append(_start(name, filled, packages))
        size = file.stat().st_size
    return _result(arguments, starts, size)


def _result(arguments: argparse.Namespace, starts: Mapping[str, list[Start]], size: int) -> Result:
    return Result(
        name="start_up",
        summary=f"from the first line of a program to its first answer, {arguments.model}",
        tables=(
            Table(
                f"median of {arguments.repeats} starts, file of {size / 1000:.0f} kB",
                ("program", "wall ms", "CPU ms", "peak MB"),
                tuple(
                    (
                        name,
                        1e3 * median(one.wall for one in found),
                        1e3 * median(one.cpu for one in found),
                        1e-6 * median(one.peak for one in found),
                    )
                    for name, found in starts.items()
                ),
            ),
        ),
        ratios=tuple(
            Ratio(
                f"{what}, median of the turns' ratios",
                median(
                    getattr(ours, field) / getattr(theirs, field)
                    for ours, theirs in zip(starts[OURS], starts[against], strict=True)
                ),
                against,
                1.0,
                at_most=GOAL if against == PLAIN else None,
            )
            for against in (PLAIN, ONE_THREAD)
            for what, field in (("wall", "wall"), ("CPU", "cpu"), ("peak memory", "peak"))
        ),
        notes=(
            "all have only what a device has: the base install, without the extras' packages",
            "ours also checks digest and manifest, warms up, and gives probabilities",
            "a plain script makes a pool of threads; the one of one thread is harder to match",
        ),
    )


def _start(name: str, filled: Mapping[str, Any], packages: Path) -> Start:
    program = "".join((_BEFORE, _PROGRAMS[name], _AFTER)).format(**filled)
    done = subprocess.run(
        # -S: packages are found by the path alone, as where nothing is installed for developing.
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchmarkError(f"the {name} failed: {last}")
    return Start(*json.loads(done.stdout))


def _install(model: SlimmableModel, folder: Path) -> Path:
    """Let an agent's folder run the full width; return the same file for the plain script."""
    state = slice_state(initial_state(model, seed=0), model.spec, 1.0)
    exported: ExportedModel = export_width(model, 1.0, state, TemplateCache(folder / "templates"))
    classes = max(1, len(model.task.classes))
    manifest = manifest_for(
        exported,
        model,
        round=exported.round,
        score=0.0,
        score_data="none",
        reference=Reference((0,) * classes, (0,) * HISTOGRAM_BINS),
    )
    slots = ModelSlots(folder / "agent" / SLOTS_FOLDER)
    slots.install(manifest, exported.onnx, 1)
    slots.activate(manifest.digest, 1)
    slots.confirm()
    file = folder / "plain.onnx"
    file.write_bytes(exported.onnx)
    return file


def _base_install(folder: Path) -> Path:
    """Return a folder that holds what a device installs: the rooms, and the base dependencies."""
    folder.mkdir()
    pages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted, seen = list(pages["project"]["dependencies"]), set[str]()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = requirement.name
        elsewhere = requirement.marker and not requirement.marker.evaluate({"extra": ""})
        if elsewhere or name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        wanted += found.requires or []
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
    for room in ROOMS:
        (folder / room).symlink_to(ROOT / room)
    return folder
