"""Tables, CSV files and pictures of whatever cells are finished."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.cell_runner import commit, read_cells, read_tuning
from benchmarks.fairness import measures, pictures
from benchmarks.fairness.cells import TUNING_SCHEMES, TUNING_SEED
from benchmarks.fairness.goals import NAMES, Goal, goals
from benchmarks.fairness.measures import Cell, Figures, Key, mean_of, number_text, spread_of
from benchmarks.fairness.summary import summary
from benchmarks.results import Table, table_lines

COLUMNS = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mean_gain": "MCG",
    "gain_spread": "CGS",
    "smallest_gain": "least gain",
    "rational": "rational",
    "top_gain": "top's gain",
    "mean": "mean acc.",
    "best": "max acc.",
    "released": "released",
    "megabytes": "MB each",
    "cpu_s": "CPU s",
}
DIGITS = {"pearson": 3, "spearman": 3, "rational": 2, "cpu_s": 0}
EXPLANATION = """\
Gains and accuracies are in percentage points on test data that no method saw. Contribution: the
mean accuracy of a participant's own model over two further trainings, with other weights and
batches than the one that rewards were allocated by. Noise ceiling: the correlation that the noise
of these trainings leaves possible; noise: how much it spreads contributions, and so any gains.
MCG, CGS: mean and standard deviation of the gains (reward minus contribution). rational: share of
participants no worse off than alone. top: the participant with the largest contribution. released:
participants that received a model; who received none keeps its own. Mean and, after +-, sample
standard deviation over the seeds. A dash: not defined, because rewards are all the same."""


def write_all(results: Path, command: str) -> str:
    """Write every table, CSV file and picture, and return the tables.

    Args:
        results: folder of the cells; the files go there as well.
        command: that asked for it, for the header.
    """
    cells = read_cells(results)
    header = _header(cells, command)
    if not cells:
        return "no cell is finished yet: run `python -m benchmarks.fairness`"
    tables = measures.groups(cells)
    honest = {key: found for key, found in tables.items() if not key[3]}
    riders = {key: found for key, found in tables.items() if key[3]}
    parts = [header, EXPLANATION, _tuning_text(read_tuning(results))]
    parts += [_table_text(key, found) for key, found in honest.items()]
    parts += [_riders_text(riders)] if riders else []
    parts += [_widths_text(honest), _goals_text(honest)]
    text = "\n\n".join(parts) + "\n"
    (results / "tables.txt").write_text(text)
    (results / "summary.md").write_text(summary(honest))
    _write_csv(results / "participants.csv", header, _participants(cells))
    _write_csv(results / "methods.csv", header, _methods(cells))
    _write_csv(results / "widths.csv", header, _widths(cells))
    pictures.draw(results, honest)
    return text


def title_of(key: Key) -> str:
    """Return what a table is about."""
    data, scheme, participants, rider, full = key
    extra = (f", one {rider} rider" if rider else "") + (", all images" if full else "")
    return f"{data}, {scheme}, {participants} participants{extra}"


def _header(cells: Sequence[Cell], command: str) -> str:
    commits, allocated = (
        ", ".join(sorted({cell[what] for cell in cells})) or "none"
        for what in ("commit", "rewarded_by")
    )
    rounds = ", ".join(sorted({str(cell["rounds"]) for cell in cells}))
    return (
        f"# {command}\n# {len(cells)} cells of {rounds} rounds, made by commit {commits};"
        f" Aequa's rewards allocated by {allocated}; reported by {commit()} (+ = with changes that"
        " were not committed)"
    )


def _table_text(key: Key, cells: Sequence[Cell]) -> str:
    ceiling = mean_of([measures.ceiling(cell) for cell in cells])
    noise = mean_of([measures.noise(cell) for cell in cells])
    found = [measures.contributions(cell) for cell in cells]
    low, high = (mean_of([pick(c) for c in found]) for pick in (min, max))
    seeds = ", ".join(str(cell["cell"]["seed"]) for cell in cells)
    fit = sum(measures.fits(cell) for cell in cells)
    title = (
        f"{title_of(key)}; seeds {seeds}\n  noise ceiling {number_text(ceiling, 3)}; contributions"
        f" {low:.1f} to {high:.1f}, noise {number_text(noise, 1)}; they fit the ladder in {fit} of"
        f" {len(cells)}"
    )
    rows = []
    for method in measures.methods_of(cells):
        having = [cell for cell in cells if method in cell["methods"]]
        values = [measures.figures(cell, method) for cell in having]
        name = method if len(having) == len(cells) else f"{method} ({len(having)} seeds)"
        rows.append((name, *(_cell_text(field, values) for field in COLUMNS)))
    return "\n".join(table_lines(Table(title, ("method", *COLUMNS.values()), tuple(rows))))


def _cell_text(field: str, values: Sequence[Figures]) -> str:
    found = [getattr(one, field) for one in values]
    digits = DIGITS.get(field, 1)
    spread = spread_of(found)
    return number_text(mean_of(found), digits) + (
        "" if spread is None else f"+-{spread:.{digits}f}"
    )


def _tuning_text(chosen: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = []
    for data, methods in chosen.items():
        for method, found in methods.items():
            trials = (
                f"{size:g}: {'diverged' if score is None else f'{100 * score:.1f}'}"
                for size, score in zip(found["tried"], found["scores"], strict=True)
            )
            rows.append((data, method, "; ".join(trials), f"{found['chosen']:g}"))
    columns = ("data", "method", "tried: best validation accuracy that anyone received", "chosen")
    title = (
        "tuning: three learning rates for each method (twice as high for aequa; for cgsv three"
        f" lengths of an upload), on seed {TUNING_SEED}; images: mean over"
        f" {' and '.join(TUNING_SCHEMES)}"
    )
    return "\n".join(table_lines(Table(title, columns, tuple(rows))))


def _riders_text(riders: Mapping[Key, Sequence[Cell]]) -> str:
    rows = []
    for key, cells in riders.items():
        for method in measures.methods_of(cells):
            having = [cell for cell in cells if method in cell["methods"]]
            paid = mean_of([measures.payoff(cell, method) for cell in having])
            lost = sum(measures.demoted(cell, method) for cell in having)
            gain = mean_of([measures.figures(cell, method).mean_gain for cell in having])
            what = f"{key[0]}, {key[1]}, {key[3]} rider"
            row = (what, method, number_text(paid, 1), lost, number_text(gain, 1))
            rows.append(row)
    columns = ("table", "method", "payoff", "honest without release", "MCG of the honest")
    title = (
        "free-rider payoff: points above the untrained model of what the last participant receives,"
        " who has no data"
    )
    return "\n".join(table_lines(Table(title, columns, tuple(rows))))


def _widths_text(tables: Mapping[Key, Sequence[Cell]]) -> str:
    widths = sorted({p["width"] for cells in tables.values() for c in cells for p in c["curve"]})
    rows = []
    for key, cells in tables.items():
        row: list[str] = []
        for width in widths:
            found = [p["test"] for c in cells for p in c["curve"] if p["width"] == width]
            value = mean_of(found)
            row.append("-" if value is None else f"{100 * value:.1f}")
        rows.append((title_of(key), *row))
    columns = ("accuracy over width", *(f"{width:.3g}" for width in widths))
    return "\n".join(table_lines(Table("after the last round, test data", columns, tuple(rows))))


def _goals_text(tables: Mapping[Key, Sequence[Cell]]) -> str:
    """Return each goal of the main variant in every table, and the counts of all variants."""
    lines = ["goals of aequa, table by table"]
    found: dict[str, dict[str, list[Goal]]] = {}
    for key, cells in tables.items():
        for method in measures.methods_of(cells):
            having = [cell for cell in cells if method in cell["methods"]]
            if not method.startswith("aequa"):
                continue
            for goal in goals(having, method):
                found.setdefault(method, {}).setdefault(goal.name, []).append(goal)
                if method == "aequa":
                    lines.append(f"  {title_of(key)}: {goal.name}: {_verdict(goal)} ({goal.said})")
    rows = [
        (method, *(_count(by_name[name]) for name in NAMES)) for method, by_name in found.items()
    ]
    overall = Table(
        "goals met, in how many of the tables where they apply; in how many any rewards could",
        ("", *NAMES),
        tuple(rows),
    )
    return "\n".join([*table_lines(overall), "", *lines])


def _verdict(goal: Goal) -> str:
    if goal.met is None:
        return "does not apply"
    if goal.met:
        return "met"
    return "NOT MET" if goal.reachable else "NOT MET, and out of any rewards' reach"


def _count(found: Sequence[Goal]) -> str:
    apply = [goal for goal in found if goal.met is not None]
    reachable = sum(bool(goal.met) or goal.reachable for goal in apply)
    return f"{sum(bool(goal.met) for goal in apply)} of {len(apply)}; {reachable}"


def _participants(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    rows = []
    for cell in cells:
        for method, entry in cell["methods"].items():
            for who, (reward, width) in enumerate(
                zip(entry["reward"], entry["width"], strict=True)
            ):
                rides = who >= len(cell["samples"])
                rows.append(
                    cell["cell"]
                    | {
                        "method": method,
                        "participant": who,
                        "rides": rides,
                        "samples": 0 if rides else cell["samples"][who],
                        "contribution": fmean(one[who] for one in cell["contributions"]),
                        "alone_on_validation": cell["alone"][who]["score"],
                        "reward": reward,
                        "width": width,
                    }
                )
    return rows


def _methods(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [
        cell["cell"]
        | {"method": method, "noise_ceiling": measures.ceiling(cell), "commit": cell["commit"]}
        | {one.name: getattr(found, one.name) for one in fields(found)}
        | {"sent": entry["sent"], "received": entry["received"], "published": entry["published"]}
        for cell in cells
        for method, entry in cell["methods"].items()
        for found in [measures.figures(cell, method)]
    ]


def _widths(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [cell["cell"] | point for cell in cells for point in cell["curve"]]


def _write_csv(path: Path, header: str, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        file.write(header + "\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()}
            )
