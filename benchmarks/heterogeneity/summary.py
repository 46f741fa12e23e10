"""One row a method and case, for people who read no more: the page on unlike devices holds it."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmarks.heterogeneity import measures
from benchmarks.heterogeneity.campaign import GRID
from benchmarks.heterogeneity.measures import Found, Key, curve, last, mean_and_spread
from benchmarks.heterogeneity.methods import METHODS, NAMED, OURS

COLUMNS = (
    *("data, case", "method", "full width", "narrowest", "take part", "seconds"),
    *("device-seconds", "MB", "kJ"),
)


def summary(tables: Mapping[Key, Mapping[str, Sequence[Found]]]) -> str:
    """Return a table in Markdown: of each case the eight methods, then whatever else was run."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    named = {one.name for one in NAMED}
    for (data, case), methods in sorted(tables.items()):
        order = [name for name in METHODS if name in methods]
        order.sort(key=lambda name: name not in named)
        rows += [_row(f"{data}, {case}", name, methods[name]) for name in order]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(where: str, name: str, cells: Sequence[Found]) -> tuple[str, ...]:
    ran = [one for one in cells if one["rounds"]]
    if not ran:
        return (where, name, *("no round counted",) * (len(COLUMNS) - 2))
    return (
        where,
        f"**{name}**" if name == OURS else name,
        _score([last(one, "1") if name != "fedavg-narrow" else None for one in ran]),
        _score([last(one, f"{GRID[0]:g}") for one in ran]),
        f"{100 * fmean(measures.participation(one)[0] for one in ran):.0f} %",
        f"{fmean(one['rounds'][-1]['closed_s'] for one in ran):.1f}",
        f"{fmean(curve(one).device_s[-1] for one in ran):.0f}",
        f"{fmean(curve(one).megabytes[-1] for one in ran):.0f}",
        f"{fmean(measures.total(one, 'joules') for one in ran) / 1e3:.2f}",
    )


def _score(values: Sequence[float | None]) -> str:
    found = mean_and_spread(values)
    return f"{found[0]:.1f} ±{found[1]:.1f}" if found else "-"
