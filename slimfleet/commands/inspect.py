"""``slimfleet inspect``."""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode
from slimmable.model_source import (
    DEFAULT_WIDTHS,
    add_model_arguments,
    load_from_arguments,
    width_list,
)

if TYPE_CHECKING:
    from slimfleet.inspection import Inspection
    from slimmable.model import SlimmableModel

EXAMPLE = """example:
  slimfleet inspect cnn2d --options '{"classes": ["a", "b"]}'
  slimfleet inspect plant.networks:pump --input 1,6,100 --classes ok,worn
  slimfleet inspect plant.networks:pump --input 1,3,32,32 --widths 0.5,1 --layers frozen --json

Says of each layer what follows the width, what does not and why, and what each width costs. The
file size and the memory are predicted, nothing is exported or trained. A network of your own is a
function that returns it; with --input its width spec is derived.
"""
JSON_FORMAT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_model_arguments(parser, positional=True)
    parser.add_argument(
        "--widths",
        type=width_list,
        default=DEFAULT_WIDTHS,
        metavar="P,P",
        help="widths to compare with the full one (default 0.25,0.5,0.75,1)",
    )
    parser.add_argument(
        "--layers",
        choices=("all", "frozen"),
        default="all",
        help="which layers to list: all, or those with something that might have scaled",
    )
    parser.add_argument(
        "--spec", type=Path, metavar="FILE", help="write the width spec's JSON form into FILE"
    )
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Inspect and print.

    Raises:
        ModelError: there is no such model, it cannot be traced, or its networks fail.
        ConfigError: the spec's file cannot be written.
    """
    widths = tuple(sorted({*arguments.widths, 1.0}))
    model = load_from_arguments(arguments, widths)
    inspection = _inspected(model, widths)
    if arguments.layers == "frozen":
        chosen = tuple(layer for layer in inspection.layers if layer.held_back)
        inspection = replace(inspection, layers=chosen)
    if arguments.spec is not None:
        _write(arguments.spec, model.spec.to_json())
    if arguments.json:
        sys.stdout.write(json.dumps(_document(inspection), indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(inspection)) + "\n")
    return ExitCode.DONE


def _inspected(model: "SlimmableModel", widths: tuple[float, ...]) -> "Inspection":
    from slimfleet import inspection, inspection_findings
    from slimfleet.width_figures import width_figures
    from slimmable.from_module import derivation_of

    derivation = derivation_of(model)
    report = derivation.report if derivation else inspection.declared_report(model.spec, widths)
    figures, macs = width_figures(model, widths)
    axes = inspection.scaling_axes(model.spec, widths)
    return inspection.Inspection(
        model=model.name,
        spec_hash=model.spec.spec_hash,
        derived=derivation is not None,
        inputs=model.inputs,
        layers=inspection.layers_of(report, [one.by_layer for one in macs]),
        axes=axes,
        widths=figures,
        findings=inspection_findings.findings(report, model.spec, axes),
        causes=inspection_findings.causes(report),
    )


def _lines(inspection: "Inspection") -> list[str]:
    from slimfleet import inspection_text as text
    from slimfleet.width_figures import TRAINING_BATCH

    inputs = ", ".join(f"{' x '.join(map(str, i.shape))} {i.dtype}" for i in inspection.inputs)
    origin = "derived from the network" if inspection.derived else "declared by the model"
    lines = [
        f"{inspection.model}: width spec {inspection.spec_hash[:12]}, {origin}",
        f"one sample: {inputs}",
        "",
    ]
    if inspection.layers:
        lines += text.layer_lines(inspection.layers, inspection.causes)
    else:
        lines += ["no layer has a dimension that might have scaled and does not"]
    if not inspection.derived:
        lines += ["", "A declared spec says what scales, and gives no reason for the rest."]
    if inspection.axes:
        offered = [one.width for one in inspection.widths]
        lines += ["", *text.axis_lines(inspection.axes, offered)]
    lines += ["", *text.width_lines(inspection.widths), ""]
    lines += [
        "MACs of one sample. Predicted: the ONNX file in float32, the peak resident memory of a",
        f"process that trains it (PyTorch, batches of {TRAINING_BATCH}) or runs it (ONNX Runtime).",
    ]
    if inspection.findings:
        lines += ["", *text.finding_lines(inspection.findings)]
    return lines


def _document(inspection: "Inspection") -> dict[str, Any]:
    document = asdict(inspection)
    del document["causes"]  # each finding has its number
    return {"format": JSON_FORMAT, **document}


def _write(path: Path, document: bytes) -> None:
    try:
        path.write_bytes(document)
    except OSError as error:
        raise ConfigError(f"--spec: {path} cannot be written: {error.strerror}") from error
