"""Tables for a spreadsheet that hold other people's text. Pure.

A spreadsheet runs a cell that begins with one of ``= + - @`` as a formula, and a tab or a line's
end in front of it does not help (OWASP, CSV Injection). Text that begins so gets an apostrophe in
front, which spreadsheets take as "this is text". Numbers are written as they are.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from monitor.terminal_text import plain

# With the wide forms of East Asian text, which some programs take for the plain ones.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
Cell = str | int | float | None


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return a table as CSV (RFC 4180) with a line of names on top.

    Args:
        columns: names, in the order of the columns.
        rows: name -> value; one that is missing or None is an empty cell.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\r\n")
    writer.writerow([csv_cell(name) for name in columns])
    for row in rows:
        writer.writerow([csv_cell(row.get(name)) for name in columns])
    return target.getvalue()


def csv_cell(value: object) -> Cell:
    """Return a value as it may stand in a cell: nothing that steers a terminal, no formula."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return value
    text = plain(str(value))
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
