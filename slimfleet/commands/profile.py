"""``slimfleet profile``."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.probe import ProbeResult, probe_runtime
from edge_agent.trainer_process import TrainerProcess, TrainerSettings
from edge_agent.training_failure import TrainingFailed, training_obstacle
from profiler.condition import read_condition
from profiler.emulation import EmulationError, find_machine
from profiler.facts import gather_facts, training_budget
from profiler.profile import Benchmark, DeviceProfile, describe
from profiler.table import profile_table
from slimfleet.config import AgentConfig, ConfigError, read_config
from slimfleet.exit_codes import ExitCode
from slimmable.model_source import json_options, positive_number

log = logging.getLogger(__name__)

EXAMPLE = """example:
  slimfleet profile
  slimfleet profile --model cnn1d --data own.npz \\
    --options '{"sensors": 6, "length": 100, "classes": ["a", "b"]}'
  slimfleet profile --config agent.toml --model plant.models:pump --emulate raspberry-pi-3 --json

Without a model and data it prints the machine's facts and tries ONNX Runtime. With both it times
real training steps at each width, as an agent does when it meets its server.
"""
WIDTHS = (0.25, 0.5, 0.75, 1.0)
BATCH_SIZE = 32


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        model, options: which network; "" for none.
        data, reader: the device's samples; None for none.
        memory_budget: bytes, 0 where the machine decides.
        emulate: name of a machine to stand for.
    """

    model: str
    options: Mapping[str, Any]
    data: Path | None
    reader: str
    widths: tuple[float, ...]
    batch_size: int
    memory_budget: int
    emulate: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="agent.toml: data, memory limit and emulation"
    )
    parser.add_argument(
        "--model", default="", metavar="NAME", help="model, or package.module:function"
    )
    parser.add_argument(
        "--options", type=json_options, default={}, metavar="JSON", help="its keyword arguments"
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="samples to train on")
    parser.add_argument(
        "--reader", default="", metavar="NAME", help="how to read them (default npz)"
    )
    parser.add_argument(
        "--widths",
        type=_widths,
        default=WIDTHS,
        metavar="P,P",
        help="widths to time (default 0.25,0.5,0.75,1)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_number,
        default=BATCH_SIZE,
        metavar="N",
        help=f"samples a step (default {BATCH_SIZE})",
    )
    parser.add_argument(
        "--emulate", default="", metavar="MACHINE", help="stand for another machine; for trials"
    )
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; fails where ONNX Runtime or the given model do not work."""
    profile, runtime = asyncio.run(_measure(_wanted(arguments)))
    if arguments.json:
        document = msgspec.to_builtins(profile) | {"inference": msgspec.to_builtins(runtime)}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        verdict = "works" if runtime.ok else "FAILS"
        sys.stdout.write(
            f"{profile_table(profile)}\n\n{'inference':<16}{verdict}: {runtime.detail}\n"
        )
    timed = not arguments.model or profile.model != ""
    return ExitCode.DONE if runtime.ok and timed else ExitCode.FAILURE


def _wanted(arguments: argparse.Namespace) -> Wanted:
    """Return what the arguments ask for; they come before the configuration."""
    data, reader, budget, emulate = arguments.data, arguments.reader, 0, arguments.emulate
    if arguments.config is not None:
        config = read_config(arguments.config, AgentConfig)
        emulate = emulate or config.demo.emulate
        if config.train is not None:
            budget = config.train.memory_mb * 2**20
            if data is None:
                data = arguments.config.resolve().parent / config.train.data
                reader = reader or config.train.reader
    if arguments.model and data is None:
        raise ConfigError("--data is missing: training steps are timed on the device's own samples")
    if data is not None and not arguments.model and arguments.config is None:
        raise ConfigError("--model is missing: which network shall be timed on the data?")
    return Wanted(
        model=arguments.model,
        options=arguments.options,
        data=data,
        reader=reader or "npz",
        widths=arguments.widths,
        batch_size=arguments.batch_size,
        memory_budget=budget,
        emulate=emulate,
    )


async def _measure(wanted: Wanted) -> tuple[DeviceProfile, ProbeResult]:
    try:
        machine = find_machine(wanted.emulate)
    except EmulationError as error:
        raise ConfigError(f"--emulate: {error}") from error
    facts = gather_facts()
    runtime = await probe_runtime()
    budget = machine.memory_budget or wanted.memory_budget or training_budget(facts)
    benchmark, reason = None, "not tried: give --model and --data"
    if wanted.model and wanted.data is not None:
        settings = TrainerSettings(
            data=wanted.data.resolve(),
            reader=wanted.reader,
            memory_budget=budget,
            factor=machine.factor if machine.emulates else None,
        )
        benchmark, reason = await _time_steps(wanted, settings)
    profile = describe(
        facts,
        benchmark,
        reason=reason,
        condition=read_condition(Path()),
        memory_budget=budget,
        link_bytes_per_s=machine.link_bytes_per_s,
        emulated=machine.name,
    )
    return profile, runtime


async def _time_steps(wanted: Wanted, settings: TrainerSettings) -> tuple[Benchmark | None, str]:
    """Return the timed steps, or None and why there are none."""
    if obstacle := training_obstacle():
        return None, obstacle
    log.info("timing training steps of %s at %d widths", wanted.model, len(wanted.widths))
    trainer = TrainerProcess(settings)
    try:
        benchmark = await trainer.profile(
            wanted.model, wanted.options, wanted.widths, wanted.batch_size
        )
    except TrainingFailed as error:
        return None, str(error)
    finally:
        await trainer.close()
    return benchmark, "; ".join(benchmark.failures) or "no width fitted"


def _widths(text: str) -> tuple[float, ...]:
    try:
        widths = sorted({float(part) for part in text.split(",")})
    except ValueError:
        widths = []
    if not widths or not all(0.0 < width <= 1.0 for width in widths):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of widths above 0 and at most 1, such as 0.25,0.5,1"
        )
    return tuple(widths)
