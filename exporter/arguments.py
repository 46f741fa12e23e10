"""The arguments of ``slimfleet export``. Starts without torch."""

import argparse
import math
from pathlib import Path

from exporter.budget import NO_BUDGET, Budget, BudgetError, parse_budget
from exporter.export_data import NPZ
from slimmable.model_source import add_model_arguments, json_options, positive_number, width_list

EXAMPLE = """example:
  slimfleet export --model plant.models:net --input 1,3,32,32 --classes ok,worn \\
    --checkpoint trained.safetensors --data test.npz --int8 auto --out models
  slimfleet export --run server/data --data test.npz \\
    --device-budget "latency<=20ms,size<=2MB" --out models
  slimfleet export --check models/net-w0.50.onnx --data test.npz

Writes one ONNX file and manifest per width, index.json and export.csv over all of them, and
front.png: score against latency against size. All or nothing is written.
"""
INT8_MODES = ("auto", "static", "dynamic", "off")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``slimfleet export`` to a parser."""
    parser.description = "Write one ONNX file per width of a network, or check such a file."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_arguments(parser, required=False)
    _add_weights_arguments(parser.add_argument_group("weights"))
    _add_data_arguments(parser.add_argument_group("data"))
    _add_form_arguments(parser.add_argument_group("what to write"))
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help="verify this ONNX file instead of writing any"
    )


def _add_weights_arguments(group: "argparse._ArgumentGroup") -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="full-width state dict: safetensors, or a file of torch that holds tensors only",
    )
    source.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        metavar="DIR",
        help="data folder of a server, running or not; says which model, too",
    )
    group.add_argument(
        "--round", type=int, metavar="N", help="of the run (default: the last finished one)"
    )


def _add_data_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="labelled samples that measure scores; without --calibration, half of the recordings"
        " calibrate instead",
    )
    group.add_argument(
        "--reader", default=NPZ, metavar="NAME", help=f"how to read --data (default {NPZ})"
    )
    group.add_argument(
        "--reader-options", type=json_options, default={}, metavar="JSON", help="its options"
    )
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help=".npz with inputs `x` (`x_1`, ...); batch-norm statistics of each width and the ranges"
        " of int8 are taken from them",
    )
    group.add_argument(
        "--scale",
        default="",
        metavar="TEXT",
        help="how a device has to prepare its inputs, in one line; kept in the files",
    )


def _add_form_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--widths",
        type=width_list,
        metavar="P,P",
        help="width multipliers (default: the run's training widths, else 0.25,0.5,0.75,1)",
    )
    group.add_argument(
        "--int8",
        choices=INT8_MODES,
        default="off",
        help="auto: where it is faster on this machine and loses at most --max-loss (default off)",
    )
    group.add_argument(
        "--max-loss",
        type=_loss,
        default=0.01,
        metavar="L",
        help="of score that int8 may cost under auto (default 0.01)",
    )
    group.add_argument(
        "--device-budget",
        type=_budget,
        default=NO_BUDGET,
        metavar="LIMITS",
        help='leave out what is over it: "latency<=20ms,size<=2MB"; latency as measured here',
    )
    group.add_argument(
        "--preoptimised", action="store_true", help="a file beside each that starts faster"
    )
    group.add_argument(
        "--threads",
        type=positive_number,
        default=1,
        metavar="N",
        help="while measuring (default 1)",
    )
    group.add_argument("--out", type=Path, metavar="DIR", help="where to write")
    group.add_argument(
        "--force", action="store_true", help="write into a folder that holds other files"
    )
    group.add_argument(
        "--templates",
        type=Path,
        metavar="DIR",
        help="where traced graphs are kept for the next time (default: the user's cache folder)",
    )


def _budget(text: str) -> Budget:
    try:
        return parse_budget(text)
    except BudgetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _loss(text: str) -> float:
    try:
        loss = float(text)
    except ValueError:
        loss = math.nan
    if not 0.0 <= loss < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no loss of at least 0, such as 0.01")
    return loss
