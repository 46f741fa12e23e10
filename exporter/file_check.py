"""Verify an exported file anywhere: is it what its manifest says, does it run, is it any good?

Needs onnxruntime and neither torch nor onnx, so it also runs on a device that only infers.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import onnxruntime

from exporter.errors import ParityError
from exporter.export_data import Labelled
from exporter.file_outputs import file_outputs
from exporter.file_subject import Subject
from exporter.report import NOT_MEASURED
from exporter.sessions import open_session
from slimmable.onnx_header import HeaderError, OnnxHeader, read_header
from slimmable.state import Array

FLOAT_ENCODING = "onnx-f32"
BATCHES = (3, 1)  # the largest first
TOLERANCE = 1e-4  # of a sample alone to the same sample among others
SIGMAS = 3.0  # a score may be lower by chance
ELEMENTS = {"float32": "tensor(float)", "int64": "tensor(int64)"}
_PREFIX = "slimfleet."


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "FAILED"
    SKIPPED = "-"


@dataclass(frozen=True)
class Check:
    """One question that was asked, and the answer in one sentence."""

    name: str
    verdict: Verdict
    detail: str


def check_file(subject: Subject, data: Labelled | None = None) -> tuple[Check, ...]:
    """Ask everything that can be asked about a file; later questions need the earlier answers.

    Args:
        subject: the file.
        data: labelled samples to measure its score on.
    """
    return tuple(_checks(subject, data))


def passed(checks: tuple[Check, ...]) -> bool:
    """Whether no check failed."""
    return all(check.verdict is not Verdict.FAILED for check in checks)


def _checks(subject: Subject, data: Labelled | None) -> Iterator[Check]:
    genuine = _digest(subject)
    yield genuine
    yield _size(subject)
    try:
        header = read_header(subject.onnx)
    except HeaderError as error:
        yield Check("format", Verdict.FAILED, f"{error}; copy it again")
        return
    yield _versions(subject, header)
    yield _metadata(subject, header)
    if genuine.verdict is Verdict.FAILED:
        yield Check("load", Verdict.SKIPPED, "an altered file is not run")
        return
    try:
        session = open_session(subject.onnx)
    except ParityError as error:
        version = onnxruntime.__version__
        yield Check("load", Verdict.FAILED, f"{error} (onnxruntime {version})")
        return
    yield Check("load", Verdict.OK, f"onnxruntime {onnxruntime.__version__} accepts it")
    signature = _signature(subject, session)
    yield signature
    if signature.verdict is Verdict.FAILED:
        return
    run = _runs(subject, session)
    yield run
    if run.verdict is not Verdict.FAILED:
        yield _score(subject, session, data)


def _digest(subject: Subject) -> Check:
    found = hashlib.sha256(subject.onnx).hexdigest()
    if subject.manifest is None:
        detail = f"{found[:12]}; no {subject.manifest_name} beside it to compare with"
        return Check("digest", Verdict.SKIPPED, detail)
    if found != subject.manifest.digest:
        detail = (
            f"the file has {found[:12]}, {subject.manifest_name} says"
            f" {subject.manifest.digest[:12]}: it was altered, or it is of another export"
        )
        return Check("digest", Verdict.FAILED, detail)
    return Check("digest", Verdict.OK, f"{found[:12]}, as {subject.manifest_name} says")


def _size(subject: Subject) -> Check:
    found = len(subject.onnx)
    if subject.manifest is None:
        return Check("size", Verdict.SKIPPED, f"{found} bytes")
    return _compared("size", [("bytes", found, subject.manifest.size)], f"{found} bytes")


def _versions(subject: Subject, header: OnnxHeader) -> Check:
    opset = header.opsets.get("", 0)
    further = ", ".join(f"{name} {v}" for name, v in sorted(header.opsets.items()) if name)
    found = f"opset {opset}, IR {header.ir_version}" + (f", {further}" if further else "")
    if subject.manifest is None:
        return Check("format", Verdict.OK, found)
    wanted = subject.manifest
    pairs = [("opset", opset, wanted.opset), ("IR", header.ir_version, wanted.ir_version)]
    return _compared("format", pairs, found)


def _metadata(subject: Subject, header: OnnxHeader) -> Check:
    notes = {k.removeprefix(_PREFIX): v for k, v in header.metadata.items() if _is_ours(k)}
    if not notes:
        return Check("metadata", Verdict.SKIPPED, "the file was not written by slimfleet export")
    said = f"{notes.get('model')} at width {notes.get('width')}, round {notes.get('round')}"
    if subject.manifest is None:
        return Check("metadata", Verdict.OK, said)
    wanted = subject.manifest
    expected: Mapping[str, Any] = {
        "model": wanted.model,
        "width": repr(float(wanted.width)),
        "spec_hash": wanted.spec_hash,
        "round": str(wanted.round),
        "task": wanted.task,
        "classes": json.dumps(list(wanted.classes), ensure_ascii=False),
        "scale": wanted.scale,
        "encoding": wanted.encoding,
    }
    # A file of an earlier version may lack a note.
    pairs = [(name, notes[name], value) for name, value in expected.items() if name in notes]
    return _compared("metadata", pairs, said)


def _compared(name: str, pairs: "list[tuple[str, Any, Any]]", said: str) -> Check:
    differing = [
        f"{what} {_short(found)}, manifest {_short(wanted)}"
        for what, found, wanted in pairs
        if found != wanted
    ]
    if differing:
        return Check(name, Verdict.FAILED, "; ".join(differing))
    return Check(name, Verdict.OK, said)


def _short(value: object) -> str:
    text = str(value) or "none"
    return text if len(text) <= 24 else f"{text[:20]}..."


def _signature(subject: Subject, session: onnxruntime.InferenceSession) -> Check:
    found = [(one.name, one.type, list(one.shape)) for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]
    said = ", ".join(
        f"{name} ({', '.join(str(length) for length in shape)})" for name, _, shape in found
    )
    wanted = subject.manifest
    fixed = [name for name, _, shape in found if not shape or isinstance(shape[0], int)]
    if fixed:
        return Check("inputs", Verdict.FAILED, f"{fixed[0]} has a fixed batch: {said}")
    if wanted is None:
        return Check("inputs", Verdict.OK, said)
    names = [wanted.input_name, *(one.name for one in wanted.other_inputs)]
    expected = [
        (name, ELEMENTS.get(one.dtype, one.dtype), list(one.shape))
        for name, one in zip(names, subject.inputs, strict=True)
    ]
    if [(name, kind, shape[1:]) for name, kind, shape in found] != expected:
        return Check("inputs", Verdict.FAILED, f"{said}; manifest {expected}")
    if outputs != [wanted.output_name, *wanted.other_outputs]:
        return Check("inputs", Verdict.FAILED, f"it gives {outputs}, manifest another")
    return Check("inputs", Verdict.OK, f"{said} -> {', '.join(outputs)}")


def _runs(subject: Subject, session: onnxruntime.InferenceSession) -> Check:
    """Run two batch sizes: all outputs finite, and a sample the same alone as among others."""
    takes = [_random(one.type, one.shape) for one in session.get_inputs()]
    if None in takes:
        kinds = ", ".join(one.type for one in session.get_inputs())
        return Check("runs", Verdict.SKIPPED, f"inputs of type {kinds} cannot be made up")
    rng = np.random.default_rng(0)
    batch = tuple(take(rng, BATCHES[0]) for take in takes if take)
    together: Array | None = None
    try:
        for size in BATCHES:
            said = file_outputs(session, tuple(x[:size] for x in batch))
            if len(said) != size:
                return Check("runs", Verdict.FAILED, f"a batch of {size} gives shape {said.shape}")
            if not np.isfinite(said).all():
                return Check("runs", Verdict.FAILED, f"a batch of {size} gives NaN or infinity")
            together = said if together is None else together
            if _is_float(subject) and not _same(said, together[:size]):
                detail = f"a batch of {size} changes what it says about a sample"
                return Check("runs", Verdict.FAILED, detail)
    except ParityError as error:
        return Check("runs", Verdict.FAILED, str(error))
    return Check("runs", Verdict.OK, f"batches of {BATCHES[1]} and {BATCHES[0]}: all finite")


def _score(subject: Subject, session: onnxruntime.InferenceSession, data: Labelled | None) -> Check:
    task, wanted = subject.task, subject.manifest
    if data is None or task is None or wanted is None:
        why = "no manifest" if wanted is None else "no --data"
        return Check("score", Verdict.SKIPPED, f"{why}: not measured")
    try:
        said = file_outputs(session, data.inputs)
    except ParityError as error:
        return Check("score", Verdict.FAILED, str(error))
    if not np.isfinite(said).all():
        return Check("score", Verdict.FAILED, f"NaN or infinity on {data.source}")
    values = task.sample_scores(said, data.targets)
    score, spread = float(values.mean()), float(values.std()) / math.sqrt(len(values))
    found = f"{score:.3f} on {data.source}, {len(data)} samples"
    if wanted.score_data == NOT_MEASURED:
        return Check("score", Verdict.OK, f"{found}; the manifest has none")
    found += f"; manifest {wanted.score:.3f} on {wanted.score_data}"
    # Both are measured on samples, so both vary.
    if score < wanted.score - SIGMAS * math.sqrt(2) * spread - 1e-9:
        return Check("score", Verdict.FAILED, f"{found}: lower than by chance")
    return Check("score", Verdict.OK, found)


def _random(
    kind: str, shape: "list[int | str | None]"
) -> "Callable[[np.random.Generator, int], Array] | None":
    """Return what makes up an input, or None where its type or shape says too little."""
    lengths = [length for length in shape[1:] if isinstance(length, int)]
    if len(lengths) != len(shape) - 1:
        return None
    if kind == ELEMENTS["float32"]:
        return lambda rng, batch: rng.standard_normal((batch, *lengths)).astype(np.float32)
    if kind == ELEMENTS["int64"]:
        return lambda rng, batch: rng.integers(0, 2, (batch, *lengths))  # fits any embedding
    return None


def _is_float(subject: Subject) -> bool:
    # int8 whose ranges are taken at run time depends on the whole batch.
    return subject.manifest is not None and subject.manifest.encoding == FLOAT_ENCODING


def _is_ours(key: str) -> bool:
    return key.startswith(_PREFIX)


def _same(one: Array, other: Array) -> bool:
    scale = max(1.0, float(np.abs(other).max(initial=0.0)))
    return float(np.abs(one - other).max(initial=0.0)) <= TOLERANCE * scale
