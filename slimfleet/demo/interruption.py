"""Ctrl+C and SIGTERM for a process with children: neither hits between a start and its record."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Raises KeyboardInterrupt once, for the first SIGINT or SIGTERM while the block runs.

    Once only: whatever comes later would cut short the ending of the children.
    """

    def __init__(self) -> None:
        """Change nothing before the block is entered."""
        self._before: dict[signal.Signals, Any] = {}
        self._holds = 0
        self._asked = False
        self._raised = False

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
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
