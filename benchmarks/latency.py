"""Is a sub-model as quick as the network that was built at that width, and as quick as its size?

Each reference network is derived, cut at every width and exported by us. Its user would build it
at that width and call `torch.onnx.export`. Both files hold the same weights and take turns, one
call each. The user's file is measured against itself in the same way: how far that is from 1 is
what the measurement adds. Where a session's memory happens to lie changes its speed by some
percent, and the session that was opened first is often the slower one; so every turn opens new
ones, in the other order. Time is that of the calling thread alone, which is all that one thread of
ONNX Runtime uses.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.arguments import names, numbers, positive
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
from exporter.latency import measure_latencies
from exporter.parity import random_feed
from exporter.templates import TemplateCache
from exporter.tracing import INPUT_NAME, tensor_name
from slimmable.macs import count_macs
from slimmable.state import Array

# Their time is spent in convolutions, so it should follow the operations.
COMPUTE_BOUND = frozenset({"four_convolutions_wide", "resnet18", "resnet18_224"})
WIDTHS = (0.25, 0.5, 0.75, 1.0)
SLICED_GOAL, COMPUTE_GOAL = 1.05, 1.1


@dataclass(frozen=True)
class Files:
    """The files of one width and what they compute with.

    Attributes:
        ours, native: ONNX files.
        macs: multiply-accumulates of a call.
    """

    ours: bytes
    native: bytes
    macs: int


@dataclass(frozen=True)
class Turn:
    """What one turn showed of one width.

    Attributes:
        ours_s, native_s: seconds of a call, taking turns with each other.
        noise: of the native file, relative to itself in another session.
    """

    ours_s: float
    native_s: float
    noise: float


@dataclass(frozen=True)
class Timed:
    """What one width of one network showed.

    Attributes:
        ours_s, native_s: seconds of a call.
        ratio: ours to native; noise: native to itself; to_full: ours to ours at full width. Each
            the median over the turns of the ratio within a turn.
        macs: multiply-accumulates, relative to full width.
    """

    network: str
    width: float
    ours_s: float
    native_s: float
    ratio: float
    noise: float
    to_full: float
    macs: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--networks", type=names, default=tuple(REFERENCES), help="of the catalogue"
    )
    parser.add_argument("--widths", type=numbers, default=WIDTHS, help="besides 1.0")
    parser.add_argument("--turns", type=positive, default=10, help="each with new sessions")
    parser.add_argument("--calls", type=positive, default=20, help="of each file in a turn")


def measure(arguments: argparse.Namespace) -> Result:
    """Time every network.

    Raises:
        BenchmarkError: there is no such network.
    """
    torch.set_num_threads(1)
    for name in arguments.networks:
        reference_entry(name)
    widths = tuple(sorted({*arguments.widths, 1.0}))
    timed = [
        one
        for name in arguments.networks
        for one in _time_network(name, widths, arguments.turns, arguments.calls)
    ]
    return Result(
        name="latency",
        summary="a call of the exported sub-model, against the network built at that width",
        tables=(_sliced_table(timed), *_compute_tables(timed)),
        ratios=(*_sliced_ratios(timed), *_compute_ratios(timed)),
        notes=(
            "native: built at the width by its user's code, torch.onnx.export with its defaults",
            (
                f"batch 1, 1 thread; time of the thread, 20 % quantile of {arguments.calls} calls"
                f" in each of {arguments.turns} turns, ratios within a turn, their median"
            ),
            (
                "a call and each layer cost microseconds whatever their size, and ONNX Runtime"
                " computes convolutions by blocks of channels: a small network is not compute-bound"
            ),
            "noise: the native file against itself, measured in the same way",
        ),
    )


def _time_network(name: str, widths: Sequence[float], turns: int, calls: int) -> list[Timed]:
    reference = derive_reference(name, widths)
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
        cache = TemplateCache(Path(folder))
        files = {width: _files(reference, width, cache) for width in widths}
    inputs = {tensor_name(INPUT_NAME, n): one for n, one in enumerate(reference.model.inputs)}
    feed = random_feed(inputs, 1, np.random.default_rng(0))
    found: dict[float, list[Turn]] = {width: [] for width in widths}
    for number in range(turns):
        for width in widths:
            found[width].append(_take_turn(files[width], feed, calls, in_reverse=number % 2 == 1))
    return [
        Timed(
            network=name,
            width=width,
            ours_s=median(turn.ours_s for turn in found[width]),
            native_s=median(turn.native_s for turn in found[width]),
            ratio=median(turn.ours_s / turn.native_s for turn in found[width]),
            noise=median(turn.noise for turn in found[width]),
            to_full=median(
                turn.ours_s / full.ours_s
                for turn, full in zip(found[width], found[1.0], strict=True)
            ),
            macs=files[width].macs / files[1.0].macs,
        )
        for width in widths
    ]


def _files(reference: Reference, width: float, cache: TemplateCache) -> Files:
    cut = reference.cut(width)
    network = native_network(reference, width, cut)
    return Files(
        ours=export_width(reference.model, width, cut, cache).onnx,
        native=torch_onnx(network, reference.model),
        macs=count_macs(network, reference.model.inputs).total,
    )


def _take_turn(files: Files, feed: Mapping[str, Array], calls: int, *, in_reverse: bool) -> Turn:
    ours, native = _pair(files.ours, files.native, feed, calls, in_reverse=in_reverse)
    once, again = _pair(files.native, files.native, feed, calls, in_reverse=in_reverse)
    return Turn(ours, native, once / again)


def _pair(
    one: bytes, other: bytes, feed: Mapping[str, Array], calls: int, *, in_reverse: bool
) -> tuple[float, float]:
    """Return the seconds of a call of each of two files, the second opened first in reverse."""
    models = {"one": one, "other": other}
    if in_reverse:
        models = dict(reversed(models.items()))
    found = measure_latencies(models, feed, calls=calls, clock=time.thread_time)
    return found["one"].low_s, found["other"].low_s


def _sliced_table(timed: Sequence[Timed]) -> Table:
    return Table(
        f"A call, in milliseconds; goal: ours at most {SLICED_GOAL} times native",
        ("network", "width", "ours", "native", "ratio", "noise", "goal"),
        tuple(
            (
                one.network,
                one.width,
                one.ours_s * 1e3,
                one.native_s * 1e3,
                f"{one.ratio:.3f}",
                f"{one.noise:.3f}",
                _verdict(one.ratio, SLICED_GOAL),
            )
            for one in timed
        ),
    )


def _compute_tables(timed: Sequence[Timed]) -> list[Table]:
    """Return the table of the latency that each width saves, where there is more than one."""
    rows = tuple(
        (
            one.network,
            one.width,
            one.macs,
            one.to_full,
            one.to_full / one.macs,
            _verdict(one.to_full / one.macs, COMPUTE_GOAL) if _bound(one) else "none",
        )
        for one in timed
        if one.width < 1.0
    )
    columns = ("network", "width", "MACs", "latency", "latency / MACs", "goal")
    title = f"Relative to full width; goal for compute-bound networks: at most {COMPUTE_GOAL}"
    return [Table(title, columns, rows)] if rows else []


def _sliced_ratios(timed: Sequence[Timed]) -> list[Ratio]:
    """Return the worst width of each network: the goal holds for every one."""
    worst: dict[str, Timed] = {}
    for one in timed:
        if one.network not in worst or one.ratio > worst[one.network].ratio:
            worst[one.network] = one
    return [
        Ratio(
            f"{one.network}, slowest width {one.width:g}",
            one.ratio,
            "built at that width",
            1.0,
            at_most=SLICED_GOAL,
        )
        for one in worst.values()
    ]


def _compute_ratios(timed: Sequence[Timed]) -> list[Ratio]:
    return [
        Ratio(
            f"{one.network} at {one.width:g}, latency to full width",
            one.to_full,
            "its MACs",
            one.macs,
            at_most=COMPUTE_GOAL,
        )
        for one in timed
        if _bound(one) and one.width < 1.0
    ]


def _bound(one: Timed) -> bool:
    return one.network in COMPUTE_BOUND


def _verdict(ratio: float, goal: float) -> str:
    return "reached" if ratio <= goal else "NOT REACHED"
