"""``slimfleet export``."""

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

from exporter import command
from exporter.arguments import add_arguments as add_export_arguments
from exporter.report import COLUMNS, index_document, table_lines
from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.file_check import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_export_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Export and print a line per width, or verify a file and print a line per check."""
    if arguments.check is not None:
        return _check(arguments)
    _refuse_incomplete(arguments)
    report = command.run(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(index_document(report), indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(table_lines(report)) + f"\n\nwritten to {arguments.out}\n")
    return ExitCode.DONE


def check_lines(checks: "Sequence[Check]") -> list[str]:
    """Return one line per check, longer answers wrapped."""
    spans = [max(len(text) for text in column) for column in zip(*map(_words, checks), strict=True)]
    lines = []
    for check in checks:
        name, verdict = (word.ljust(span) for word, span in zip(_words(check), spans, strict=True))
        head = f"{name}  {verdict}  "
        lines += textwrap.wrap(
            check.detail or verdict,
            COLUMNS,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
        )
    return lines


def _words(check: "Check") -> tuple[str, str]:
    return check.name, check.verdict.value


def _check(arguments: argparse.Namespace) -> int:
    from exporter.file_check import passed

    checks = command.check(arguments)
    good = passed(checks)
    if arguments.json:
        document = {
            "file": str(arguments.check),
            "passed": good,
            "checks": [asdict(check) for check in checks],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        verdict = "is sound" if good else "is NOT sound: do not run it"
        lines = [*check_lines(checks), "", f"{arguments.check} {verdict}"]
        sys.stdout.write("\n".join(lines) + "\n")
    return ExitCode.DONE if good else ExitCode.FAILURE


def _refuse_incomplete(arguments: argparse.Namespace) -> None:
    if arguments.out is None:
        raise ConfigError("--out is missing: where shall the files be written?")
    if not arguments.model and arguments.run_folder is None:
        raise ConfigError("--model is missing: which network? Only --run says it by itself")
    if arguments.round is not None and arguments.run_folder is None:
        raise ConfigError("--round is of a run: add --run DIR")
