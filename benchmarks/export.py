"""How long do the ONNX files of a round take, from warm templates and without any?

The slow way is `torch.onnx.export` of the finished sub-model, at every width, every round. Ours
traces a width once and then only puts the weights in, optimises and compares with torch. The
network is one of the catalogue, whose width spec is derived; what it costs to derive the spec of
each network in the first place is the other half.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, median

import torch
from torch import nn

from benchmarks.arguments import names, numbers, positive
from benchmarks.derivation_time import DerivationTime, time_in_fresh_process
from benchmarks.networks.catalogue import LISTED
from benchmarks.references import (
    REFERENCES,
    Reference,
    derive_reference,
    native_network,
    reference_entry,
    torch_onnx,
)
from benchmarks.results import Ratio, Result, Table
from exporter.export import export_width
from exporter.injection import inject, open_untouched
from exporter.parity import check_parity
from exporter.passes import fold_weights
from exporter.serialise import to_bytes
from exporter.templates import TemplateCache, warm_templates
from slimmable.evaluation import load_network
from slimmable.model import SlimmableModel
from slimmable.state import ModelState

WIDTHS = tuple(number / 16 for number in range(1, 17))
NATIVE_WIDTHS = 4  # so many are exported by torch alone
INJECTION_GOAL, RELEASE_GOAL = 25, 5
SPEC_GOAL_S, RECURRENT_GOAL_S = 4.0, 10.0


@dataclass(frozen=True)
class Steps:
    """CPU seconds of one width, each the median over the repeats.

    Attributes:
        inject: weights into the template, until the bytes of a file are there.
        optimise: passes over the graph with its weights.
        parity: comparison with torch and with the graph as traced.
        whole: all that a release needs: `exporter.export.export_width`.
        whole_wall: the same, by the clock on the wall.
    """

    inject: float
    optimise: float
    parity: float
    whole: float
    whole_wall: float


@dataclass(frozen=True)
class Timed:
    """One width.

    Attributes:
        size: bytes of the file.
        steps: of ours.
        traced: CPU seconds of `torch.onnx.export` of the network built at that width, until its
            bytes are there; None where it was not measured.
    """

    width: float
    size: int
    steps: Steps
    traced: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--network", choices=sorted(REFERENCES), default="resnet18", help="that is exported"
    )
    parser.add_argument("--widths", type=numbers, default=WIDTHS, help="of a round")
    parser.add_argument("--repeats", type=positive, default=3, help="the median is taken")
    parser.add_argument(
        "--derive", type=names, default=tuple(LISTED), help="networks whose width spec is timed"
    )


def measure(arguments: argparse.Namespace) -> Result:
    """Time every width, and every derivation.

    Raises:
        BenchmarkError: there is no such network, or one cannot be derived.
    """
    torch.set_num_threads(1)
    for name in arguments.derive:
        reference_entry(name)
    widths = tuple(sorted(set(arguments.widths)))
    reference = derive_reference(arguments.network, widths)
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
        cache = TemplateCache(Path(folder))
        # Also loads the exporter: what follows is all warm, torch's own export too.
        tracing = _cpu(lambda: warm_templates(reference.model, widths, cache))
        chosen = spread(widths, NATIVE_WIDTHS)
        timed = [
            _time_width(reference, width, cache, arguments.repeats, natively=width in chosen)
            for width in widths
        ]
    derived = {name: time_in_fresh_process(name) for name in arguments.derive}
    return Result(
        name="export",
        summary=f"an ONNX file per width of {arguments.network}, and width specs of networks",
        tables=(_widths_table(arguments.network, timed), _derivation_table(derived)),
        ratios=(*_export_ratios(timed), *_derivation_ratios(derived)),
        notes=(
            (
                f"CPU seconds; torch.onnx.export was measured at {len(chosen)} of {len(timed)}"
                f" widths, once each, and their mean counted {len(timed)} times"
            ),
            (
                f"the templates of these widths took {tracing:.1f} s, once for all rounds, the"
                " first load of the exporter included"
            ),
            "torch.onnx.export is timed warm and without a comparison with torch, ours with it",
            f"median of {arguments.repeats} repeats; one thread",
            (
                "width specs: each network in a process of its own, imports not counted; `first`"
                " has what torch loads when it traces for the first time, `again` has not"
            ),
        ),
    )


def spread(widths: Sequence[float], count: int) -> tuple[float, ...]:
    """Return ``count`` of the widths, evenly spread; all of them where there are fewer."""
    count = min(count, len(widths))
    return tuple(
        widths[((2 * position + 1) * len(widths) - 1) // (2 * count)] for position in range(count)
    )


def _time_width(
    reference: Reference, width: float, cache: TemplateCache, repeats: int, *, natively: bool
) -> Timed:
    model, cut = reference.model, reference.cut(width)
    network = load_network(model, width, cut)
    found = []
    size = 0
    for _ in range(repeats):
        one, size = _take_steps(model, width, cut, network, cache)
        found.append(one)
    steps = Steps(*(median(getattr(one, field.name) for one in found) for field in fields(Steps)))
    traced = None
    if natively:
        native = native_network(reference, width, cut)
        traced = _cpu(lambda: torch_onnx(native, model))
    return Timed(width, size, steps, traced)


def _take_steps(
    model: SlimmableModel, width: float, cut: ModelState, network: nn.Module, cache: TemplateCache
) -> tuple[Steps, int]:
    """Return the seconds of each step, and the size of the file."""
    template = cache.get(model, width, network)
    injecting = _cpu(lambda: to_bytes(inject(template, cut)))
    graph = inject(template, cut)
    optimising = _cpu(lambda: fold_weights(graph))
    onnx = to_bytes(graph)
    comparing = _cpu(
        lambda: check_parity(onnx, network, model, untouched=open_untouched(template, cut))
    )
    wall = time.perf_counter()
    whole = _cpu(lambda: export_width(model, width, cut, cache))
    wall = time.perf_counter() - wall
    return Steps(injecting, optimising, comparing, whole, wall), len(onnx)


def _cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _widths_table(network: str, timed: Sequence[Timed]) -> Table:
    return Table(
        f"{network}: CPU milliseconds of each width",
        (
            "width",
            "kB",
            "inject",
            "optimise",
            "parity",
            "whole",
            "whole, wall",
            "torch.onnx.export",
        ),
        tuple(
            (
                one.width,
                one.size / 1000,
                *(getattr(one.steps, field.name) * 1e3 for field in fields(Steps)),
                None if one.traced is None else one.traced * 1e3,
            )
            for one in timed
        ),
    )


def _export_ratios(timed: Sequence[Timed]) -> tuple[Ratio, ...]:
    natively = mean(one.traced for one in timed if one.traced is not None) * len(timed)
    return (
        Ratio(
            "torch.onnx.export of every width",
            natively,
            f"injection into {len(timed)} templates",
            sum(one.steps.inject for one in timed),
            "s",
            at_least=INJECTION_GOAL,
        ),
        Ratio(
            "torch.onnx.export of every width",
            natively,
            f"{len(timed)} releases: optimised, compared",
            sum(one.steps.whole for one in timed),
            "s",
            at_least=RELEASE_GOAL,
        ),
    )


def _derivation_table(derived: dict[str, DerivationTime]) -> Table:
    return Table(
        "CPU seconds of a width spec",
        ("network", "size", "first", "first, wall", "again", "with self-check", "goal", ""),
        tuple(
            (
                name,
                " ".join("x".join(map(str, one.shape)) for one in REFERENCES[name].inputs),
                found.first,
                found.first_wall,
                found.again,
                found.checked,
                f"{_limit(name):g} s",
                "reached" if found.first <= _limit(name) else "NOT REACHED",
            )
            for name, found in derived.items()
        ),
    )


def _derivation_ratios(derived: dict[str, DerivationTime]) -> list[Ratio]:
    """Return the slowest network of each kind."""
    slowest: dict[float, str] = {}
    for name, found in derived.items():
        limit = _limit(name)
        if limit not in slowest or found.first > derived[slowest[limit]].first:
            slowest[limit] = name
    return [
        Ratio(
            f"slowest width spec, {name}",
            derived[name].first,
            "recurrent networks" if REFERENCES[name].recurrent else "the others",
            limit,
            "s",
            at_most=1.0,
        )
        for limit, name in sorted(slowest.items())
    ]


def _limit(name: str) -> float:
    return RECURRENT_GOAL_S if REFERENCES[name].recurrent else SPEC_GOAL_S
