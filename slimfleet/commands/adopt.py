"""``slimfleet adopt``."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from slimfleet.commands.train import add_data_arguments, model_settings
from slimfleet.exit_codes import ExitCode
from slimmable.model_source import (
    DEFAULT_WIDTHS,
    add_model_arguments,
    load_from_arguments,
    positive_number,
    width_list,
)
from slimmable.training_rule import WidthRule

EXAMPLE = """example:
  slimfleet adopt plant.models:pump --input 1,6,100 --classes ok,worn \\
    --checkpoint dense.safetensors --data train.npz --budget 120s --out adopted

Takes a network that was trained at full width and makes it work at every width. Puts the important
channels first, which leaves the full network as it was, then trains all widths with the network
itself as their teacher. Writes

  adopted.safetensors   weights of the full width; `slimfleet export` slices them
  adopted.json          settings, digests, what could not be ordered, score of every width
  curve.csv, .png       score over width: as is, ordered, distilled

Weights are a state dict, as safetensors or as torch.save writes it. Validation data is taken from
other recordings than training data: give --validation, or a share of the recordings in --data is
kept back. Where the given network was trained on those, its own score flatters it. Ctrl-C ends
without writing anything.
"""
TOLERATED = 0.01  # loss of the full width's score above which something can be done about it
SUFFIXES = {"s": 1, "m": 60, "h": 3600}
IMPORTANCE = ("magnitude", "taylor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_model_arguments(parser, positional=True)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="weights of the network trained at full width (safetensors, or .pt)",
    )
    add_data_arguments(parser)
    _add_rule_arguments(parser.add_argument_group("ordering and distillation"))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def _add_rule_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--widths",
        type=width_list,
        default=DEFAULT_WIDTHS,
        metavar="P,P",
        help="widths to make usable; 1 is one of them (default 0.25,0.5,0.75,1)",
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--budget",
        type=cpu_seconds,
        default=120.0,
        metavar="TIME",
        help="CPU time of the distillation, as 60s, 10m or 1h (default 120s)",
    )
    length.add_argument(
        "--steps", type=positive_number, metavar="N", help="gradient steps, not a time"
    )
    group.add_argument(
        "--importance",
        choices=IMPORTANCE,
        default=IMPORTANCE[0],
        help="of a channel: the norm of its weights, or the change of the loss without it"
        " (default magnitude)",
    )
    group.add_argument(
        "--distillation",
        type=float,
        default=0.5,
        metavar="S",
        help="share of the loss that is the distance from the network as it was (default 0.5)",
    )
    group.add_argument(
        "--rule",
        type=WidthRule,
        choices=tuple(rule for rule in WidthRule if rule is not WidthRule.OWN_WIDTH),
        default=WidthRule.ORDERED_DROPOUT,
        help="widths of a step, as of `slimfleet train` (default ordered-dropout)",
    )
    for flag, kind, default, metavar, what in (
        ("--batch", positive_number, 64, "N", "samples a step"),
        ("--learning-rate", float, 0.02, "R", "of SGD at the start; it falls to 0"),
        ("--weight-decay", float, 1e-4, "D", "L2 factor"),
        ("--seed", int, 0, "N", "of batches and widths"),
    ):
        group.add_argument(
            flag, type=kind, default=default, metavar=metavar, help=f"{what} (default {default:g})"
        )
    group.add_argument(
        "--threads", type=positive_number, metavar="N", help="of the processor (default: all)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Adopt the network, write the results and print one line per width."""
    from slimfleet import adoption_run
    from slimfleet.result_folder import prepare_folder

    model = load_from_arguments(arguments, arguments.widths)
    plan = adoption_run.plan_adoption(arguments, model)
    prepare_folder(arguments.out)
    try:
        adopted = adoption_run.run(plan)
    except KeyboardInterrupt:
        sys.stderr.write("slimfleet: interrupted before the end; nothing was written\n")
        raise
    settings = model_settings(arguments)
    report = adoption_run.write_results(arguments.out, plan, adopted, settings)
    if arguments.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        lines = [*report_lines(report), "", f"written to {arguments.out}"]
        sys.stdout.write("\n".join(lines) + "\n")
    return ExitCode.DONE


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return the table of the widths and what became of the full one.

    Args:
        report: what stands in ``adopted.json``.
    """
    stages = list(report["widths"][0]["scores"])
    lines = [f"{'width':>6}  {'parameters':>10}" + "".join(f"  {one:>10}" for one in stages)]
    for row in report["widths"]:
        scores = "".join(f"  {row['scores'][stage]:>10.4f}" for stage in stages)
        lines.append(f"{row['width']:>6g}  {row['parameters']:>10}{scores}")
    before, after = report["dense_score"], report["widths"][-1]["scores"][stages[-1]]
    lines += [
        "",
        (
            f"{report['score']} of the full width: {before:.4f} as it was given, {after:.4f} now"
            f" ({after - before:+.4f}), after {report['steps']} steps in"
            f" {report['cpu_seconds']:.0f} s of CPU time"
        ),
    ]
    if before - after > TOLERATED:
        lines.append("the full width lost: a lower --learning-rate or a longer --budget keeps more")
    lines += [
        f"not ordered, since it would change the network: {one}" for one in report["not_ordered"]
    ]
    return lines


def cpu_seconds(text: str) -> float:
    """Read a time such as ``60s``, ``10m`` or ``1.5h``; a bare number is in seconds.

    Raises:
        argparse.ArgumentTypeError: it is none above 0.
    """
    factor = SUFFIXES.get(text[-1:], 0)
    try:
        seconds = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0 such as 60s, 10m or 1h")
    return seconds
