"""Try a model, or ONNX Runtime itself, in a child process before this process depends on it.

ONNX Runtime wheels have ended the whole process with an illegal instruction on processors that lack
what the wheel was built for (a Raspberry Pi 4, for one), and a model may be too large for the
memory. So a candidate first answers in a child: ``python -m edge_agent.probe MODEL MANIFEST``, or
``--runtime`` for the runtime alone. The child prints one line of JSON; this side turns everything
else that can happen to a process into one sentence with what to do.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edge_agent.tiny_model import TINY_MODEL, TINY_SIZE

PROBE_TIMEOUT_S = 60.0
TIMED_CALLS = 5
LONGEST_TIMING_S = 2.0  # for the calls beyond those: a slow device answers a few, and that will do
PROBED_SAMPLES = 2

# The child finds this very code, wherever the parent was started.
_HOME = str(Path(__file__).resolve().parent.parent)

# How a process ends, as a negative signal number or a Windows status -> (code, what happened, what
# to do).
_DEATHS: dict[int, tuple[str, str, str]] = {
    -signal.SIGILL: (
        "illegal-instruction",
        "died with an illegal instruction (SIGILL)",
        "its instructions are not this processor's: install another onnxruntime version here",
    ),
    -signal.SIGSEGV: (
        "crashed",
        "crashed (SIGSEGV)",
        "install another onnxruntime version on this device",
    ),
    -signal.SIGABRT: (
        "crashed",
        "aborted (SIGABRT)",
        "see the agent's log for its last words; install another onnxruntime version",
    ),
}
if sys.platform == "win32":
    _DEATHS |= {
        0xC000001D: _DEATHS[-signal.SIGILL],
        0xC0000005: _DEATHS[-signal.SIGSEGV],
    }
else:
    _DEATHS |= {
        -signal.SIGKILL: (
            "killed",
            "was killed (SIGKILL), most likely because the memory ran out",
            "give the device a narrower model or more memory",
        ),
        -signal.SIGBUS: (
            "crashed",
            "died with a bus error (SIGBUS)",
            "check the disk for damage, then install another onnxruntime version",
        ),
    }


@dataclass(frozen=True)
class ProbeResult:
    """What became of a candidate.

    Attributes:
        ok: it answered, with finite numbers of the right shape.
        latency_s: median seconds of one call in the child, 0 where it did not answer.
        detail: one line for people.
        code: machine-readable reason where not ok: "illegal-instruction", "crashed", "killed",
            "timeout", "unreadable", "wrong-output", "no-answer".
        runtime: version of onnxruntime, "" where it could not be imported.
        latency_p95_s: 95th percentile of the same calls.
        load_s: seconds from the file to its first answer, without importing the runtime.
    """

    ok: bool
    latency_s: float
    detail: str
    code: str = ""
    runtime: str = ""
    latency_p95_s: float = 0.0
    load_s: float = 0.0


class _Answer(msgspec.Struct, frozen=True):
    """The line that the child prints."""

    ok: bool
    detail: str
    latency_s: float = 0.0
    code: str = ""
    runtime: str = ""
    latency_p95_s: float = 0.0
    load_s: float = 0.0


async def probe(
    model: Path,
    manifest: Path,
    *,
    timeout_s: float = PROBE_TIMEOUT_S,
    command: Sequence[str] | None = None,
    calls: int = TIMED_CALLS,
) -> ProbeResult:
    """Try a model in a child process; never raises for what the model does.

    Args:
        model: the ONNX file.
        manifest: its manifest file, as a device or as an exporter keeps it.
        timeout_s: after this the child is killed.
        command: what to run instead of this module, for tests.
        calls: how many to time; fewer on a slow device, `TIMED_CALLS` at least.
    """
    argv = command or _child("--calls", str(calls), str(model), str(manifest))
    return await _run(argv, f"model {model}", timeout_s)


async def probe_runtime(
    *, timeout_s: float = PROBE_TIMEOUT_S, command: Sequence[str] | None = None
) -> ProbeResult:
    """Import ONNX Runtime and run a tiny model in a child process.

    Args:
        timeout_s: after this the child is killed.
        command: what to run instead of this module, for tests.
    """
    return await _run(command or _child("--runtime"), "onnxruntime", timeout_s)


# --- the parent ---------------------------------------------------------------------------------


def _child(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edge_agent.probe", *arguments]


async def _run(argv: Sequence[str], what: str, timeout_s: float) -> ProbeResult:
    path = os.pathsep.join(filter(None, [_HOME, os.environ.get("PYTHONPATH")]))
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
    except OSError as error:
        detail = f"{what}: no child process could be started ({error}); free memory and try again"
        return ProbeResult(ok=False, latency_s=0.0, detail=detail, code="no-answer")
    try:
        printed, complaints = await asyncio.wait_for(child.communicate(), timeout_s)
    except TimeoutError:
        detail = (
            f"{what} did not answer within {timeout_s:g} s in a child process;"
            " give the device a narrower model or less other work"
        )
        return ProbeResult(ok=False, latency_s=0.0, detail=detail, code="timeout")
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    return _judge(what, child.returncode or 0, printed, complaints)


def _judge(what: str, status: int, printed: bytes, complaints: bytes) -> ProbeResult:
    """Turn how a child ended and what it said into a result."""
    death = _DEATHS.get(status)
    if death is None and status < 0:
        death = ("crashed", f"died with signal {-status}", "see the agent's log")
    if death is not None:
        code, happened, remedy = death
        detail = f"{what}: onnxruntime {happened} in a child process; {remedy}"
        return ProbeResult(ok=False, latency_s=0.0, detail=detail, code=code)
    lines = printed.strip().splitlines()
    try:
        answer = msgspec.json.decode(lines[-1] if lines else b"", type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        last = complaints.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no complaint"]
        detail = (
            f"{what}: the child process ended with status {status} and no answer"
            f" ({last[0][:200]}); run `python -m edge_agent.probe` by hand to see why"
        )
        return ProbeResult(ok=False, latency_s=0.0, detail=detail, code="no-answer")
    return ProbeResult(**msgspec.structs.asdict(answer))


# --- the child ----------------------------------------------------------------------------------


def _try_model(model: Path, manifest_file: Path, calls: int) -> _Answer:
    import onnxruntime

    from broker.errors import BrokerError
    from edge_agent.model_source import read_manifest
    from edge_agent.runtime import InferenceError, load_model

    version = onnxruntime.__version__
    try:
        manifest = read_manifest(str(manifest_file))
        started = time.perf_counter()
        loaded = load_model(model, manifest)
        loaded.outputs(loaded.zeros())
        load_s = time.perf_counter() - started
        generator = np.random.default_rng(0)
        feed = loaded.zeros(PROBED_SAMPLES)  # of whole numbers only 0 is valid in any table
        for name, array in feed.items():
            if array.dtype.kind == "f":
                feed[name] = generator.standard_normal(array.shape).astype(array.dtype)
        one = {name: array[:1] for name, array in feed.items()}
        outputs = loaded.outputs(feed)
        seconds: list[float] = []
        while len(seconds) < calls and (
            len(seconds) < TIMED_CALLS or sum(seconds) < LONGEST_TIMING_S
        ):
            started = time.perf_counter()
            loaded.outputs(one)
            seconds.append(time.perf_counter() - started)
    except (InferenceError, BrokerError, OSError) as error:
        return _Answer(ok=False, detail=str(error), code="unreadable", runtime=version)
    name = f"model {manifest.digest[:12]}"
    wrong = _wrong_output(outputs, PROBED_SAMPLES, len(manifest.classes))
    if wrong:
        detail = f"{name} {wrong}; the release is faulty, build it again"
        return _Answer(ok=False, detail=detail, code="wrong-output", runtime=version)
    latency, p95 = (float(value) for value in np.quantile(seconds, (0.5, 0.95)))
    detail = f"{name} answers in {1000 * latency:.2f} ms with onnxruntime {version}"
    return _Answer(
        ok=True,
        detail=detail,
        latency_s=latency,
        runtime=version,
        latency_p95_s=p95,
        load_s=load_s,
    )


def _wrong_output(outputs: np.ndarray, samples: int, classes: int) -> str:
    if len(outputs) != samples or (classes and outputs.shape != (samples, classes)):
        wanted = f"{samples} x {classes} values" if classes else f"{samples} samples"
        return f"gives an output of shape {outputs.shape} instead of {wanted}"
    if not np.isfinite(outputs).all():
        return "gives outputs that are NaN or infinite"
    return ""


def _try_runtime() -> _Answer:
    try:
        import onnxruntime
    except ImportError as error:
        detail = f"onnxruntime cannot be imported ({error}); install it with pip"
        return _Answer(ok=False, detail=detail, code="unreadable")
    version = onnxruntime.__version__
    session = onnxruntime.InferenceSession(TINY_MODEL, providers=["CPUExecutionProvider"])
    x = np.eye(TINY_SIZE, dtype=np.float32)
    weights = np.arange(TINY_SIZE**2, dtype=np.float32).reshape(x.shape) / 8 - 4
    started = time.perf_counter()
    (found,) = session.run(None, {"x": x})
    latency = time.perf_counter() - started
    if not np.array_equal(found, np.maximum(weights, 0)):
        detail = f"onnxruntime {version} computes wrong numbers here; install another version"
        return _Answer(ok=False, detail=detail, code="wrong-output", runtime=version)
    detail = f"onnxruntime {version} works"
    return _Answer(ok=True, detail=detail, latency_s=latency, runtime=version)


def main(arguments: Sequence[str]) -> None:
    """Be the child: try what the arguments name and print one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_agent.probe",
        description="Try an ONNX model with this machine's ONNX Runtime; print one line of JSON.",
    )
    parser.add_argument("--runtime", action="store_true", help="try the runtime, without a model")
    parser.add_argument("model", nargs="?", type=Path, help="the ONNX file")
    parser.add_argument("manifest", nargs="?", type=Path, help="its manifest")
    parser.add_argument("--calls", type=int, default=TIMED_CALLS, help="how many to time")
    chosen = parser.parse_args(arguments)
    if not chosen.runtime and chosen.manifest is None:
        parser.error("give a model and its manifest, or --runtime")
    answer = (
        _try_runtime()
        if chosen.runtime
        else _try_model(chosen.model, chosen.manifest, chosen.calls)
    )
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
