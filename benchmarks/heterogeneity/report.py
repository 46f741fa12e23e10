"""Tables, a CSV file and pictures of whatever cells are finished."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cell_runner import commit, read_cells, read_tuning
from benchmarks.heterogeneity import measures, pictures
from benchmarks.heterogeneity.campaign import GRID, ROUNDS
from benchmarks.heterogeneity.goals import goals
from benchmarks.heterogeneity.measures import Found, Key, curve, last, mean_and_spread
from benchmarks.heterogeneity.methods import METHODS, OURS, REFERENCE
from benchmarks.heterogeneity.summary import summary
from benchmarks.results import Table, table_lines

COLUMNS = (
    *("method", "seeds", "accuracy", *(f"at {width:g}" for width in GRID)),
    *("take part", "least", "s to target", "MB to target", "s", "device-s", "kJ"),
    *("MB down", "MB up", "MB in float32"),
)
EXPLANATION = f"""\
Accuracies are in percentage points on test data that no method saw, the mean of the last three of
{ROUNDS} rounds, then the sample standard deviation over the seeds. accuracy: of the full width
(fedavg-narrow: of the narrowest, the only one that it trains). take part, least: share of all
rounds in which a device's update counted, mean and least over the devices. target: the accuracy
that {REFERENCE} ends with in the same case and seed; a dash: not reached in every seed. s: virtual
seconds of the campaign; device-s: seconds that devices computed or transferred; kJ: computing
seconds times the machine's draw (estimates, see cases.py) and transfers at one watt. MB: of all
devices; in float32: what they would have been in full precision."""


def write_all(results: Path, command: str) -> str:
    """Write every table, CSV file and picture, and return the tables.

    Args:
        results: folder of the cells; the files go there as well.
        command: that asked for it, for the header.
    """
    cells = read_cells(results)
    if not cells:
        return "no cell is finished yet: run `python -m benchmarks.heterogeneity`"
    tables = dict(sorted(measures.tables(cells).items()))
    made = ", ".join(sorted({one["commit"] for one in cells}))
    header = f"# {command}\n# {len(cells)} cells, made by commit {made}; reported by {commit()}"
    parts = [header, EXPLANATION, _tuning_text(results)]
    for key, methods in tables.items():
        parts.append("\n".join(table_lines(_table(key, methods))))
        if OURS in methods:
            parts.append("\n".join(_goal_lines(methods)))
    text = "\n\n".join(parts) + "\n"
    (results / "tables.txt").write_text(text)
    (results / "summary.md").write_text(summary(tables), encoding="utf-8")
    (results / "rounds.csv").write_text(_rounds_csv(cells))
    pictures.draw(results, tables)
    return text


def _tuning_text(results: Path) -> str:
    rows = [
        (
            data,
            method,
            "; ".join(
                f"{rate:g}: {score:.1f}"
                for rate, score in zip(one["tried"], one["scores"], strict=True)
            ),
            one["chosen"],
        )
        for data, methods in sorted(read_tuning(results).items())
        for method, one in methods.items()
    ]
    title = "tuning: three learning rates for each method, on seed 100, case all, validation data"
    return "\n".join(table_lines(Table(title, ("data", "method", "tried", "chosen"), tuple(rows))))


def _table(key: Key, methods: Mapping[str, Sequence[Found]]) -> Table:
    order = {name: at for at, name in enumerate(METHODS)}
    names = sorted(methods, key=lambda name: order.get(name, len(order)))
    targets = {
        one["cell"]["seed"]: last(one, measures.judged_width(one))
        for one in methods.get(REFERENCE, ())
    }
    rows = tuple(_row(name, methods[name], targets) for name in names)
    return Table(f"{key[0]}, {key[1]}", COLUMNS, rows, digits=4)


def _row(
    name: str, cells: Sequence[Found], targets: Mapping[int, float | None]
) -> tuple[str | int | float | None, ...]:
    def mean(values: Sequence[float | None]) -> float | None:
        found = mean_and_spread(values)
        return None if found is None or None in values else round(found[0], 2)

    def to_target(axis: str) -> float | None:
        return mean(
            [
                None if target is None else curve(one).first(axis, target)
                for one in cells
                for target in [targets.get(one["cell"]["seed"])]
            ]
        )

    def of(name: str, unit: float) -> float | None:
        return mean([measures.total(one, name) / unit for one in cells])

    accuracy = mean_and_spread([last(one, measures.judged_width(one)) for one in cells])
    return (
        name,
        len(cells),
        f"{accuracy[0]:.1f} +-{accuracy[1]:.1f}" if accuracy else None,
        *(mean([last(one, f"{width:g}") for one in cells]) for width in GRID),
        mean([measures.participation(one)[0] for one in cells]),
        mean([measures.participation(one)[1] for one in cells]),
        to_target("time_s"),
        to_target("megabytes"),
        mean([one["rounds"][-1]["closed_s"] if one["rounds"] else None for one in cells]),
        mean([curve(one).device_s[-1] if one["rounds"] else None for one in cells]),
        of("joules", 1e3),
        of("down_bytes", 1e6),
        of("up_bytes", 1e6),
        of("float32_bytes", 1e6),
    )


def _goal_lines(methods: Mapping[str, Sequence[Found]]) -> list[str]:
    words = {True: "met", False: "NOT MET", None: "cannot be judged"}
    return [f"  {one.name}: {words[one.met]} ({one.detail})" for one in goals(methods)]


def _rounds_csv(cells: Sequence[Found]) -> str:
    target = io.StringIO(newline="")
    writer = csv.writer(target, lineterminator="\n")
    fields = ("data", "case", "method", "seed")
    writer.writerow((*fields, "round", "accuracy", "time_s", "device_s", "megabytes"))
    for one in cells:
        found = curve(one)
        points = zip(found.scores, found.time_s, found.device_s, found.megabytes, strict=True)
        for number, values in enumerate(points, start=1):
            writer.writerow(
                (*(one["cell"][name] for name in fields), number, *(f"{v:.6g}" for v in values))
            )
    return target.getvalue()
