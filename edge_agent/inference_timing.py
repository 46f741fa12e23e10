"""How long do ONNX files take to load and to answer here? Each in a child process of its own.

A file that ends its process (an illegal instruction, no memory left) costs that file, see
`edge_agent.probe`; the others are measured all the same.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from broker.errors import DecodeError
from edge_agent.model_source import MANIFEST_SUFFIX, SUFFIX, exported_names, read_manifest
from edge_agent.probe import ProbeResult, probe
from profiler.profile import InferenceCost, InferenceFindings

CALLS = 50
FLOAT32, INT8 = "float32", "int8"
PREOPTIMISED = ".preoptimised"  # the same width again, made to start faster
# Files that may end their process with an illegal instruction until the rest is given up.
MOST_DEATHS = 2

Attempt = Callable[[Path, Path], Awaitable[ProbeResult]]


@dataclass(frozen=True)
class TrialFile:
    """One ONNX file to measure, with its manifest file."""

    width: float
    form: str
    onnx: Path
    manifest: Path
    size: int = 0

    def __str__(self) -> str:
        """Return how the file is called in a sentence."""
        return f"width {self.width:g} {self.form}"


def trial_file(onnx: Path, manifest: Path) -> TrialFile:
    """Return a file by what its manifest says.

    Raises:
        OSError: the manifest cannot be read.
        DecodeError: it is none.
    """
    said = read_manifest(str(manifest))
    form = INT8 if INT8 in said.encoding else FLOAT32
    return TrialFile(said.width, form, onnx, manifest, said.size)


def trial_files(folder: Path) -> tuple[list[TrialFile], list[str]]:
    """Return the exported files in a folder, and a line for each that cannot be read."""
    found, failures = [], []
    for name in exported_names(str(folder)):
        if name.endswith(PREOPTIMISED):
            continue
        try:
            found.append(trial_file(folder / (name + SUFFIX), folder / (name + MANIFEST_SUFFIX)))
        except (OSError, DecodeError) as error:
            failures.append(f"{name}: {error}")
    return found, failures


async def measure_files(
    files: Iterable[TrialFile], *, budget_s: float = 0.0, attempt: Attempt | None = None
) -> InferenceFindings:
    """Measure files, from the narrowest up; never raises for what a file does.

    Args:
        files: to measure.
        budget_s: with so many seconds gone, the rest is named and left out; 0 = no limit.
        attempt: tries a file (ONNX file, manifest); `edge_agent.probe.probe` where None.
    """
    attempt = attempt or partial(probe, calls=CALLS)
    now = asyncio.get_running_loop().time
    end = now() + budget_s if budget_s else float("inf")
    costs: list[InferenceCost] = []
    failures: list[str] = []
    too_large: dict[str, float] = {}
    deaths = 0
    for file in sorted(files, key=lambda one: (one.width, one.form)):
        if file.form in too_large:
            failures.append(
                f"{file}: not tried, as {too_large[file.form]:g} needed too much memory"
            )
            continue
        if deaths >= MOST_DEATHS:
            failures.append(f"{file}: not tried, as {deaths} files ended their process")
            continue
        if now() >= end:
            failures.append(f"{file}: not tried, as the {budget_s:g} s for measuring were over")
            continue
        result = await attempt(file.onnx, file.manifest)
        if result.ok:
            costs.append(_cost(file, result))
            continue
        failures.append(f"{file}: {result.detail}")
        deaths += result.code in {"illegal-instruction", "crashed"}
        if result.code == "killed":
            too_large[file.form] = file.width
    return InferenceFindings(tuple(costs), tuple(failures))


def _cost(file: TrialFile, result: ProbeResult) -> InferenceCost:
    return InferenceCost(
        width=file.width,
        form=file.form,
        latency_s=result.latency_s,
        latency_p95_s=result.latency_p95_s,
        load_s=result.load_s,
        size=file.size,
    )
