"""``slimfleet train``."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimfleet.exit_codes import ExitCode
from slimmable.model_source import (
    DEFAULT_WIDTHS,
    add_model_arguments,
    json_options,
    load_from_arguments,
    positive_number,
    width_list,
)
from slimmable.training_rule import Schedule, WidthRule

if TYPE_CHECKING:
    from slimfleet.training_run import Trained

EXAMPLE = """example:
  slimfleet train cnn1d --options '{"sensors": 6, "length": 100, "classes": ["a", "b"]}' \\
    --data train.npz --epochs 30 --out trained
  slimfleet train plant.models:pump --input 1,6,100 --classes ok,worn --data train.npz \\
    --validation other-days.npz --rule sandwich --distillation 0.5 --out trained

Trains one network that works at every width, on this machine and without a fleet. Writes the
weights, what was done, a curve as .csv and as .png:

  state.safetensors   weights of the full width after the last step; `slimfleet export` slices them
  training.json       settings, digests of data and weights, score of every width
  curve.csv, .png     score over width, loss over steps

Validation data is taken from other recordings than training data: give --validation, or a share of
the recordings in --data is kept back. Ctrl-C ends without writing anything.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    add_model_arguments(parser, positional=True)
    add_data_arguments(parser)
    _add_rule_arguments(parser.add_argument_group("training"))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what trains and what measures."""
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, required=True, metavar="FILE", help="training samples")
    data.add_argument(
        "--reader", default="npz", metavar="NAME", help="how to read them (default npz)"
    )
    data.add_argument(
        "--reader-options", type=json_options, default={}, metavar="JSON", help="its options"
    )
    held = data.add_mutually_exclusive_group()
    held.add_argument("--validation", type=Path, metavar="FILE", help="samples to measure on")
    held.add_argument(
        "--validation-share",
        type=_share,
        default=0.2,
        metavar="S",
        help="share of the recordings to keep back and measure on (default 0.2)",
    )


def _add_rule_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--widths",
        type=width_list,
        default=DEFAULT_WIDTHS,
        metavar="P,P",
        help="widths to train and measure; 1 is one of them (default 0.25,0.5,0.75,1)",
    )
    group.add_argument(
        "--rule",
        type=WidthRule,
        choices=tuple(WidthRule),
        default=WidthRule.ORDERED_DROPOUT,
        help="widths of a step: one drawn at random; the widest, the narrowest and some between;"
        " all of them; or own-width, the full one alone (default ordered-dropout)",
    )
    group.add_argument(
        "--random-widths",
        type=int,
        default=2,
        metavar="N",
        help="of the sandwich rule: how many between (default 2)",
    )
    group.add_argument(
        "--draw-weights",
        type=_numbers,
        default=(),
        metavar="W,W",
        help="of ordered dropout: how often each width is drawn, in proportion",
    )
    group.add_argument(
        "--widest-share",
        type=float,
        default=0.0,
        metavar="S",
        help="of ordered dropout: share of the steps that take the full width, the others the"
        " narrower ones (default 0: all widths equally often)",
    )
    group.add_argument(
        "--distillation",
        type=float,
        default=0.0,
        metavar="S",
        help="share of a narrow width's loss that is its distance from the widest (default 0)",
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=positive_number, default=20, metavar="N", help="passes (default 20)"
    )
    length.add_argument("--steps", type=positive_number, metavar="N", help="gradient steps")
    for flag, kind, default, metavar, what in (
        ("--batch", positive_number, 64, "N", "samples a step"),
        ("--learning-rate", float, 0.05, "R", "of SGD, the highest one"),
        ("--momentum", float, 0.9, "M", "of SGD"),
        ("--weight-decay", float, 1e-4, "D", "L2 factor"),
        ("--gradient-norm", float, 0.0, "G", "longer gradients are shortened to this, 0 = never"),
        ("--warm-up", int, 0, "N", "steps in which the learning rate rises"),
        ("--seed", int, 0, "N", "of first weights, batches and widths"),
    ):
        group.add_argument(
            flag, type=kind, default=default, metavar=metavar, help=f"{what} (default {default:g})"
        )
    group.add_argument(
        "--schedule",
        type=Schedule,
        choices=tuple(Schedule),
        default=Schedule.COSINE,
        help="of the learning rate (default cosine)",
    )
    group.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights to start from, not fresh ones"
    )
    group.add_argument(
        "--measure-every",
        type=positive_number,
        metavar="N",
        help="steps (default: ten times in all)",
    )
    group.add_argument(
        "--threads",
        type=positive_number,
        metavar="N",
        help="of the processor (default: all; beside other work one is often faster)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, write the results and print one line per width."""
    from slimfleet.result_folder import prepare_folder
    from slimfleet.training_run import plan_run, write_results
    from slimfleet.training_run import run as train

    model = load_from_arguments(arguments, arguments.widths)
    plan = plan_run(arguments, model)
    prepare_folder(arguments.out)
    try:
        trained = train(plan)
    except KeyboardInterrupt:
        sys.stderr.write("slimfleet: interrupted before the last step; nothing was written\n")
        raise
    written = write_results(arguments.out, plan, trained, model_settings(arguments))
    if arguments.json:
        sys.stdout.write(json.dumps(written, indent=2) + "\n")
    else:
        lines = table_lines(trained, plan.score_name)
        sys.stdout.write("\n".join([*lines, "", f"written to {arguments.out}"]) + "\n")
    return ExitCode.DONE


def table_lines(trained: "Trained", score_name: str) -> list[str]:
    """Return the table of the widths after the last step."""
    head = f"{'width':>6}  {'parameters':>10}  {score_name:>18}  {'loss':>8}"
    return [
        head,
        *(
            f"{row.width:>6g}  {count:>10}  {row.score:>18.4f}  {row.loss:>8.4f}"
            for row, count in zip(
                trained.measurements[-1].scores, trained.parameter_counts, strict=True
            )
        ),
    ]


def model_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what names the model, so that the same one can be loaded again."""
    return {
        "model": arguments.model,
        "options": arguments.options,
        "input": [[list(one.shape), one.dtype] for one in arguments.input],
        "granules": list(arguments.granules),
        "factor": arguments.factor,
    }


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0 and below 1")
    return share


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 1,1,1,2") from error
