"""Two pictures: rewards over contributions for each method, and accuracy over width."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.fairness import measures

Cell = Mapping[str, Any]
Key = tuple[str, str, int, str, bool]
SHOWN = ("aequa", "aequa, shares", "fedavg", "fedavg-ft", "cgsv", "iafl", "shapfed", "stand-alone")
COLUMNS = 4


def draw(folder: Path, tables: Mapping[Key, Sequence[Cell]]) -> None:
    """Write rewards.png and widths.png."""
    if not tables:
        return
    _rewards(tables).savefig(folder / "rewards.png", dpi=110)
    _widths(tables).savefig(folder / "widths.png", dpi=110)


def _rewards(tables: Mapping[Key, Sequence[Cell]]) -> Figure:
    """Return one panel per method; a dot is a participant, a colour a partition."""
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    panels = figure.subplots(2, COLUMNS, sharex=True, sharey=True).ravel()
    main = next(iter(tables))[0]
    cells = [cell for key, found in tables.items() if key[0] == main for cell in found]
    schemes = list(dict.fromkeys(cell["cell"]["scheme"] for cell in cells))
    for panel, method in zip(panels, SHOWN, strict=True):
        for colour, scheme in enumerate(schemes):
            chosen = [c for c in cells if c["cell"]["scheme"] == scheme and method in c["methods"]]
            panel.scatter(
                [value for cell in chosen for value in measures.contributions(cell)],
                [value for cell in chosen for value in measures.rewards(cell, method)],
                s=12,
                color=f"C{colour}",
                label=scheme,
                alpha=0.7,
            )
        low, high = panel.get_xlim()
        panel.axline((50, 50), slope=1, color="grey", linewidth=0.8)
        panel.set_xlim(low, high)
        panel.set_title(method)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    for panel in panels[len(panels) // 2 :]:
        panel.set_xlabel("accuracy alone, measured again (%)")
    figure.supylabel("accuracy received (%); below the line: worse than alone")
    figure.suptitle(f"{main}: what participants have alone, and what each method gives them")
    return figure


def _widths(tables: Mapping[Key, Sequence[Cell]]) -> Figure:
    """Return accuracy over width, a line per partition and number of participants."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    panel = figure.subplots()
    schemes = list(dict.fromkeys((key[0], key[1]) for key in tables))
    styles = ("-", "--", ":", "-.")
    sizes = sorted({key[2] for key in tables})
    for key, cells in tables.items():
        found: dict[float, list[float]] = {}
        for cell in cells:
            for point in cell["curve"]:
                found.setdefault(point["width"], []).append(100 * point["test"])
        widths = sorted(found)
        panel.plot(
            widths,
            [fmean(found[width]) for width in widths],
            styles[sizes.index(key[2]) % len(styles)],
            color=f"C{schemes.index((key[0], key[1])) % 10}",
            marker=".",
            label=f"{key[0]}, {key[1]}, N = {key[2]}" + (", all images" if key[4] else ""),
        )
    panel.set_xlabel("width")
    panel.set_ylabel("accuracy on test data (%), mean over seeds")
    panel.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
