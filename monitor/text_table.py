"""Tables of fixed columns for a terminal, and figures in few characters. Pure.

No colour and no drawing characters: what is shown reads the same in a file, through a pipe and by a
screen reader.
"""

import math
import unicodedata
from collections.abc import Sequence

from monitor.terminal_text import plain

NOTHING = "-"
LEAST = 6  # columns of a shortened cell


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    columns: int,
    *,
    left: Sequence[int] = (0,),
    shrink: Sequence[int] = (0,),
) -> list[str]:
    """Return a table as lines of at most ``columns`` characters, if the other columns leave room.

    Args:
        head: titles of the columns, (C,).
        rows: cells as text, (R, C); they may come from anybody.
        columns: width of the terminal.
        left: places of the columns that stand at the left; the others stand at the right.
        shrink: places of the columns that give way, in this order; what is too long there is cut.
    """
    cells = [[plain(cell) for cell in row] for row in (head, *rows)]
    spans = [max(width(row[place]) for row in cells) for place in range(len(head))]
    for place in shrink:
        excess = sum(spans) + len(spans) - 1 - columns
        spans[place] = max(min(spans[place], LEAST), spans[place] - max(0, excess))
    return [_line(row, spans, left)[:columns].rstrip() for row in cells]


def _line(row: Sequence[str], spans: Sequence[int], left: Sequence[int]) -> str:
    shown = []
    for place, (cell, span) in enumerate(zip(row, spans, strict=True)):
        text = cut(cell, span)
        gap = " " * (span - width(text))
        shown.append(text + gap if place in left else gap + text)
    return " ".join(shown)


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(bool(unicodedata.combining(character)) for character in text)


def cut(text: str, span: int) -> str:
    """Return a text in at most ``span`` columns; what is left out is marked."""
    if width(text) <= span:
        return text
    while text and width(text) > span - 1:
        text = text[:-1]
    return text + "…"


def share(value: float | None) -> str:
    """Return a share in percent."""
    return NOTHING if value is None else f"{100 * value:.0f} %"


def figure(value: float | None, form: str = ".2f") -> str:
    """Return a number, "-" where there is none."""
    return NOTHING if value is None or not math.isfinite(value) else format(value, form)


def net_width(value: float | None) -> str:
    """Return the width of a network, "-" where there is none."""
    return f"{value:g}" if value else NOTHING


def seconds(value: float | None) -> str:
    """Return a duration in its largest unit."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    if value >= 10 or value == 0:
        return f"{value:.0f} s"
    return f"{value:.1f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def ago(now: float, at: float | None) -> str:
    """Return how long ago something was; a moment in the future is said to be one."""
    if at is None:
        return NOTHING
    if at > now + 1:
        return f"in {seconds(at - now)}"
    return seconds(max(0.0, now - at)) if now - at >= 1 else "now"


def size(count: float | None) -> str:
    """Return a number of bytes in its largest unit."""
    if count is None:
        return NOTHING
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:.{0 if count >= 100 * one else 1}f} {unit}"
    return f"{count:.0f} B"
