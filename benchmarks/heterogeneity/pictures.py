"""Pictures: accuracy over time, bytes and device time, and what each width costs and scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.heterogeneity.measures import Found, Key, curve, judged_width, last, total
from benchmarks.heterogeneity.methods import NAMED, OURS

AXES = (("time_s", "seconds"), ("megabytes", "MB, all devices"), ("device_s", "device-seconds"))
Tables = Mapping[Key, Mapping[str, Sequence[Found]]]


def draw(folder: Path, tables: Tables) -> None:
    """Write progress-DATA.png and cost-DATA.png for each data set."""
    for data in dict.fromkeys(key[0] for key in tables):
        own = {key[1]: methods for key, methods in tables.items() if key[0] == data}
        _progress(data, own).savefig(folder / f"progress-{data}.png", dpi=110)
        _cost(data, own).savefig(folder / f"cost-{data}.png", dpi=110)


def _progress(data: str, cases: Mapping[str, Mapping[str, Sequence[Found]]]) -> Figure:
    """Return accuracy over each axis, a row per case and a line per method, mean over seeds."""
    figure = Figure(figsize=(13, 3.2 * len(cases) + 0.8), layout="constrained")
    grid = figure.subplots(len(cases), len(AXES), sharey="row", squeeze=False)
    for row, (case, methods) in zip(grid, cases.items(), strict=True):
        for panel, (axis, label) in zip(row, AXES, strict=True):
            for name in _shown(methods):
                _line(panel, methods[name], axis, name)
            panel.set_xlabel(label)
            panel.grid(alpha=0.3)
        row[0].set_ylabel(f"{case}: accuracy (%)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    figure.suptitle(f"{data}: accuracy of the full width (fedavg-narrow: of the narrowest)")
    return figure


def _shown(methods: Mapping[str, Sequence[Found]]) -> list[str]:
    return [one.name for one in NAMED if one.name in methods]


def _line(panel: Axes, cells: Sequence[Found], axis: str, name: str) -> None:
    curves = [curve(one) for one in cells if one["rounds"]]
    rounds = min((len(one.scores) for one in curves), default=0)
    if not rounds:
        return
    panel.plot(
        [fmean(getattr(one, axis)[at] for one in curves) for at in range(rounds)],
        [fmean(one.scores[at] for one in curves) for at in range(rounds)],
        label=name,
        color=_colour(name),
        linewidth=2.5 if name == OURS else 1.2,
    )


def _cost(data: str, cases: Mapping[str, Mapping[str, Sequence[Found]]]) -> Figure:
    """Return accuracy against traffic and energy: what lies above and to the left is better."""
    figure = Figure(figsize=(3.4 * len(cases) + 0.6, 7), layout="constrained")
    grid = figure.subplots(2, len(cases), sharey="col", squeeze=False)
    for column, (case, methods) in enumerate(cases.items()):
        for panel, name, unit, label in (
            (grid[0][column], "float32_bytes", 1e6, "MB"),
            (grid[1][column], "joules", 1e3, "kJ, estimated"),
        ):
            for method in _shown(methods):
                cells = methods[method]
                scores = [last(one, judged_width(one)) for one in cells]
                panel.scatter(
                    fmean(total(one, name) / unit for one in cells),
                    fmean(score or 0.0 for score in scores),
                    color=_colour(method),
                    label=method,
                    s=60 if method == OURS else 30,
                )
            panel.set_xlabel(label)
            panel.grid(alpha=0.3)
        grid[0][column].set_title(case)
    figure.supylabel("accuracy after the last round (%)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    figure.suptitle(f"{data}: what a method's accuracy costs")
    return figure


def _colour(name: str) -> str:
    return f"C{[one.name for one in NAMED].index(name)}"
