"""Export a network at several widths: files, manifests, what each is worth. Imports torch."""

import dataclasses
import logging
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import onnxruntime

from exporter.front import Candidate, pareto_front
from exporter.manifest import manifest_for
from exporter.preoptimised import preoptimise
from exporter.report import NOT_MEASURED, ExportReport, FormRow, WidthRow, WrittenFile
from exporter.selection import BudgetUnmetError, closest
from exporter.templates import TemplateCache
from exporter.variant_choice import FP32
from exporter.width_forms import CALLS, ExportOrder, Form, WidthForms, export_forms
from slimmable.state import Array
from slimmable.task import HISTOGRAM_BINS, Reference, TaskKind
from slimmable.width import WidthError

logger = logging.getLogger(__name__)

SCORE_NAMES = {TaskKind.CLASSIFICATION: "accuracy"}


@dataclass(frozen=True)
class Export:
    """What `run_export` made: a report, and files by name, none of them written yet."""

    report: ExportReport
    files: Mapping[str, bytes]


def run_export(order: ExportOrder, cache: TemplateCache) -> Export:
    """Export every width, measure its forms, and choose among them. Nothing is written.

    Raises:
        WidthError: a width is outside (0, 1].
        SpecError: the state is not one of this model.
        BudgetUnmetError: no width keeps the device's budget.
        ExportError: a width cannot be exported.
    """
    chosen = sorted(set(order.widths))
    outside = [width for width in chosen if not 0.0 < width <= 1.0]
    if outside or not chosen:
        raise WidthError(f"widths {outside or chosen} are outside (0, 1]; choose some such as 0.5")
    _warn(order, chosen)
    widths = [export_forms(order, width, cache) for width in chosen]
    kept = [one.width for one in widths if one.selection.name]
    if not kept:
        raise BudgetUnmetError(_unmet(order, widths))
    files: dict[str, bytes] = {}
    on_front = _on_front(widths)
    best = max(kept) if order.budget.limits_anything else None
    rows = tuple(_row(order, one, on_front, files, recommended=one.width == best) for one in widths)
    return Export(_report(order, widths, rows), files)


def file_stem(model: str, width: float) -> str:
    """Return the name of a width's files without suffix, for example ``cnn1d-w0.50``."""
    label = f"{width:.2f}"
    if float(label) != width:
        label = repr(float(width))
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', model)}-w{label}"


def possible_files(model: str, widths: Sequence[float]) -> set[str]:
    """Return the names of all files that an export of these widths may write for its models."""
    return {
        f"{file_stem(model, width)}{form}{kind}{suffix}"
        for width in widths
        for form in ("", "-int8")
        for kind in ("", ".preoptimised")
        for suffix in (".onnx", ".manifest.json")
    }


def _warn(order: ExportOrder, widths: Sequence[float]) -> None:
    model = order.model
    sizes: dict[int, float] = {}
    if model.spec.statistics and order.calibration is None and widths[0] < 1.0:
        logger.warning(
            "batch-norm statistics of %s are sliced from the full width, which costs accuracy at"
            " narrow widths; give calibration samples",
            model.name,
        )
    for width in widths:
        same = sizes.setdefault(model.spec.parameter_count(width), width)
        if same != width:
            logger.warning("width %g is the same network as %g: channels are rounded", width, same)


def _on_front(widths: Sequence[WidthForms]) -> frozenset[tuple[float, str]]:
    keys = [(one.width, name) for one in widths for name in one.forms]
    forms = [form for one in widths for form in one.forms.values()]
    front = pareto_front(
        [Candidate(f.score, f.latency.median_s, len(f.exported.onnx)) for f in forms]
    )
    return frozenset(key for key, on in zip(keys, front, strict=True) if on)


