"""Ctrl+C, SIGTERM and a closed terminal, for a process that has children to end.

None of them hits between the start of a child and its entry in the list of children.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

# A closed terminal says SIGHUP, where there is such a thing.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interruption:
    """Raises KeyboardInterrupt once, for the first of these signals while the block runs.

    Once only: whatever comes later would cut short the ending of the children. A signal that is
    ignored already, as under ``nohup``, stays ignored.
    """

    def __init__(self) -> None:
        """Change nothing before the block is entered."""
        self._before: dict[signal.Signals, Any] = {}
        self._holds = 0
        self._asked = False
        self._raised = False

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait until the block is done."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        self._raise_if_asked()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        self._raise_if_asked()

    def _raise_if_asked(self) -> None:
        if self._asked and not self._raised and not self._holds:
            self._raised = True
            raise KeyboardInterrupt
