"""What an export found out, and how it is written down: index, CSV, table. No torch, no disk."""

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exporter.budget import format_bytes, format_seconds

INDEX_FORMAT = 1
COLUMNS = 80
NOTHING = "-"
NOT_MEASURED = "not measured"
CSV_COLUMNS = (
    "width",
    "form",
    "chosen",
    "recommended",
    "file",
    "size_bytes",
    "parameters",
    "latency_median_s",
    "latency_p95_s",
    "score",
    "on_front",
    "parity",
    "over_budget",
    "note",
)
HEAD = ("width", "form", "score", "median", "p95", "size", "params", "front", "")
LEFT = frozenset({1, 8})  # columns of words


@dataclass(frozen=True)
class WrittenFile:
    """An ONNX file in the folder.

    Attributes:
        name, manifest: of the file and of the manifest beside it.
        digest, size: SHA-256 and bytes.
    """

    name: str
    manifest: str
    digest: str
    size: int


@dataclass(frozen=True)
class FormRow:
    """One form of a width: float32, or int8.

    Attributes:
        form: "fp32", "int8-static" or "int8-dynamic".
        written: the file, or None where it was not written.
        preoptimised: the same for a faster start, or None.
        size: bytes, also where it was not written.
        latency_median_s, latency_p95_s: of a call with one sample.
        score: None where it was not measured.
        parity: largest difference to torch; for int8 to the float32 file.
        on_front: whether no other form of any width is better at everything.
        over_budget: which limits it breaks, or "".
        note: why it was not chosen, or "".
    """

    form: str
    written: WrittenFile | None
    preoptimised: WrittenFile | None
    size: int
    latency_median_s: float
    latency_p95_s: float
    score: float | None
    parity: float
    on_front: bool
    over_budget: str
    note: str


@dataclass(frozen=True)
class WidthRow:
    """One width.

    Attributes:
        parameters: trained values.
        statistics: "calibrated" on given inputs, "stored" with the weights of the full width,
            "sliced" from them, or "none" where the model has none.
        chosen: name of a form, or "" where none keeps the budget.
        preferred: name of the form that would be chosen without a budget.
        reason: why that one, in one sentence.
        recommended: the widest width that keeps the budget.
        failed: form -> why it could not be made.
        forms: that were made.
    """

    width: float
    parameters: int
    statistics: str
    chosen: str
    preferred: str
    reason: str
    recommended: bool
    failed: dict[str, str]
    forms: tuple[FormRow, ...]

    @property
    def choice(self) -> FormRow | None:
        """The chosen form."""
        return next((form for form in self.forms if form.form == self.chosen), None)


@dataclass(frozen=True)
class ExportReport:
    """Everything that an export found out.

    Attributes:
        model, spec_hash: what was exported.
        weights: where its weights come from, in a few words; fleet, round: for those of a run.
        task, classes, scale: what the files take and give.
        score_name, score_data: what was measured, on what.
        budget: of the device, in words, or "".
        machine: that measured latencies; threads, calls: how.
        widths: ascending.
    """

    model: str
    spec_hash: str
    weights: str
    fleet: str
    round: int
    task: str
    classes: tuple[str, ...]
    scale: str
    score_name: str
    score_data: str
    budget: str
    machine: str
    threads: int
    calls: int
    widths: tuple[WidthRow, ...]


def index_document(report: ExportReport) -> dict[str, Any]:
    """Return ``index.json`` as plain data; figures of the chosen form stand beside its width."""
    document = {"format": INDEX_FORMAT, **asdict(report)}
    for plain, row in zip(document["widths"], report.widths, strict=True):
        file = row.choice.written if row.choice else None
        for key in ("name", "manifest", "digest", "size"):
            plain["file" if key == "name" else key] = getattr(file, key, None)
    return document


def csv_text(report: ExportReport) -> str:
    """Return the table of all forms as CSV."""
    target = io.StringIO()
    writer = csv.DictWriter(target, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in report.widths:
        for form in row.forms:
            known = asdict(form) | {
                "file": form.written.name if form.written else "",
                "width": row.width,
                "parameters": row.parameters,
                "chosen": int(form.form == row.chosen),
                "recommended": int(row.recommended and form.form == row.chosen),
                "on_front": int(form.on_front),
                "size_bytes": form.size,
                "score": "" if form.score is None else form.score,
            }
            writer.writerow({name: known[name] for name in CSV_COLUMNS})
    return target.getvalue()


def table_lines(report: ExportReport) -> list[str]:
    """Return the table for people, at most `COLUMNS` wide, with what its figures mean."""
    lines = [*_heading(report), "", *_aligned([HEAD, *_cells(report.widths)])]
    if any(form.on_front for row in report.widths for form in row.forms):
        lines.append("front *: no other file scores better, runs faster and is smaller")
    return lines + _reasons(report)


def _heading(report: ExportReport) -> list[str]:
    whose = f" of fleet {report.fleet}, round {report.round}" if report.fleet else ""
    machine = f"THIS machine ({report.machine}), {_threads(report.threads)}"
    said = [
        f"{report.model}{whose}; weights: {report.weights}",
        f"latency: one sample on {machine}, {report.calls} calls",
        f"score: {report.score_name}, {report.score_data}",
    ]
    if report.budget:
        said.append(f"device budget: {report.budget}")
    return [line for one in said for line in _wrapped(one, "  ")]


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _cells(rows: Sequence[WidthRow]) -> list[tuple[str, ...]]:
    """Return a line for each width: its chosen form, or the one that a budget forbids."""
    cells: list[tuple[str, ...]] = []
    for row in rows:
        shown = row.chosen or row.preferred
        form = next(form for form in row.forms if form.form == shown)
        over = "" if row.chosen else "over budget"
        cells.append(
            (
                f"{row.width:g}",
                form.form,
                NOTHING if form.score is None else f"{form.score:.3f}",
                format_seconds(form.latency_median_s),
                format_seconds(form.latency_p95_s),
                format_bytes(form.size),
                _count(row.parameters),
                "*" if form.on_front else "",
                "recommended" if row.recommended else over,
            )
        )
    return cells


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    spans = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    return [
        "  ".join(
            cell.ljust(span) if place in LEFT else cell.rjust(span)
            for place, (cell, span) in enumerate(zip(line, spans, strict=True))
        ).rstrip()
        for line in cells
    ]


def _reasons(report: ExportReport) -> list[str]:
    """Return, per width, why its form was chosen, where there was a choice, or why none was."""
    told = [row for row in report.widths if len(row.forms) + len(row.failed) > 1 or not row.chosen]
    lines = ["", "why"] if told else []
    for row in told:
        lines += _hanging(f"{row.width:g}".rjust(5), row.reason)
        notes = {form.form: form.note for form in row.forms if form.note} | row.failed
        for name, note in sorted(notes.items()):
            lines += _hanging(" " * 5, f"not {name}: {note}")
    return lines


def _hanging(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, COLUMNS, initial_indent=f"{label}  ", subsequent_indent=" " * (len(label) + 4)
    )


def _count(number: int) -> str:
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if number < limit:
            return f"{number}" if not unit else f"{number / divisor:.3g}{unit}"
    return f"{number / 1e9:.3g}G"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, subsequent_indent=indent, break_on_hyphens=False)
