"""Logs: one line an event, on standard error, as text or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec

LogFormat = Literal["text", "json"]


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()}"
        event = getattr(record, "event", None)
        if event is not None:
            line += f" {_short(event)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": record.created,
            "level": record.levelname.lower(),
            "room": record.name,
            "message": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if event is not None:
            entry["event"] = msgspec.to_builtins(event)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _short(event: msgspec.Struct) -> str:
    """Return the plain fields of an event; what is long stands in the journal."""
    shown = []
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, str | int | float) and value != "":
            text = f"{value:g}" if isinstance(value, float) else str(value)
            shown.append(f"{name}={text[:80]}")
    return " ".join(shown)


def set_up_logs(log_format: LogFormat, *, verbose: bool) -> None:
    """Send the logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    for noisy in ("onnxscript", "onnx_ir", "torch", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
