"""The arguments of ``slimfleet export``, and what runs behind them. Starts without torch."""

import argparse
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import CheckpointError
from slimmable.state import Array, ModelState, StateError, decode_state

if TYPE_CHECKING:
    from exporter.run_export import ExportRow


EXAMPLE = """example:
  slimfleet export --model cnn1d --options '{"sensors": 6, "length": 100, "classes": ["a", "b"]}' \\
    --checkpoint state.safetensors --calibration samples.npz --widths 0.25,0.5,1.0 --out models
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``slimfleet export`` to a parser."""
    parser.description = "Write one ONNX file per width from full-width weights."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="model, or package.module:function"
    )
    parser.add_argument(
        "--options", type=json_options, default={}, metavar="JSON", help="its keyword arguments"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="FILE",
        help="full-width state dict (safetensors)",
    )
    parser.add_argument(
        "--widths", required=True, type=_widths, metavar="P,P", help="width multipliers, as 0.25,1"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help=".npz with inputs `x`; batch-norm statistics are estimated on them for each width",
    )
    parser.add_argument(
        "--scale",
        default="",
        metavar="TEXT",
        help="how a device has to prepare its inputs, in one line; kept in the files",
    )
    parser.add_argument(
        "--templates",
        type=Path,
        metavar="DIR",
        help="where traced graphs are kept for the next time (default: OUT/.templates)",
    )


def run(arguments: argparse.Namespace) -> "list[ExportRow]":
    """Do what the arguments say and return one row per file.

    Raises:
        ModelError: there is no such model, or it refuses its options.
        CheckpointError: a file is unreadable or holds something else.
        SpecError: the checkpoint is of another model; the message names the tensor.
        WidthError: a width is outside (0, 1].
        ExportError: a width cannot be exported; nothing was written.
    """
    from exporter.run_export import export_checkpoint
    from exporter.templates import TemplateCache
    from slimmable.model import load_model

    model = load_model(arguments.model, arguments.options)
    state = read_checkpoint(arguments.checkpoint)
    calibration = None
    if arguments.calibration is not None:
        calibration = read_inputs(arguments.calibration, model.input_shape)
    cache = TemplateCache(arguments.templates or arguments.out / ".templates")
    return export_checkpoint(
        model,
        state,
        arguments.widths,
        arguments.out,
        cache=cache,
        calibration=calibration,
        scale=arguments.scale,
    )


def read_checkpoint(path: Path) -> ModelState:
    """Read a safetensors state dict; a pickle is refused without being opened.

    Counters of batch norms are left out: nothing reads them at inference.

    Raises:
        CheckpointError: the file is missing or not safetensors.
    """
    try:
        state = decode_state(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except StateError as error:
        raise CheckpointError(
            f"checkpoint {path} is not a safetensors file; write it with safetensors.save_file"
        ) from error
    return {name: a for name, a in state.items() if not name.endswith("num_batches_tracked")}


def read_inputs(path: Path, input_shape: Sequence[int]) -> Array:
    """Read calibration inputs from the array ``x`` of an ``.npz`` file.

    Raises:
        CheckpointError: the file is missing, has no ``x``, or its samples have another shape.
    """
    try:
        # From memory: given a path, numpy leaves the file open where it is no archive.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            x: Array = np.asarray(archive["x"], dtype=np.float32)
    except KeyError as error:
        raise CheckpointError(f"calibration file {path} has no array `x`; save one") from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"calibration file {path} is no .npz of numbers: {error}") from error
    if x.shape[1:] != tuple(input_shape) or len(x) < 2:
        raise CheckpointError(
            f"calibration file {path}: `x` has shape {x.shape}, the model needs at least two"
            f" samples of shape {tuple(input_shape)}"
        )
    if not np.isfinite(x).all():
        raise CheckpointError(f"calibration file {path}: `x` holds NaN or infinity; clean the data")
    return x


def json_options(text: str) -> dict[str, Any]:
    """Read an argument that holds a model's options as a JSON object.

    Raises:
        argparse.ArgumentTypeError: it does not.
    """
    try:
        read = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(read, dict):
        raise argparse.ArgumentTypeError('must be a JSON object such as {"length": 100}')
    return read


def _widths(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of width multipliers such as 0.25,0.5,1.0"
        ) from error
