"""What a benchmark found: tables, and figures beside the limit they are held against. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: one line.
        columns: their names; units stand in them.
        rows: as many cells each as there are columns.
        digits: significant digits of floating point numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    digits: int = 3

    def __post_init__(self) -> None:
        """Refuse rows that do not fit the columns.

        Raises:
            ValueError: a row has more or fewer cells.
        """
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(row)} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Ratio:
    """A figure divided by a named limit of the same run.

    Attributes:
        name: what was measured.
        measured: the figure.
        limit_name: what it is held against.
        limit: in the same unit.
        unit: of both.
        at_least: the ratio that is wanted at least; at_most: at most. None = no goal.
    """

    name: str
    measured: float
    limit_name: str
    limit: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        """Measured over limit."""
        return self.measured / self.limit if self.limit else float("inf")

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        enough = self.at_least is None or self.ratio >= self.at_least
        return enough and (self.at_most is None or self.ratio <= self.at_most)


@dataclass(frozen=True)
class Result:
    """Everything that one benchmark found."""

    name: str
    summary: str
    tables: tuple[Table, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    notes: tuple[str, ...] = ()


def as_text(result: Result, machine: Mapping[str, Any], command: str) -> str:
    """Return the result for people."""
    parts = [f"== {result.name}: {result.summary}"]
    parts += [f"   {key}: {value}" for key, value in machine.items()]
    parts += [f"   again with: {command}", ""]
    for table in result.tables:
        parts += [*table_lines(table), ""]
    if result.ratios:
        parts += [*_ratio_lines(result.ratios), ""]
    parts += [f"* {note}" for note in result.notes]
    return "\n".join(parts).rstrip() + "\n"


def as_json(result: Result, machine: Mapping[str, Any], command: str) -> str:
    """Return the result for programs, on one line."""
    document = {
        "benchmark": result.name,
        "summary": result.summary,
        "machine": dict(machine),
        "command": command,
        "tables": [
            {
                "title": table.title,
                "rows": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
            }
            for table in result.tables
        ],
        "ratios": [
            # JSON has no infinity.
            asdict(one) | {"ratio": one.ratio if one.limit else None, "met": one.met}
            for one in result.ratios
        ],
        "notes": list(result.notes),
    }
    return json.dumps(document)


def table_lines(table: Table) -> list[str]:
    """Return an aligned table: numbers to the right, words to the left."""
    cells = [[cell_text(cell, table.digits) for cell in row] for row in table.rows]
    right = [
        any(isinstance(row[column], int | float) for row in table.rows)
        for column in range(len(table.columns))
    ]
    return [table.title, *_aligned([list(table.columns), *cells], right)]


def cell_text(cell: Cell, digits: int) -> str:
    """Return a cell as text."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        # Large numbers keep all their digits before the point: 1234 and not 1.23e+03.
        return f"{cell:.0f}" if abs(cell) >= 10**digits else f"{cell:.{digits}g}"
    return str(cell)


def _ratio_lines(ratios: Sequence[Ratio]) -> list[str]:
    rows = [
        ["measured", "", "limit", "", "ratio", "goal"],
        *(
            [
                one.name,
                f"{cell_text(one.measured, 3)} {one.unit}".strip(),
                one.limit_name,
                f"{cell_text(one.limit, 3)} {one.unit}".strip(),
                f"{cell_text(one.ratio, 3)}x",
                _goal_text(one),
            ]
            for one in ratios
        ),
    ]
    return _aligned(rows, [False, True, False, True, True, False])


def _goal_text(ratio: Ratio) -> str:
    if ratio.met is None:
        return "none"
    wanted = []
    if ratio.at_least is not None:
        wanted.append(f">= {ratio.at_least:g}x")
    if ratio.at_most is not None:
        wanted.append(f"<= {ratio.at_most:g}x")
    return f"{' and '.join(wanted)}: {'met' if ratio.met else 'NOT MET'}"


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    lengths = [max(len(row[column]) for row in rows) for column in range(len(right))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(length) if to_right else cell.ljust(length)
            for cell, length, to_right in zip(row, lengths, right, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
