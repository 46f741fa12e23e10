"""The agent process: wires the agent to a real broker, trainer process, slots and clock."""

import asyncio
import json
import logging
import os
import random
import time
from functools import partial
from pathlib import Path

from broker.envelope import Verifier, parse_public_key
from broker.mqtt import MqttLink
from edge_agent.agent import Agent, AgentIdentity, Equipment, OwnModel, last_will
from edge_agent.installation import ModelInstaller
from edge_agent.outbox import Outbox
from edge_agent.profile_cache import ProfileCache
from edge_agent.remembering_trainer import RememberingTrainer
from edge_agent.session import AgentSession
from edge_agent.slots import ModelSlots
from edge_agent.stored_model import SLOTS_FOLDER, read_current
from edge_agent.trainer_process import TrainerProcess, TrainerSettings
from edge_agent.training_failure import training_obstacle
from edge_agent.witness_file import read_witness
from journal.disk import make_folder, write_atomically
from profiler.condition import read_condition
from profiler.emulation import EmulatedMachine, EmulationError, find_machine
from profiler.facts import gather_facts, training_budget
from profiler.profile import MachineFacts
from slimfleet import __version__
from slimfleet.config import AgentConfig, ConfigError
from slimfleet.inference_profile import InferenceProfiler, TrialSamples
from slimfleet.stopping import stop_on_signal

log = logging.getLogger(__name__)

PROFILES_FOLDER = "profiles"


async def run_agent(config: AgentConfig, base: Path) -> None:
    """Serve one device until a signal asks to stop.

    Args:
        config: from ``agent.toml``.
        base: folder of that file; its paths are relative to it.

    Raises:
        ConfigError: a trusted key or an emulated machine that is not one.
    """
    folder = make_folder(base / config.folder)
    try:
        machine = find_machine(config.demo.emulate)
    except EmulationError as error:
        raise ConfigError(f"demo.emulate: {error}") from error
    facts = gather_facts()
    budget = _memory_budget(config, machine, training_budget(facts))
    cache = ProfileCache(folder / PROFILES_FOLDER)
    trainer, obstacle = _trainer(config, base, machine, budget)
    remembering = trainer and RememberingTrainer(
        trainer, cache, facts, memory_budget=budget, emulated=machine.name
    )
    outbox = Outbox(folder / "outbox")
    installer = ModelInstaller(
        ModelSlots(folder / SLOTS_FOLDER),
        _verifier(config),
        {name: base / path for name, path in config.infer.evaluations.items()},
        config.infer.reader,
        reader_options=config.infer.reader_options,
        threads=config.infer.threads,
    )
    session_number = next_session(folder / "session.json")
    session = AgentSession(
        config.device,
        _verifier(config),
        can_train=trainer is not None,
        reason=obstacle,
        pending={update.round: update for update in outbox.pending()},
        installed=installer.installed(),
        witness=read_witness(folder, config.device, _verifier(config)),
    )
    link = MqttLink(
        config.broker.address(),
        config.device,
        config.broker.credentials(base, config.device),
        last_will(config.fleet, config.device, session_number),
        random.Random(os.urandom(16)),
        protocol=config.broker.protocol,
    )
    identity = AgentIdentity(
        fleet=config.fleet,
        device=config.device,
        session=session_number,
        version=f"slimfleet {__version__}",
        emulated=machine.name,
        link_bytes_per_s=machine.link_bytes_per_s,
        memory_budget=budget,
        behaviour=config.demo.behaviour,
        noise=config.demo.noise,
        never_send=config.train.never_send if config.train else (),
        own_model=(
            OwnModel(config.train.model, config.train.options)
            if config.train and config.train.model
            else None
        ),
    )
    agent = Agent(
        identity,
        Equipment(
            link=link,
            session=session,
            outbox=outbox,
            installer=installer,
            facts=facts,
            folder=folder,
            clock=time.time,
            trainer=remembering,
            telemetry_s=config.infer.telemetry_s,
            condition=partial(read_condition, folder),
            # On an emulated machine it would be that of the machine underneath.
            inference=None if machine.emulates else _inference(config, base, facts, cache),
        ),
    )
    if machine.emulates:
        log.info("EMULATED machine: %s (%s)", machine.name, machine.source)
    async with stop_on_signal(agent.stop):
        await agent.run()


def _memory_budget(config: AgentConfig, machine: EmulatedMachine, default: int) -> int:
    if machine.memory_budget:
        return machine.memory_budget
    if config.train and config.train.memory_mb:
        return config.train.memory_mb * 2**20
    return default


def _trainer(
    config: AgentConfig, base: Path, machine: EmulatedMachine, budget: int
) -> tuple[TrainerProcess | None, str]:
    if config.train is None:
        return None, "agent.toml has no [train] section: this device only infers"
    if obstacle := training_obstacle():
        return None, obstacle
    data = base / config.train.data
    if not data.exists():
        # No reason to end: the device infers, and the server is told why it does not train.
        log.error("train.data: there is no %s; put it there, or correct agent.toml", data)
    settings = TrainerSettings(
        data=data,
        reader=config.train.reader,
        reader_options=config.train.reader_options,
        memory_budget=budget,
        factor=machine.factor if machine.emulates else None,
        profile_s=config.train.profile_s,
    )
    return TrainerProcess(settings), ""


def _inference(
    config: AgentConfig, base: Path, facts: MachineFacts, cache: ProfileCache
) -> InferenceProfiler:
    return InferenceProfiler(
        facts,
        cache=cache,
        samples=samples_of(config, base),
        installed=partial(read_current, base / config.folder / SLOTS_FOLDER),
        export=config.infer.profile == "all",
    )


def samples_of(config: AgentConfig, base: Path) -> TrialSamples | None:
    """Return where the device's samples are, None where it has none to train on."""
    train = config.train
    if train is None:
        return None
    return TrialSamples(base / train.data, train.reader, train.reader_options)


def _verifier(config: AgentConfig) -> Verifier:
    try:
        keys = [parse_public_key(line) for line in config.trusted_keys]
        return Verifier.trusting(keys, config.fleet, config.device)
    except ValueError as error:
        raise ConfigError(f"trusted_keys: {error}") from error


def next_session(path: Path) -> int:
    """Return the number of this start, one above the last, and keep it.

    Without a readable file (a device set up anew, a damaged disk) it starts from the clock, which
    is above any counted number: the server takes a lower one for a message of the past.
    """
    try:
        last = int(json.loads(path.read_bytes())["session"])
    except FileNotFoundError:
        last = int(time.time())
    except (ValueError, KeyError, TypeError) as error:
        last = int(time.time())
        log.warning("%s is unreadable (%s): going on from %d", path, error, last)
    write_atomically(path, json.dumps({"session": last + 1}).encode())
    return last + 1


def main(config: AgentConfig, base: Path) -> None:
    """Run the event loop."""
    asyncio.run(run_agent(config, base))
