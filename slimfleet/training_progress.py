"""Progress of a training on standard error: a bar on a terminal, plain lines elsewhere."""

import importlib.util
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from slimmable.width_scores import Measurement

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class TrainingProgress:
    """Shows a training while it runs."""

    def __init__(self, steps: int, score_name: str) -> None:
        """Prepare; nothing is shown before the block is entered.

        Args:
            steps: of the whole training.
            score_name: of the measurements.
        """
        self._steps = steps
        self._score_name = score_name
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Show an empty bar, on a terminal."""
        self._started = time.monotonic()
        # rich comes with a server, not with what trains.
        if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            self._bar = _bar()
            self._task = self._bar.add_task("training", total=self._steps, loss="")
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

    @property
    def has_bar(self) -> bool:
        """Whether steps are seen; without a terminal only lines are."""
        return self._bar is not None

    def say(self, line: str) -> None:
        """Show one line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def after_step(self, step: int, loss: float) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, loss=f"loss {loss:.3f}")

    def after_measurement(self, measured: Measurement) -> None:
        """Show what each width has come to."""
        scores = "  ".join(f"{row.width:g}: {row.score:.3f}" for row in measured.scores)
        line = (
            f"step {measured.step:>{len(str(self._steps))}} of {self._steps}"
            f"  loss {measured.training_loss:.3f}  {self._score_name} {scores}"
        )
        left = (time.monotonic() - self._started) * (self._steps / measured.step - 1)
        self.say(line + (f"  about {left:.0f} s left" if measured.step < self._steps else ""))


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), Left())
    return Progress(*columns, console=Console(stderr=True))
