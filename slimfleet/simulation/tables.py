"""The tables of an experiment: one line per device, per round, per width, and per group of cells.

They are CSV: every spreadsheet and every library opens it, and nothing has to be installed for it.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from slimfleet.simulation.cell_result import CellResult
from slimfleet.simulation.experiment import Cell

Results = Mapping[Cell, CellResult]


@dataclass(frozen=True)
class Group:
    """The cells of one partition and number of devices, over their seeds.

    Attributes:
        results: in the order of their seeds.
    """

    partition: str
    devices: int
    results: tuple[CellResult, ...]

    @property
    def full(self) -> tuple[float, ...]:
        """Test score of the full width in each cell."""
        return tuple(result.widths[-1].test_score for result in self.results)

    def curve(self) -> list[tuple[float, float, float]]:
        """Return (width, mean test score, standard deviation over cells), ascending."""
        return [
            (points[0].width, *_mean_and_spread([point.test_score for point in points]))
            for points in zip(*(result.widths for result in self.results), strict=True)
        ]

    def correlation(self) -> float | None:
        """Return Pearson's correlation of contribution and earned test score, mean over cells.

        A device without a release is left out, as is a cell in which all earned the same.
        """
        found = []
        for result in self.results:
            pairs = [(d.contribution, d.test_score) for d in result.devices if d.test_score]
            if len(pairs) > 2:
                given, earned = np.array(pairs, dtype=np.float64).T
                if given.std() > 0 and earned.std() > 0:
                    found.append(float(np.corrcoef(given, earned)[0, 1]))
        return float(np.mean(found)) if found else None

    def without_release(self, *, riders: bool) -> tuple[int, int]:
        """Return how many riders (or honest devices) earned nothing, and how many there are."""
        chosen = [d for r in self.results for d in r.devices if bool(d.rider) is riders]
        return sum(device.width == 0 for device in chosen), len(chosen)


def groups(results: Results) -> tuple[Group, ...]:
    """Return the results by partition and number of devices, in the order of the cells."""
    found: dict[tuple[str, int], list[CellResult]] = {}
    for cell, result in results.items():
        found.setdefault((cell.partition, cell.devices), []).append(result)
    return tuple(Group(*key, tuple(cells)) for key, cells in found.items())


def device_table(results: Results) -> bytes:
    """Return one line for each device of each cell."""
    return _table(results, lambda result: result.devices)


def round_table(results: Results) -> bytes:
    """Return one line for each round of each cell."""
    return _table(results, lambda result: result.rounds)


def task_table(results: Results) -> bytes:
    """Return one line for each task of each round of each cell."""
    return _table(results, lambda result: result.tasks)


def width_table(results: Results) -> bytes:
    """Return one line for each width of each cell."""
    return _table(results, lambda result: result.widths)


def _table(results: Results, rows_of: Callable[[CellResult], Iterable[msgspec.Struct]]) -> bytes:
    lines = [
        {"partition": cell.partition, "devices": cell.devices, "seed": cell.seed}
        | msgspec.to_builtins(row)
        for cell, result in results.items()
        for row in rows_of(result)
    ]
    target = io.StringIO(newline="")
    writer = csv.DictWriter(target, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return target.getvalue().encode()


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values))
