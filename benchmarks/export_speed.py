"""How long does one ONNX file take, from a warm template and without one?

The slow way is `torch.onnx.export` of the finished sub-model, at every width, every round. Ours
traces a width once and then only puts the weights in, optimises and compares with torch.
"""

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.arguments import numbers, positive
from benchmarks.results import Ratio, Result, Table
from exporter.export import export_width
from exporter.injection import inject, open_untouched
from exporter.parity import check_parity
from exporter.passes import fold_weights
from exporter.serialise import to_bytes
from exporter.templates import TemplateCache, warm_templates
from exporter.tracing import OPSET, sample_inputs
from slimfleet.demo.scenario import GRID, MODEL_OPTIONS
from slimmable.evaluation import initial_state, load_network
from slimmable.model import SlimmableModel, load_model
from slimmable.slicing import slice_state
from slimmable.state import ModelState

OPTIONS: dict[str, dict[str, Any]] = {
    "cnn1d": MODEL_OPTIONS,
    "resnet18": {"classes": [str(number) for number in range(10)]},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--model", choices=sorted(OPTIONS), default="cnn1d", help="cnn1d is the demo's network"
    )
    parser.add_argument("--widths", type=numbers, default=GRID, help="which sub-models")
    parser.add_argument("--repeats", type=positive, default=5, help="the median is taken")


@dataclass(frozen=True)
class Timed:
    """Seconds of one width; each step is the median over the repeats.

    Attributes:
        size: bytes of the ONNX file.
        inject: weights into the template, until the bytes of a file are there.
        optimise: passes over the graph with its weights.
        parity: comparison with torch and with the graph as traced.
        whole: all that a release needs: `exporter.export.export_width`.
        traced: `torch.onnx.export` of the same network, until its bytes are there.
    """

    width: float
    size: int
    inject: float
    optimise: float
    parity: float
    whole: float
    traced: float


def measure(arguments: argparse.Namespace) -> Result:
    """Time every width."""
    torch.set_num_threads(1)
    model = load_model(arguments.model, OPTIONS[arguments.model])
    state = _trained_looking(initial_state(model, seed=0))
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
        cache = TemplateCache(Path(folder))
        # Also loads the exporter: what follows is all warm.
        tracing = _seconds(lambda: warm_templates(model, arguments.widths, cache))
        timed = [
            _time_width(model, width, state, cache, arguments.repeats) for width in arguments.widths
        ]
    whole, traced = sum(one.whole for one in timed), sum(one.traced for one in timed)
    injected = sum(one.inject for one in timed)
    return Result(
        name="export_speed",
        summary="an ONNX file per width, parity-checked, from a warm template",
        tables=(_table(model, timed),),
        ratios=(
            Ratio(
                f"release of {len(timed)} widths",
                whole * 1e3,
                "torch.onnx.export of each",
                traced * 1e3,
                "ms",
                at_most=1 / 5,
            ),
            Ratio(
                "injection alone",
                injected * 1e3,
                "torch.onnx.export of each",
                traced * 1e3,
                "ms",
                at_most=1 / 25,
            ),
            Ratio(
                "slowest width",
                max(one.whole for one in timed) * 1e3,
                "its torch.onnx.export",
                max(timed, key=lambda one: one.whole).traced * 1e3,
                "ms",
                at_most=1.0,
            ),
        ),
        notes=(
            (
                f"the templates of these widths took {tracing:.1f} s, once for all rounds, the"
                " first load of the exporter included"
            ),
            "torch.onnx.export is timed without a comparison with torch, ours with it",
            f"median of {arguments.repeats} repeats, torch.onnx.export once; one thread",
        ),
    )


def _table(model: SlimmableModel, timed: list[Timed]) -> Table:
    return Table(
        f"{model.name}: milliseconds of each width",
        (
            "width",
            "kB",
            "inject",
            "optimise",
            "parity",
            "whole",
            "torch.onnx.export",
            "times quicker",
        ),
        tuple(
            (
                one.width,
                one.size / 1000,
                one.inject * 1e3,
                one.optimise * 1e3,
                one.parity * 1e3,
                one.whole * 1e3,
                one.traced * 1e3,
                one.traced / one.whole,
            )
            for one in timed
        ),
    )


def _trained_looking(state: ModelState) -> ModelState:
    """Return values unlike each other: fresh batch norms are ones and zeros, which fold away."""
    rng = np.random.default_rng(0)
    return {
        name: (array + rng.uniform(0.01, 0.1, array.shape)).astype(array.dtype)
        for name, array in state.items()
    }


def _time_width(
    model: SlimmableModel, width: float, full: ModelState, cache: TemplateCache, repeats: int
) -> Timed:
    cut = slice_state(full, model.spec, width)
    network = load_network(model, width, cut)
    template = cache.get(model, width, network)
    steps: dict[str, list[float]] = {"inject": [], "optimise": [], "parity": [], "whole": []}
    onnx = b""
    for _ in range(repeats):
        steps["inject"].append(_seconds(lambda: to_bytes(inject(template, cut))))
        graph = inject(template, cut)
        steps["optimise"].append(_seconds(lambda graph=graph: fold_weights(graph)))
        onnx = to_bytes(graph)
        steps["parity"].append(
            _seconds(
                lambda onnx=onnx: check_parity(
                    onnx, network, model, untouched=open_untouched(template, cut)
                )
            )
        )
        steps["whole"].append(_seconds(lambda: export_width(model, width, cut, cache)))
    found: Mapping[str, float] = {name: median(times) for name, times in steps.items()}
    traced = _seconds(lambda: trace_whole(model, network))
    return Timed(width=width, size=len(onnx), traced=traced, **found)


def trace_whole(model: SlimmableModel, network: nn.Module) -> bytes:
    """Return the bytes that `torch.onnx.export` makes of a network, as its manual says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            sample_inputs(model, 2),
            dynamo=True,
            optimize=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},) * len(model.inputs),
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# One line per operator of the absent torchvision.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
