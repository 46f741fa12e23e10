"""``slimfleet infer``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent import Predictor
from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode
from slimfleet.inference_run import Answers, answer, check_out, read_data, write_answers
from slimmable.model_source import json_options, positive_number
from slimmable.task import TaskKind

EXAMPLE = """example:
  slimfleet infer --model /var/lib/slimfleet/agent --input data.npz --out answers.csv
  slimfleet infer --model models/cnn1d-w0.50.onnx --input rows.csv --unlabelled --json
  slimfleet infer --model models/text-w1.00.onnx --input tokens.npz --batch 1 --threads 2

The model is an agent's folder, which means the model that the device runs now, or an ONNX file that
`slimfleet export` wrote with its manifest. An .npz file holds the inputs as `x`, or under the names
of the model's inputs where it takes several, and what is right as `y`, if it is known.
"""
BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("agent-data"),
        metavar="PATH",
        help="an agent's folder, or a file (default: agent-data, where an agent keeps its models)",
    )
    parser.add_argument(
        "--input", type=Path, required=True, metavar="PATH", help="samples: .npz, .csv or images"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write each answer: a .csv or .npz file"
    )
    parser.add_argument(
        "--reader", default="", metavar="NAME", help="how to read the samples (default by the path)"
    )
    parser.add_argument(
        "--reader-options", type=json_options, default={}, metavar="JSON", help="its options"
    )
    parser.add_argument(
        "--unlabelled", action="store_true", help="the samples have no targets, or ignore them"
    )
    parser.add_argument(
        "--batch",
        type=positive_number,
        default=BATCH,
        metavar="N",
        help=f"samples a call (default {BATCH})",
    )
    parser.add_argument(
        "--threads", type=positive_number, default=1, metavar="N", help="threads a call (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Answer every sample, write the answers and print what they amount to."""
    if arguments.out is not None:
        check_out(arguments.out)
    if not arguments.model.exists():
        raise ConfigError(f"--model {arguments.model}: there is no such file or folder")
    with Predictor(arguments.model, threads=arguments.threads, batch_size=arguments.batch) as model:
        manifest = model.require_model()
        data = read_data(
            arguments.input,
            manifest,
            reader=arguments.reader,
            options=arguments.reader_options,
            labelled=not arguments.unlabelled,
        )
        answers = answer(model, data, arguments.batch)
    if arguments.out is not None:
        write_answers(arguments.out, answers)
    if arguments.json:
        sys.stdout.write(json.dumps(summary(answers, arguments.out), indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(table_lines(answers, arguments.out)) + "\n")
    return ExitCode.DONE


def summary(answers: Answers, out: Path | None) -> dict[str, Any]:
    """Return the figures for programs."""
    model = answers.model
    return {
        "model": model.model,
        "width": model.width,
        "round": model.round,
        "digest": model.digest,
        "task": model.task,
        "samples": len(answers.decoded.label),
        "classes": dict(zip(model.classes, _counts(answers), strict=True)),
        "mean_confidence": _confidence(answers),
        "score": answers.score,
        "batch": answers.batch,
        "latency_p50_s": answers.latency_p50_s,
        "latency_p95_s": answers.latency_p95_s,
        "samples_per_s": answers.samples_per_s,
        "out": str(out) if out else None,
    }


def table_lines(answers: Answers, out: Path | None) -> list[str]:
    """Return the figures for people."""
    model, sure = answers.model, _confidence(answers)
    calls = f"a call of {answers.batch} sample{'s' if answers.batch > 1 else ''}"
    rows = [
        ("model", f"{model.model}, width {model.width:g}, round {model.round}"),
        ("digest", model.digest[:12]),
        ("samples", str(len(answers.decoded.label))),
        ("mean confidence", "not known" if sure is None else f"{sure:.4f}"),
        ("score", "no targets" if answers.score is None else f"{answers.score:.4f}"),
        (
            "latency",
            (
                f"{1e3 * answers.latency_p50_s:.3f} ms median,"
                f" {1e3 * answers.latency_p95_s:.3f} ms p95, {calls}"
            ),
        ),
        ("throughput", f"{answers.samples_per_s:.0f} samples/s"),
    ]
    lines = [f"{name:<17}{said}" for name, said in rows]
    if model.classes:
        span = max(len("class"), *(len(name) for name in model.classes))
        lines += ["", f"{'class':<{span}}  samples  share"]
        for name, count in zip(model.classes, _counts(answers), strict=True):
            share = count / len(answers.decoded.label)
            lines.append(f"{name:<{span}}  {count:>7}  {share:>5.1%}")
    return [*lines, "", f"written to {out}"] if out else lines


def _counts(answers: Answers) -> list[int]:
    classes = len(answers.model.classes)
    return [int(n) for n in np.bincount(answers.decoded.label, minlength=classes)[:classes]]


def _confidence(answers: Answers) -> float | None:
    """Return the mean confidence; a regression has none."""
    if answers.model.task == TaskKind.REGRESSION:
        return None
    return float(answers.decoded.confidence.mean())
