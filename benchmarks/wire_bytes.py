"""How many bytes does a round cost, and who pays when more devices join?

Weights of one width are encrypted once and published once; every device of that width reads the
same blocks. So what the coordinator sends must not grow with the devices. Counted at a broker in
memory, between the real coordinator and real agents; with ``--run`` also from a demo's journal.
"""

import argparse
import asyncio
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.arguments import positive, whole_numbers
from benchmarks.demo_run import records_of
from benchmarks.memory_fleet import CountingBroker, count_bytes, per_round
from benchmarks.results import Cell, Ratio, Result, Table
from coordinator.settings import Presence, Rounds, Settings
from journal import events as e
from journal.chain import Record
from slimfleet.demo.scenario import GRID, MODEL_OPTIONS
from slimmable.cost import payload_bytes
from slimmable.model import SlimmableModel, load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--devices", type=whole_numbers, default=(2, 4, 8, 16), help="fleets to compare"
    )
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="of each fleet")
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="folder that a demo left: its rounds too"
    )


def measure(arguments: argparse.Namespace) -> Result:
    """Count the bytes of fleets of several sizes.

    Raises:
        BenchmarkError: a fleet did not finish, or there is no journal.
    """
    model = load_model("cnn1d", MODEL_OPTIONS)
    fleets = {
        number: _count(number, arguments.rounds, model) for number in sorted(arguments.devices)
    }
    rounds = range(1, arguments.rounds + 1)
    tables = [_fleet_table(fleets, rounds)]
    ratios = _fleet_ratios(fleets, rounds)
    if arguments.run:
        records = records_of(arguments.run)
        tables.append(_journal_table(records, model))
    return Result(
        name="wire_bytes",
        summary="bytes of a round while more devices share a width",
        tables=tuple(tables),
        ratios=ratios,
        notes=(
            (
                "payload bytes of MQTT messages, without topics and headers; the demo's network at"
                f" full width is {payload_bytes(model.spec, 1.0)} bytes"
            ),
            (
                "control up and down: tasks, progress, announcements, receipts, standings"
                "; broadcast: what the server says once to everybody (its summary no device reads)"
            ),
            (
                "left out: one alive message per heartbeat, the enrolment of each device, which"
                " happens once, and profiles, which are told when a device or its link changes"
            ),
        ),
    )


def _count(devices: int, rounds: int, model: SlimmableModel) -> CountingBroker:
    settings = Settings(
        fleet="bench",
        model="cnn1d",
        options=MODEL_OPTIONS,
        widths=GRID,
        rounds=Rounds(
            budget=rounds,
            minimum=rounds,
            deadline_s=60.0,
            quorum=devices,
            min_devices=devices,
            gather_s=60.0,
        ),
        presence=Presence(heartbeat_s=600.0),
    ).check()
    agent_log = logging.getLogger("edge_agent")
    before = agent_log.level
    agent_log.setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
            return asyncio.run(count_bytes(settings, model, devices, Path(folder)))
    finally:
        agent_log.setLevel(before)


def _fleet_table(fleets: Mapping[int, CountingBroker], rounds: range) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for devices, broker in fleets.items():
        shared = per_round(broker.sent, "shared", rounds)
        rows.append(
            (
                devices,
                shared,
                shared * devices,
                per_round(broker.delivered, "shared", rounds) / devices,
                per_round(broker.sent, "uploaded", rounds) / devices,
                per_round(broker.sent, "control down", rounds) / devices,
                per_round(broker.sent, "control up", rounds) / devices,
                per_round(broker.sent, "broadcast", rounds),
            )
        )
    return Table(
        "Bytes a round, all devices training the full width",
        (
            "devices",
            "server sends weights",
            "own copies would be",
            "a device reads",
            "a device uploads",
            "control down/device",
            "control up/device",
            "broadcast",
        ),
        tuple(rows),
        digits=6,
    )


def _fleet_ratios(fleets: Mapping[int, CountingBroker], rounds: range) -> tuple[Ratio, ...]:
    few, many = min(fleets), max(fleets)
    sent = {n: per_round(broker.sent, "shared", rounds) for n, broker in fleets.items()}
    control = {
        n: sum(per_round(broker.sent, kind, rounds) for kind in ("control down", "control up")) / n
        for n, broker in fleets.items()
    }
    return (
        Ratio(
            f"weights that the server sends, {many} devices",
            sent[many],
            f"the same with {few} devices",
            sent[few],
            "B",
            at_most=1.0,
        ),
        Ratio(
            f"weights that the server sends, {many} devices",
            sent[many],
            "every device downloads its own copy",
            sent[many] * many,
            "B",
            at_most=1.0,
        ),
        Ratio(
            f"control of a device, fleet of {many}",
            control[many],
            f"the same in a fleet of {few}",
            control[few],
            "B",
            at_most=1.1,
        ),
    )


def _journal_table(records: Sequence[Record], model: SlimmableModel) -> Table:
    tasks: dict[str, list[float]] = {}
    shared: dict[str, int] = {}
    uploaded: dict[str, int] = {}
    for record in records:
        match record.event:
            case e.RoundOpened() as opened:
                tasks[f"round-{opened.round}"] = [task.width for task in opened.tasks]
            case e.BlobShared() as blob:
                shared[blob.purpose] = shared.get(blob.purpose, 0) + blob.size
            case e.UpdateAccepted() as update:
                purpose = f"round-{update.round}"
                uploaded[purpose] = uploaded.get(purpose, 0) + update.size
    rows: list[tuple[Cell, ...]] = []
    for purpose, size in shared.items():
        widths = tasks.get(purpose, [])
        copies = sum(payload_bytes(model.spec, width) for width in widths)
        rows.append(
            (
                purpose,
                len(widths) or None,
                len(set(widths)) or None,
                size,
                copies or None,
                size / copies if copies else None,
                uploaded.get(purpose),
            )
        )
    return Table(
        "The demo's journal: blob bytes of each round and release",
        (
            "purpose",
            "devices",
            "widths",
            "shared bytes",
            "own copies would be",
            "ratio",
            "uploaded bytes",
        ),
        tuple(rows),
        digits=6,
    )
