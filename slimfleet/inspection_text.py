"""An inspection as lines of text, at most 100 columns. Pure."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from slimfleet.inspection import DECLARED, Finding, Layer, ScalingAxes, Tensor, WidthFigures
from slimmable.derivation.spec_terms import AxisReport

Causes = Mapping[tuple[str, str], int]

COLUMNS = 100
GAP = "  "
NARROWEST_PATH, NARROWEST_REASON = 18, 16
WIDEST_NAMES, WIDEST_FORM = 22, 30
LAYER_HEAD = ("layer", "tensors", "shape (<..> scales)", "MACs", "stays, and why")
WIDTH_HEAD = ("width", "parameters", "share", "MACs", "share", "ONNX file", "training", "inference")
OWN = "(network itself)"
# Reasons that stand in most rows, in one word.
SHORT = {
    "input of the network": "input",
    "output of the network": "output",
    "positions (pixels, time steps)": "positions",
    "positions of a sequence": "positions",
    "gates of a recurrent layer": "gates",
}


def layer_lines(layers: Sequence[Layer], causes: Causes) -> list[str]:
    """Return the table of layers; equal ones that differ by a number in their path are one row.

    Args:
        layers: in the order of the table.
        causes: (reason, place) -> the number of the finding that says more.
    """
    cells = [LAYER_HEAD]
    for paths, layer in _grouped(layers, causes):
        name = _name(paths)
        macs = count_text(layer.macs[-1]) if layer.macs[-1] else ""
        for names, form, reason in _tensor_cells(layer.tensors, causes) or [("", "", "")]:
            cells.append((name, names, form, macs, reason))
            name = macs = ""
    return _fitted(cells)


def axis_lines(axes: Sequence[ScalingAxes], widths: Sequence[float]) -> list[str]:
    """Return which lengths the axes that scale keep at each width."""
    if not axes:
        return []
    head = ("<axis>", "axes", "rounded to", *(f"at {width:g}" for width in widths))
    rows = [
        (f"<{one.size}>", str(one.count), str(one.granule), *map(str, one.lengths)) for one in axes
    ]
    return _right_aligned([head, *rows])


def width_lines(figures: Sequence[WidthFigures]) -> list[str]:
    """Return the table of widths."""
    rows = [
        (
            f"{one.width:g}",
            count_text(one.parameters),
            f"{one.parameter_share:.1%}",
            count_text(one.macs),
            f"{one.mac_share:.1%}",
            bytes_text(one.file_bytes),
            bytes_text(one.training_bytes),
            bytes_text(one.inference_bytes),
        )
        for one in figures
    ]
    return _right_aligned([WIDTH_HEAD, *rows])


def finding_lines(findings: Iterable[Finding]) -> list[str]:
    """Return what a user should know, each with what to do about it."""
    lines = []
    for one in findings:
        mark = f"[{one.number}]" if one.number else " ! "
        lines += textwrap.wrap(
            one.text, COLUMNS, initial_indent=f"{mark} ", subsequent_indent=" " * (len(mark) + 1)
        )
        lines += textwrap.wrap(
            one.hint, COLUMNS, initial_indent="    -> ", subsequent_indent=" " * 7
        )
    return lines


def count_text(count: int) -> str:
    """Return a count in three digits: ``1.23 M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * limit:
            return f"{_three_digits(count / limit)} {unit}"
    return str(count)


def bytes_text(size: int) -> str:
    """Return a size in three digits: ``1.23 MiB``."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= 0.9995 * limit:
            return f"{_three_digits(size / limit)} {unit}"
    return f"{_three_digits(size / 2**10)} KiB"


def _three_digits(number: float) -> str:
    if number >= 99.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _grouped(layers: Sequence[Layer], causes: Causes) -> list[tuple[list[str], Layer]]:
    """Return (paths, one of them) for layers that are equal but for numbers in their paths."""
    alike: dict[object, list[Layer]] = {}
    for layer in layers:
        pattern = tuple("*" if part.isdecimal() else part for part in layer.path.split("."))
        shown = tuple(_tensor_cells(layer.tensors, causes))
        alike.setdefault((pattern, shown, layer.macs), []).append(layer)
    return [([one.path for one in found], found[0]) for found in alike.values()]


def _name(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return paths[0] or OWN
    columns = list(zip(*(path.split(".") for path in paths), strict=True))
    varying = [parts for parts in columns if len(set(parts)) > 1]
    parts = [_numbers(parts) if len(varying) == 1 else "*" for parts in varying]
    replaced = iter(parts)
    shown = [parts[0] if len(set(parts)) == 1 else next(replaced) for parts in columns]
    return f"{'.'.join(shown)} ({len(paths)})"


def _numbers(parts: Sequence[str]) -> str:
    """Return ``0-3,5`` for the numbers of a path."""
    numbers = sorted(map(int, parts))
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in spans)


def _tensor_cells(tensors: Sequence[Tensor], causes: Causes) -> list[tuple[str, str, str]]:
    """Return (names, form, reason); tensors of a layer that are alike stand together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for tensor in tensors:
        shown = _cut(tensor.form, WIDEST_FORM), _reasons(tensor.dimensions, causes)
        alike.setdefault(shown, []).append(tensor.name.rpartition(".")[2])
    return [(_joined(names), form, reason) for (form, reason), names in alike.items()]


def _joined(names: Sequence[str]) -> str:
    whole = ", ".join(names)
    if len(whole) <= WIDEST_NAMES or len(names) == 1:
        return _cut(whole, WIDEST_NAMES)
    more = f" + {len(names) - 1}"
    return _cut(names[0], WIDEST_NAMES - len(more)) + more


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _reasons(dimensions: Sequence[AxisReport], causes: Causes) -> str:
    found: dict[str, list[str]] = {}
    for one in dimensions:
        if one.scales or one.reason in {"", DECLARED} or one.size == 1:
            continue
        number = causes.get((one.reason, one.place))
        reason = f"[{number}]" if number else SHORT.get(one.reason, one.reason)
        found.setdefault(reason, []).append(str(one.size))
    return "; ".join(f"{' x '.join(sizes)} {reason}" for reason, sizes in found.items())


def _fitted(cells: Sequence[Sequence[str]]) -> list[str]:
    """Align five columns; long paths lose their beginning, the last column is wrapped."""
    spans = [max(len(row[place]) for row in cells) for place in range(5)]
    taken = sum(spans[1:4]) + 4 * len(GAP)
    left_over = COLUMNS - taken - min(spans[4], NARROWEST_REASON)
    spans[0] = min(spans[0], max(NARROWEST_PATH, left_over))
    room = max(NARROWEST_REASON, COLUMNS - taken - spans[0])
    lines = []
    for path, names, form, macs, reason in cells:
        shown = path if len(path) <= spans[0] else f"…{path[len(path) - spans[0] + 1 :]}"
        wrapped = textwrap.wrap(reason, room) or [""]
        left = GAP.join(
            (
                shown.ljust(spans[0]),
                names.ljust(spans[1]),
                form.ljust(spans[2]),
                macs.rjust(spans[3]),
            )
        )
        lines.append(f"{left}{GAP}{wrapped[0]}".rstrip())
        lines += [f"{' ' * len(left)}{GAP}{line}" for line in wrapped[1:]]
    return lines


def _right_aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    spans = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    return [
        GAP.join(cell.rjust(span) for cell, span in zip(row, spans, strict=True)) for row in cells
    ]
