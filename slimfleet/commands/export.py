"""``slimfleet export``."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from exporter import command
from slimfleet.exit_codes import ExitCode

if TYPE_CHECKING:
    from exporter.run_export import ExportRow

HEAD = ("width", "ONNX bytes", "parameters", "parity", "statistics", "file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Export and print one line per file."""
    rows = command.run(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(table_lines(rows)) + f"\n\nwritten to {arguments.out}\n")
    return ExitCode.DONE


def table_lines(rows: "list[ExportRow]") -> list[str]:
    """Return the table: figures to the right, names to the left."""
    cells = [
        HEAD,
        *(
            (
                f"{row.width:g}",
                str(row.size),
                str(row.parameters),
                f"{row.parity:.1e}",
                row.statistics,
                row.file,
            )
            for row in rows
        ),
    ]
    spans = [max(len(line[place]) for line in cells) for place in range(len(HEAD))]
    return [
        "  ".join(
            cell.rjust(span) if place < 4 else cell.ljust(span)
            for place, (cell, span) in enumerate(zip(line, spans, strict=True))
        ).rstrip()
        for line in cells
    ]
