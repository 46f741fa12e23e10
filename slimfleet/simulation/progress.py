"""How far an experiment is, on standard error: a bar on a terminal, a line per cell elsewhere."""

import importlib.util
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slimfleet.simulation.experiment import Cell

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class GridProgress:
    """Shows an experiment while it runs; may be told from any thread."""

    def __init__(self, cells: int, kept: int) -> None:
        """Prepare.

        Args:
            cells: of the experiment.
            kept: that were finished before.
        """
        self._cells, self._kept = cells, kept
        self._shares: dict[Cell, float] = {}
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Show the bar, on a terminal."""
        if self._kept:
            sys.stderr.write(f"{self._kept} of {self._cells} campaigns were finished before\n")
        if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=self._cells, completed=self._kept)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last bar on the screen."""
        if self._bar is not None:
            self._bar.stop()

    def told(self, cell: Cell, rounds: int, budget: int) -> None:
        """Note that so many rounds of a cell are scored."""
        with self._lock:
            before = self._shares.get(cell, 0.0)
            self._shares[cell] = rounds / budget
            if self._bar is not None and self._task is not None:
                self._bar.update(
                    self._task,
                    completed=self._kept + sum(self._shares.values()),
                    description=f"{cell.name} round {rounds} of {budget}",
                )
            elif rounds == budget and before < 1:
                done = self._kept + sum(share >= 1 for share in self._shares.values())
                sys.stderr.write(f"{done} of {self._cells}: {cell.name}\n")
                sys.stderr.flush()
