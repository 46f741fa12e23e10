"""Read samples from CSV files: one row a sample, or rows as time steps cut into windows."""

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from slimmable.samples import Array, Samples, SamplesError, windows
from slimmable.task import TaskKind

FLOAT32_MAX = 3.4e38


def read_csv(
    path: Path,
    *,
    label: str | Sequence[str] = "label",
    recording: str | None = None,
    features: Sequence[str] = (),
    task: str = "classification",
    classes: Sequence[str] = (),
    window: int | None = None,
    stride: int | None = None,
    delimiter: str = ",",
) -> Samples:
    """Read a CSV file with a header, or a folder of such files, each a recording of its own.

    Without ``window`` each row is a sample of shape (features,). With it rows are time steps:
    samples are windows of shape (features, window), cut from rows that follow each other in one
    recording with one label. A regression window takes the label of its last row.

    Args:
        path: file or folder.
        label: column of the class, or column or columns of the values for regression;
            reconstruction uses none.
        recording: column that tells which recording a row belongs to; windows of one recording
            overlap and must not be split between training and measuring.
        features: input columns; without it all that are neither label nor recording.
        task: "classification", "regression" or "reconstruction".
        classes: class names in the model's order. Without it the label must be the class number:
            a device that lacks a class would otherwise count differently from the others.
        window: time steps of a sample.
        stride: time steps from one window to the next; without it half a window.
        delimiter: between the values of a row.

    Raises:
        SamplesError: the message names file and line and what is wrong there.
    """
    kind = TaskKind(task)
    labels = [label] if isinstance(label, str) else list(label)
    if kind is TaskKind.RECONSTRUCTION:
        labels = []
    elif not labels or (kind is TaskKind.CLASSIFICATION and len(labels) > 1):
        raise SamplesError(f"label columns {labels}: {kind} needs {_needed(kind)}")
    layout = _Layout(kind, tuple(labels), recording, tuple(features), tuple(classes), delimiter)
    files = _files(path)
    tables = [_read_table(file, layout) for file in files]
    table = tables[0] if len(tables) == 1 else _joined(tables, files)
    if window is None:
        return _rows(table, kind, each_alone=recording is None and len(files) == 1)
    return _windows(path, table, kind, window, stride or max(1, window // 2))


@dataclass(frozen=True)
class _Layout:
    kind: TaskKind
    labels: tuple[str, ...]
    recording: str | None
    features: tuple[str, ...]
    classes: tuple[str, ...]
    delimiter: str


@dataclass
class _Table:
    """Rows as numbers: compact arrays, not lists of Python objects."""

    names: tuple[str, ...]
    values: "array[float]" = field(default_factory=lambda: array("f"))
    targets: "array[float]" = field(default_factory=lambda: array("d"))
    recordings: "array[int]" = field(default_factory=lambda: array("q"))

    def x(self) -> Array:
        return np.frombuffer(self.values, dtype=np.float32).reshape(-1, len(self.names))

    def recording(self) -> Array:
        return np.frombuffer(self.recordings, dtype=np.int64)

    def y(self, kind: TaskKind) -> Array:
        if kind is TaskKind.RECONSTRUCTION:
            return self.x()
        found = np.frombuffer(self.targets, dtype=np.float64)
        if kind is TaskKind.CLASSIFICATION:
            return found.astype(np.int64)
        values = found.astype(np.float32).reshape(len(self.recordings), -1)
        return values[:, 0] if values.shape[1] == 1 else values


def _needed(kind: TaskKind) -> str:
    return "exactly one" if kind is TaskKind.CLASSIFICATION else "at least one"


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv")
    if not files:
        raise SamplesError(f"{path} holds no file that ends in .csv")
    return files


def _joined(tables: Sequence[_Table], files: Sequence[Path]) -> _Table:
    """Lay tables end to end; recordings of different files stay apart."""
    whole = _Table(tables[0].names)
    start = 0
    for table, file in zip(tables, files, strict=True):
        if table.names != whole.names:
            raise SamplesError(
                f"{file}: columns {list(table.names)} differ from {list(whole.names)} of {files[0]}"
            )
        whole.values.extend(table.values)
        whole.targets.extend(table.targets)
        whole.recordings.extend(start + number for number in table.recordings)
        start = 1 + max(whole.recordings, default=-1)
    return whole


def _read_table(file: Path, layout: _Layout) -> _Table:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=layout.delimiter)
            header = [name.strip() for name in next(reader, [])]
            columns = _Columns.of(file, header, layout)
            table = _Table(columns.names)
            numbers: dict[str, int] = {}
            for row in reader:
                if row:
                    columns.add(table, row, f"{file}:{reader.line_num}", numbers)
    except (csv.Error, UnicodeDecodeError) as error:
        raise SamplesError(f"{file} is not a CSV file in UTF-8: {error}") from error
    if not table.recordings:
        raise SamplesError(f"{file} holds no rows below its header")
    return table


@dataclass(frozen=True)
class _Columns:
    """Which column of one file is what."""

    width: int
    names: tuple[str, ...]
    features: tuple[int, ...]
    labels: tuple[tuple[int, str], ...]
    recording: int | None
    class_numbers: dict[str, int]
    kind: TaskKind

    @classmethod
    def of(cls, file: Path, header: list[str], layout: _Layout) -> "_Columns":
        if len(set(header)) != len(header):
            raise SamplesError(f"{file}:1: a column name stands twice in the header {header}")
        special = [*layout.labels, *([layout.recording] if layout.recording else [])]
        chosen = layout.features or tuple(name for name in header if name not in special)
        missing = [name for name in (*special, *chosen) if name not in header]
        if missing:
            raise SamplesError(
                f"{file}:1: no column {missing[0]!r}; the header names {header}. Check the options"
                " label, recording, features and delimiter"
            )
        if not chosen:
            raise SamplesError(f"{file}:1: no input column is left beside {special}")
        return cls(
            width=len(header),
            names=chosen,
            features=tuple(header.index(name) for name in chosen),
            labels=tuple((header.index(name), name) for name in layout.labels),
            recording=header.index(layout.recording) if layout.recording else None,
            class_numbers={name: number for number, name in enumerate(layout.classes)},
            kind=layout.kind,
        )

    def add(self, table: _Table, row: list[str], where: str, numbers: dict[str, int]) -> None:
        """Append one row to ``table``; ``numbers`` gives each recording its number."""
        if len(row) != self.width:
            raise SamplesError(f"{where}: {len(row)} values, the header has {self.width}")
        for column, name in zip(self.features, self.names, strict=True):
            table.values.append(_number(row[column], where, name))
        for column, name in self.labels:
            if self.kind is TaskKind.CLASSIFICATION:
                table.targets.append(self._class_number(row[column].strip(), where, name))
            else:
                table.targets.append(_number(row[column], where, name))
        key = "" if self.recording is None else row[self.recording].strip()
        table.recordings.append(numbers.setdefault(key, len(numbers)))

    def _class_number(self, text: str, where: str, name: str) -> int:
        if self.class_numbers:
            if text in self.class_numbers:
                return self.class_numbers[text]
            raise SamplesError(
                f"{where}: {name} is {text!r}, not one of the classes {list(self.class_numbers)}"
            )
        if text.isdecimal():
            return int(text)
        raise SamplesError(
            f"{where}: {name} is {text!r}, not a class number; name the classes in the model's"
            " order with the option classes"
        )


def _number(text: str, where: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -FLOAT32_MAX < value < FLOAT32_MAX:
        raise SamplesError(f"{where}: {name} is {text!r}, not a number; mend or remove the row")
    return value


def _rows(table: _Table, kind: TaskKind, *, each_alone: bool) -> Samples:
    recording = table.recording()
    return Samples(
        table.x().copy(),
        table.y(kind).copy(),
        np.arange(len(recording)) if each_alone else recording.copy(),
    )


def _windows(path: Path, table: _Table, kind: TaskKind, length: int, stride: int) -> Samples:
    x, y, recording = table.x(), table.y(kind), table.recording()
    inputs, targets, recordings = [], [], []
    for start, end in _runs(recording, y if kind is TaskKind.CLASSIFICATION else None):
        if end - start < length:
            continue  # a label that was held for less than a window
        cut = windows(x[start:end], length, stride)
        last = start + np.arange(len(cut)) * stride + length - 1
        inputs.append(cut)
        targets.append(cut if kind is TaskKind.RECONSTRUCTION else y[last])
        recordings.append(recording[last])
    if not inputs:
        raise SamplesError(
            f"{path}: no {length} rows that follow each other belong to one recording with one"
            " label; choose a shorter window"
        )
    return Samples(np.concatenate(inputs), np.concatenate(targets), np.concatenate(recordings))


def _runs(recording: Array, labels: Array | None) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the longest stretches with one recording and one label."""
    changes = np.diff(recording) != 0
    if labels is not None:
        changes |= np.diff(labels) != 0
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(recording)]
    yield from pairwise(edges)
