"""``slimfleet profile``."""

import argparse
import asyncio
import json
import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.probe import ProbeResult, probe_runtime
from edge_agent.profile_cache import ProfileCache
from edge_agent.remembering_trainer import RememberingTrainer
from edge_agent.stored_model import SLOTS_FOLDER, read_current
from edge_agent.trainer_process import TrainerProcess, TrainerSettings
from edge_agent.training_failure import TrainingFailed, training_obstacle
from journal.user_cache import user_cache_folder
from profiler.condition import read_condition
from profiler.emulation import EmulationError, find_machine
from profiler.facts import gather_facts, training_budget
from profiler.profile import (
    Benchmark,
    DeviceProfile,
    InferenceFindings,
    MachineFacts,
    describe,
)
from profiler.table import profile_table
from slimfleet.agent_process import PROFILES_FOLDER
from slimfleet.config import AgentConfig, ConfigError, read_config
from slimfleet.exit_codes import ExitCode
from slimfleet.inference_profile import InferenceProfiler, TrialSamples, measured_folder
from slimmable.model_source import json_options, positive_number

log = logging.getLogger(__name__)

EXAMPLE = """example:
  slimfleet profile
  slimfleet profile --model cnn1d --data own.npz \\
    --options '{"sensors": 6, "length": 100, "classes": ["a", "b"]}'
  slimfleet profile --config agent.toml --model plant.models:pump --emulate raspberry-pi-3 --json
  slimfleet profile --files exported

Without a model and data it prints the machine's facts and tries ONNX Runtime. With both it times
real training steps at each width, as an agent does when it meets its server, and inference of each
width where slimfleet[profile] is installed. --files measures what `slimfleet export` wrote, on any
device. What was measured before is used again, unless the machine or its load has changed.
"""
WIDTHS = (0.25, 0.5, 0.75, 1.0)
BATCH_SIZE = 32
BUDGET_S = 60.0
NOT_EMULATED = "inference is not emulated: leave the emulation out to measure it"


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        model, options: which network; "" for none.
        data, reader: the device's samples; None for none.
        memory_budget: bytes, 0 where the machine decides.
        emulate: name of a machine to stand for.
        time_budget_s: seconds for timing the widths; 0 = no limit.
        files: folder of exported files to measure; None = none.
        agent: folder of the agent, with the model that it was sent; None = none.
        fresh: whether to measure what is remembered, too.
    """

    model: str
    options: Mapping[str, Any]
    data: Path | None
    reader: str
    widths: tuple[float, ...]
    batch_size: int
    memory_budget: int
    emulate: str
    time_budget_s: float = BUDGET_S
    files: Path | None = None
    agent: Path | None = None
    fresh: bool = False


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
    parser.add_argument(
        "--budget",
        type=_seconds,
        default=None,
        metavar="S",
        help=f"seconds for timing the widths; then some are interpolated (default {BUDGET_S:g},"
        " 0 = no limit)",
    )
    parser.add_argument(
        "--files", type=Path, metavar="DIR", help="measure inference of these exported files"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="measure everything, whatever is remembered"
    )
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; fails where ONNX Runtime or the given model do not work."""
    profile, runtime = asyncio.run(_measure(_wanted(arguments)))
    if arguments.json:
        document = msgspec.to_builtins(profile) | {"runtime": msgspec.to_builtins(runtime)}
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
    time_budget, agent = BUDGET_S, None
    if arguments.config is not None:
        config = read_config(arguments.config, AgentConfig)
        emulate = emulate or config.demo.emulate
        agent = arguments.config.resolve().parent / config.folder
        if config.train is not None:
            time_budget = config.train.profile_s
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
        time_budget_s=time_budget if arguments.budget is None else arguments.budget,
        files=arguments.files,
        agent=agent,
        fresh=arguments.fresh,
    )


async def _measure(wanted: Wanted) -> tuple[DeviceProfile, ProbeResult]:
    try:
        machine = find_machine(wanted.emulate)
    except EmulationError as error:
        raise ConfigError(f"--emulate: {error}") from error
    facts = gather_facts()
    runtime = await probe_runtime()
    budget = machine.memory_budget or wanted.memory_budget or training_budget(facts)
    cache = ProfileCache(_cache_folder(wanted))
    benchmark, reason = None, "not tried: give --model and --data"
    if wanted.model and wanted.data is not None:
        settings = TrainerSettings(
            data=wanted.data.resolve(),
            reader=wanted.reader,
            memory_budget=budget,
            factor=machine.factor if machine.emulates else None,
            profile_s=wanted.time_budget_s,
        )
        trainer = RememberingTrainer(
            TrainerProcess(settings),
            cache,
            facts,
            memory_budget=budget,
            emulated=machine.name,
            fresh=wanted.fresh,
        )
        benchmark, reason = await _time_steps(wanted, trainer)
    profile = describe(
        facts,
        benchmark,
        reason=reason,
        condition=read_condition(Path()),
        inference=await _inference(wanted, facts, benchmark, cache),
        memory_budget=budget,
        link_bytes_per_s=machine.link_bytes_per_s,
        emulated=machine.name,
    )
    return profile, runtime


async def _inference(
    wanted: Wanted, facts: MachineFacts, benchmark: Benchmark | None, cache: ProfileCache
) -> InferenceFindings:
    if wanted.files is not None:
        return await measured_folder(wanted.files)
    if wanted.emulate not in {"", "none"}:  # it would be that of the machine underneath
        return InferenceFindings(failures=(NOT_EMULATED,) if wanted.model else ())
    agent = wanted.agent
    meter = InferenceProfiler(
        facts,
        cache=cache,
        samples=TrialSamples(wanted.data.resolve(), wanted.reader) if wanted.data else None,
        installed=lambda: None if agent is None else read_current(agent / SLOTS_FOLDER),
        fresh=wanted.fresh,
    )
    # Without timed steps it is not known which version of the network this is.
    spec_hash = benchmark.spec_hash if benchmark else ""
    return await meter.measure(wanted.model, dict(wanted.options), wanted.widths, spec_hash)


async def _time_steps(wanted: Wanted, trainer: RememberingTrainer) -> tuple[Benchmark | None, str]:
    """Return the timed steps, or None and why there are none."""
    if obstacle := training_obstacle():
        return None, obstacle
    log.info("timing training steps of %s at %d widths", wanted.model, len(wanted.widths))
    try:
        benchmark = await trainer.profile(
            wanted.model, dict(wanted.options), wanted.widths, wanted.batch_size
        )
    except TrainingFailed as error:
        return None, str(error)
    finally:
        await trainer.close()
    return benchmark, "; ".join(benchmark.failures) or "no width fitted"


def _cache_folder(wanted: Wanted) -> Path:
    """Return where profiles are kept: with the agent, or where the user's programs keep such."""
    if wanted.agent is not None:
        return wanted.agent / PROFILES_FOLDER
    return user_cache_folder() / PROFILES_FOLDER


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds such as 30, or 0")
    return seconds


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
