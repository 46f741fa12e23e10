"""One line a table, for people who read no more than one: the page on fair rewards holds it."""

from collections.abc import Mapping, Sequence

from benchmarks.fairness import measures
from benchmarks.fairness.goals import Goal, goals, most_with_equal_gains
from benchmarks.fairness.measures import Cell, Key, mean_of, number_text

METHOD = "aequa"
BASELINES = ("fedavg", "cgsv", "iafl", "shapfed")
COLUMNS = (
    *("data, partition, participants (seeds)", "noise ceiling", "Pearson", "Spearman"),
    *("MCG", "at most", "CGS", "top's gain", "no worse than alone"),
    *(f"{name}: MCG / CGS / top's gain" for name in BASELINES),
)


def summary(tables: Mapping[Key, Sequence[Cell]]) -> str:
    """Return a table in Markdown, one row for each table of the experiments without riders."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    rows += [_row(key, cells) for key, cells in sorted(tables.items(), key=lambda one: one[0])]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(key: Key, cells: Sequence[Cell]) -> tuple[str, ...]:
    data, scheme, participants, _, full = key
    name = f"{data}, {scheme}, {participants}{', all images' if full else ''} ({len(cells)})"
    cells = [cell for cell in cells if METHOD in cell["methods"]]
    if not cells:
        return (name, *("diverged",) * (len(COLUMNS) - 1))
    mine = [measures.figures(cell, METHOD) for cell in cells]
    correlation, spread, top, gain = goals(cells, METHOD)
    return (
        name,
        number_text(mean_of([measures.ceiling(cell) for cell in cells]), 2),
        _marked(number_text(mean_of([one.pearson for one in mine]), 2), correlation),
        number_text(mean_of([one.spearman for one in mine]), 2),
        _marked(number_text(mean_of([one.mean_gain for one in mine]), 1), gain),
        number_text(mean_of([most_with_equal_gains(cell) for cell in cells]), 1),
        _marked(number_text(mean_of([one.gain_spread for one in mine]), 1), spread),
        _marked(number_text(mean_of([one.top_gain for one in mine]), 1), top),
        f"{100 * (mean_of([one.rational for one in mine]) or 0):.0f} %",
        *(_baseline(cells, method) for method in BASELINES),
    )


def _baseline(cells: Sequence[Cell], method: str) -> str:
    found = [measures.figures(cell, method) for cell in cells if method in cell["methods"]]
    figures = (
        mean_of([one.mean_gain for one in found]),
        mean_of([one.gain_spread for one in found]),
        mean_of([one.top_gain for one in found]),
    )
    return " / ".join(number_text(figure, 1) for figure in figures)


def _marked(text: str, goal: Goal) -> str:
    """Return a figure, bold where it meets its goal."""
    return f"**{text}**" if goal.met else text
