"""Which form of a sub-model to ship: float32 or int8. Pure: measurements in, a decision out.

int8 is not faster by itself. Quantised at run time (dynamic), a convolution takes several times as
long; quantised beforehand (static), narrow networks lose more to converting numbers than they gain
in arithmetic. And it may cost accuracy. So it is measured, per width, and this decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporter.errors import QuantisationError
from slimmable.state import Array
from slimmable.task import Task, TaskKind

FP32 = "fp32"
STATIC = "int8-static"
DYNAMIC = "int8-dynamic"
AUTO, OFF = "auto", "off"
FORCED = {"static": STATIC, "dynamic": DYNAMIC}
MODES = (AUTO, *FORCED, OFF)

LEAST_GAIN = 0.05  # two measurements of one file differ by nearly as much


@dataclass(frozen=True)
class Loss:
    """What a variant loses against float32.

    Attributes:
        value: 0 is nothing; negative where the variant scores better.
        criterion: what was compared, on what, in a few words.
    """

    value: float
    criterion: str


@dataclass(frozen=True)
class VariantMeasure:
    """What is known about one form of a sub-model.

    Attributes:
        name: "fp32", "int8-static" or "int8-dynamic".
        latency_s: seconds of one call, all forms measured in turns.
        size: bytes of the file.
        score_loss: against float32; None where it is not known.
        failed: why there is no such file; "" where there is one.
        criterion: what the loss is a loss of.
    """

    name: str
    latency_s: float
    size: int
    score_loss: float | None
    failed: str = ""
    criterion: str = "score"


@dataclass(frozen=True)
class VariantChoice:
    """What to ship.

    Attributes:
        name: of the chosen form.
        reason: in one sentence.
        rejected: the others, each with why.
    """

    name: str
    reason: str
    rejected: tuple[tuple[str, str], ...]


def choose_variant(
    candidates: Sequence[VariantMeasure], *, max_score_loss: float, mode: str
) -> VariantChoice:
    """Choose the form to ship.

    "auto" takes the fastest one that loses at most ``max_score_loss`` and is at least 5 % faster
    than float32. "static" and "dynamic" take that form, whatever it costs; "off" takes float32.

    Args:
        candidates: float32 among them.
        max_score_loss: in the unit of the score.
        mode: one of `MODES`.

    Raises:
        QuantisationError: the form that ``mode`` demands could not be made.
        ValueError: no such mode, float32 is missing or failed, or a form is there twice.
    """
    by_name = {one.name: one for one in candidates}
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} of int8: use one of {list(MODES)}")
    if len(by_name) != len(candidates) or FP32 not in by_name or by_name[FP32].failed:
        raise ValueError(f"candidates {[one.name for one in candidates]}: each once, with {FP32}")
    if mode == AUTO:
        return _fastest(by_name, max_score_loss)
    return _demanded(by_name, FORCED.get(mode, FP32), mode)


def measure_loss(task: Task, expected: Array, found: Array, targets: Array | None = None) -> Loss:
    """Return what int8 outputs lose against those of float32, on the same samples.

    With targets it is a difference of scores. Without, the share of samples whose class changed,
    or the error of the outputs relative to their spread.

    Args:
        task: how outputs are scored.
        expected: (N, ...) of float32.
        found: (N, ...) of int8.
        targets: what the outputs should be, where that is known.
    """
    if targets is not None:
        loss = task.score(expected, targets) - task.score(found, targets)
        return Loss(loss, f"score on {len(targets)} labelled samples")
    if task.kind is TaskKind.CLASSIFICATION:
        changed = float(np.mean(expected.argmax(axis=1) != found.argmax(axis=1)))
        return Loss(changed, f"share of {len(expected)} samples that change class")
    spread = float(np.std(expected))
    error = float(np.sqrt(np.mean((expected.astype(np.float64) - found) ** 2)))
    relative = error / spread if spread else float(error > 0)
    return Loss(relative, f"error relative to the outputs' spread on {len(expected)} samples")


def _fastest(by_name: dict[str, VariantMeasure], max_score_loss: float) -> VariantChoice:
    fp32 = by_name[FP32]
    whys = {
        name: _objection(one, fp32, max_score_loss) for name, one in by_name.items() if name != FP32
    }
    fit = [by_name[name] for name, why in whys.items() if not why]
    if not fit:
        reason = "fp32: no int8 form is both faster and accurate enough" if whys else "fp32 alone"
        return VariantChoice(FP32, reason, tuple(sorted(whys.items())))
    chosen = min(fit, key=lambda one: (one.latency_s, one.size, one.name))
    for one in fit:
        if one is not chosen:
            whys[one.name] = f"{_milliseconds(one)}, {chosen.name} is faster"
    whys[FP32] = f"{_milliseconds(fp32)}, {chosen.name} is faster"
    del whys[chosen.name]
    reason = (
        f"{chosen.name}: {_ratio(chosen, fp32)} for a loss of {chosen.score_loss:.4g}"
        f" ({chosen.criterion}, allowed {max_score_loss:g})"
    )
    return VariantChoice(chosen.name, reason, tuple(sorted(whys.items())))


def _objection(one: VariantMeasure, fp32: VariantMeasure, max_score_loss: float) -> str:
    """Return why a form is not to be taken, or ""."""
    if one.failed:
        return one.failed
    if one.score_loss is None:
        return "what it loses in accuracy is not known"
    if not one.score_loss <= max_score_loss:  # so written that NaN is refused
        return f"loses {one.score_loss:.4g} ({one.criterion}), allowed is {max_score_loss:g}"
    if not one.latency_s <= fp32.latency_s * (1 - LEAST_GAIN):
        return f"{_ratio(one, fp32)}, which is not at least {LEAST_GAIN:.0%} faster"
    return ""


def _demanded(by_name: dict[str, VariantMeasure], name: str, mode: str) -> VariantChoice:
    chosen = by_name.get(name)
    if chosen is None or chosen.failed:
        why = chosen.failed if chosen else "it was not made"
        raise QuantisationError(f"{name} was asked for and there is none: {why}")
    others = tuple(sorted((other, f"int8 mode is {mode}") for other in by_name if other != name))
    if name == FP32:
        return VariantChoice(name, "fp32: int8 is off", others)
    loss = "unknown" if chosen.score_loss is None else f"{chosen.score_loss:.4g}"
    reason = f"{name}: asked for; {_ratio(chosen, by_name[FP32])}, loss {loss} ({chosen.criterion})"
    return VariantChoice(name, reason, others)


def _ratio(one: VariantMeasure, fp32: VariantMeasure) -> str:
    share = one.latency_s / fp32.latency_s if fp32.latency_s > 0 else float("nan")
    return f"{_milliseconds(one)}, {share:.2f}x of fp32"


def _milliseconds(one: VariantMeasure) -> str:
    return f"{one.latency_s * 1e3:.3g} ms"
