"""The fleet table for a spreadsheet. Pure."""

from collections.abc import Iterable

from monitor.csv_text import csv_text
from monitor.device_data import Data

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


def fleet_csv(rows: Iterable[Data]) -> str:
    """Return the fleet table as CSV (RFC 4180), one line a device."""
    return csv_text(COLUMNS, (_flat(row) for row in rows))


def _flat(row: Data) -> Data:
    return {
        name: "; ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in row.items()
    }
