"""A small terminal: a command runs on it, keys are pressed, and what stands on it is read.

It understands what curses sends to a VT100, and fails on everything else.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

import pytest

PATIENCE_S = 30.0
# Graphics, character sets and modes change nothing that is read here.
SILENT = re.compile(r"\x1b(\[[0-9;?]*[mhl]|[()][A-Z0-9]|[=>]|\[[0-9;]*t)|[\x0e\x0f\x00]")
MOVES = re.compile(r"\x1b\[([0-9;]*)([ABCDHJKr])")


def _take_terminal() -> None:
    """Make the terminal the one whose keys may interrupt this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command on a terminal.

    Attributes:
        raw: everything that was written.
        rows: what stands on the screen.
    """

    def __init__(
        self, command: Sequence[str], lines: int = 24, columns: int = 80, term: str = "vt100"
    ) -> None:
        self._master, slave = pty.openpty()
        self.raw = self._left = ""
        self.rows: list[list[str]] = []
        self._line = self._column = 0
        self._set_size(lines, columns)
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - it makes one system call
            env={**os.environ, "TERM": term, "NO_COLOR": "1"},
        )
        os.close(slave)

    def _set_size(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        self.rows = [[" "] * columns for _ in range(lines)]
        self._top, self._bottom = 0, lines - 1

    def resize(self, lines: int, columns: int) -> None:
        """Change the size, which the command is told, and empty the screen."""
        self._set_size(lines, columns)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    @property
    def text(self) -> str:
        """What stands on the screen, a line each."""
        return "\n".join("".join(row).rstrip() for row in self.rows)

    @property
    def echoes(self) -> bool:
        """Whether keys show as they are pressed, as in a shell."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def until(self, pattern: str) -> None:
        """Wait until something stands on the screen."""
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.text, re.MULTILINE):
            if not self._read(deadline - time.monotonic()):
                pytest.fail(f"no {pattern!r} on the screen:\n{self.text}")

    def end(self) -> tuple[int, str]:
        """Wait for the end of the command; return its status and what it wrote to stderr."""
        while self._read(PATIENCE_S):
            pass
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err.decode()

    def close(self) -> None:
        """End the command, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
        os.close(self._master)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, seconds))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        text = data.decode(errors="replace")
        self.raw += text
        self._left += text
        self._show()
        return bool(data)

    def _show(self) -> None:
        """Bring what was written onto the screen; a sequence that is not whole yet waits."""
        while self._left:
            if found := SILENT.match(self._left):
                pass
            elif found := MOVES.match(self._left):
                self._steer(found[1], found[2])
            elif self._left.startswith("\x1bM"):
                self._up()
                self._left = self._left[2:]
                continue
            elif self._left[0] == "\x1b":
                if len(self._left) < 12:
                    return
                pytest.fail(f"no sequence of a VT100: {self._left[:20]!r}")
            else:
                self._put(self._left[0])
                self._left = self._left[1:]
                continue
            self._left = self._left[found.end() :]

    def _put(self, character: str) -> None:
        match character:
            case "\r":
                self._column = 0
            case "\n":
                self._down()
            case "\b":
                self._column = max(0, self._column - 1)
            case "\x07":
                return
            case _:
                if self._column >= len(self.rows[0]):
                    self._line, self._column = self._line + 1, 0
                if self._line < len(self.rows):
                    self.rows[self._line][self._column] = character
                self._column += 1

    def _down(self) -> None:
        """Go down a line; at the end of the region the lines in it move up."""
        if self._line != self._bottom:
            self._line += 1
            return
        del self.rows[self._top]
        self.rows.insert(self._bottom, [" "] * len(self.rows[0]))

    def _up(self) -> None:
        """Go up a line; at the beginning of the region the lines in it move down."""
        if self._line != self._top:
            self._line -= 1
            return
        columns = len(self.rows[0])
        del self.rows[self._bottom]
        self.rows.insert(self._top, [" "] * columns)

    def _steer(self, numbers: str, what: str) -> None:
        given = [int(number) if number else 0 for number in numbers.split(";")]
        step = max(1, given[0])
        match what:
            case "H":
                self._line = step - 1
                self._column = max(1, given[1]) - 1 if len(given) > 1 else 0
            case "A":
                self._line = max(0, self._line - step)
            case "B":
                self._line += step
            case "C":
                self._column += step
            case "D":
                self._column = max(0, self._column - step)
            case "r":
                self._top = step - 1
                self._bottom = (given[1] if len(given) > 1 and given[1] else len(self.rows)) - 1
                self._line = self._column = 0
            case "K" | "J":
                self._erase(given[0], whole=what == "J")

    def _erase(self, how: int, *, whole: bool) -> None:
        """Erase the line, or the whole screen, behind the cursor (0), before it (1) or all (2)."""
        for line, row in enumerate(self.rows):
            for column in range(len(row)):
                here, cell = (self._line, self._column), (line, column)
                wanted = how == 2 or (cell >= here if how == 0 else cell <= here)
                if wanted and (whole or line == self._line):
                    row[column] = " "