def _unmet(order: ExportOrder, widths: Sequence[WidthForms]) -> str:
    medians = {
        (one.width, name): form.latency.median_s
        for one in widths
        for name, form in one.forms.items()
    }
    offers = {one.width: one.measures for one in widths}
    near = closest(offers, medians, order.budget, max_score_loss=order.max_loss)
    return (
        f"no width keeps {order.budget} on this machine; the closest is {near}; raise the budget,"
        " or add a narrower width"
    )


def _row(
    order: ExportOrder,
    one: WidthForms,
    on_front: frozenset[tuple[float, str]],
    files: dict[str, bytes],
    *,
    recommended: bool,
) -> WidthRow:
    """Return the row of a width, and add what is written of it to ``files``."""
    notes = dict(one.selection.rejected)
    rows = []
    for name, form in one.forms.items():
        size, latency = len(form.exported.onnx), form.latency
        written = _place(order, form, name, files) if name in one.written else None
        faster = None
        if order.preoptimised and written and name == one.selection.name:
            exported = dataclasses.replace(form.exported, onnx=preoptimise(form.exported.onnx))
            started = dataclasses.replace(form, exported=exported)
            faster = _place(order, started, name, files, ".preoptimised")
        rows.append(
            FormRow(
                form=name,
                written=written,
                preoptimised=faster,
                size=size,
                latency_median_s=latency.median_s,
                latency_p95_s=latency.p95_s,
                score=form.score,
                parity=form.exported.parity,
                on_front=(one.width, name) in on_front,
                over_budget=order.budget.complaint(latency.median_s, size),
                note=notes.get(name, ""),
            )
        )
    return WidthRow(
        width=one.width,
        parameters=order.model.spec.parameter_count(one.width),
        statistics=one.statistics,
        chosen=one.selection.name,
        preferred=one.selection.preferred,
        reason=one.selection.reason,
        recommended=recommended,
        failed=dict(one.failed),
        forms=tuple(rows),
    )


def _place(
    order: ExportOrder, form: Form, name: str, files: dict[str, bytes], kind: str = ""
) -> WrittenFile:
    """Add an ONNX file and its manifest to ``files``."""
    exported = form.exported
    stem = file_stem(order.model.name, exported.width) + ("" if name == FP32 else "-int8") + kind
    manifest = manifest_for(
        exported,
        order.model,
        round=exported.round,
        score=0.0 if form.score is None else form.score,
        score_data=form.score_data,
        reference=_reference(order, form.outputs),
    )
    written = WrittenFile(
        f"{stem}.onnx", f"{stem}.manifest.json", exported.digest, len(exported.onnx)
    )
    files[written.name] = exported.onnx
    files[written.manifest] = pretty(msgspec.to_builtins(manifest))
    return written


def _reference(order: ExportOrder, said: Array | None) -> Reference:
    task = order.model.task
    inputs = order.labelled.inputs if order.labelled else order.calibration
    # Classes of every pixel or token are no class of a sample.
    if said is None or inputs is None or (task.classes and said.ndim != 2):
        return Reference((0,) * max(1, len(task.classes)), (0,) * HISTOGRAM_BINS)
    return task.reference(task.decode(said, inputs[0]))


def _report(
    order: ExportOrder, widths: Sequence[WidthForms], rows: tuple[WidthRow, ...]
) -> ExportReport:
    model = order.model
    data = {form.score_data for one in widths for form in one.forms.values()} - {NOT_MEASURED}
    return ExportReport(
        model=model.name,
        spec_hash=model.spec.spec_hash,
        weights=order.weights,
        fleet=order.fleet,
        round=order.round,
        task=model.task.kind.value,
        classes=model.task.classes,
        scale=order.scale,
        score_name=SCORE_NAMES.get(model.task.kind, "explained variance"),
        score_data="; ".join(sorted(data)) or NOT_MEASURED,
        budget=str(order.budget),
        machine=f"{platform.machine()}, onnxruntime {onnxruntime.__version__}",
        threads=order.threads,
        calls=CALLS,
        widths=rows,
    )


def pretty(document: object) -> bytes:
    """Return JSON for people."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
