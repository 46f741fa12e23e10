"""The fleet table for a spreadsheet. Pure."""

import csv
import io
from collections.abc import Iterable

from monitor.fleet_data import Data

COLUMNS = (
    "device",
    "site",
    "link",
    "link_since",
    "link_cause",
    "telemetry_at",
    "useful_at",
    "useful",
    "agent",
    "takes_part",
    "reason",
    "participation",
    "rounds_eligible",
    "rounds_taken",
    "straggler",
    "training_width",
    "cap",
    "entitled_width",
    "deployed_width",
    "running_width",
    "assigned",
    "installed",
    "running",
    "confirmed",
    "release",
    "contribution",
    "share",
    "drift",
    "drift_level",
    "latency_p95_s",
    "inferences",
    "memory_bytes",
    "outbox",
    "clock_offset_s",
    "last_error",
    "alarms",
)
"""Times are seconds since the epoch, UTC; widths are fractions of the full one."""
# Spreadsheets run a cell that begins so: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@")


def fleet_csv(rows: Iterable[Data]) -> str:
    """Return the fleet table as CSV (RFC 4180), one line a device."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in COLUMNS])
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    if not isinstance(value, str):
        return "" if value is None else value
    plain = "".join(sign if sign.isprintable() else " " for sign in value)
    return f"'{plain}" if plain.lstrip().startswith(_FORMULA) else plain
