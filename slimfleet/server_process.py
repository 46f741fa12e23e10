"""The server process: wires the coordinator to a real broker, a real journal and a real clock."""

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from broker.codec import encode
from broker.link import Will
from broker.messages import LinkStatus, ServerState
from broker.mqtt import MqttLink
from broker.topics import ServerTells, ServerTopic, topic_for
from coordinator.bench import Bench
from coordinator.jobs import JobError, ProcessJobs
from coordinator.server import Coordinator, Desk
from journal.blobs import BlobFolder
from journal.disk import make_folder
from journal.store import Journal
from slimfleet import __version__
from slimfleet.config import ConfigError, ServerConfig
from slimfleet.forward_clock import ForwardClock
from slimfleet.keys import load_identity
from slimfleet.monitor_child import child_kept
from slimfleet.stopping import stop_on_signal
from slimmable.spec import WidthSpec

log = logging.getLogger(__name__)


async def run_server(config: ServerConfig, base: Path, page: Sequence[str] | None = None) -> None:
    """Serve a fleet until a signal asks to stop.

    Args:
        config: from ``server.toml``.
        base: folder of that file; its paths are relative to it.
        page: command that serves the page beside it, or None.

    Raises:
        ConfigError: the validation data or the model cannot be loaded.
        JournalError: another server uses the folder, or the journal is damaged.
    """
    folder = make_folder(base / config.folder)
    identity = load_identity(folder, os.urandom)
    settings = config.campaign
    bench = Bench(
        model=settings.model,
        options=settings.options,
        validation=base / config.validation if config.validation else None,
        reader=config.reader,
        reader_options=config.reader_options,
        blobs=folder / "blobs",
        templates=folder / "templates",
        grid=settings.widths,
        ladder=settings.rewards.ladder,
        seed=settings.seed,
        fleet=settings.fleet,
        distillation=settings.aggregation.distillation,
        pool=base / config.pool if config.pool else None,
        pool_reader=config.pool_reader,
        pool_options=config.pool_options,
        exchange=settings.exchange,
        public_samples=settings.knowledge.samples,
    )
    with Journal.open(folder / "journal") as journal:
        blobs = BlobFolder(folder / "blobs")
        jobs = ProcessJobs(config.measuring_threads)
        try:
            spec = WidthSpec.from_json(await jobs.describe(bench))
        except JobError as error:
            jobs.close()
            what = " or ".join(
                ["model"]
                + ["validation data"] * bool(config.validation)
                + ["pool"] * bool(config.pool)
            )
            raise ConfigError(f"{what} cannot be loaded: {error}") from error
        link = MqttLink(
            config.broker.address(),
            config.name,
            config.broker.credentials(base, config.name),
            _will(settings.fleet),
            random.Random(os.urandom(16)),
            protocol=config.broker.protocol,
        )
        coordinator = Coordinator(
            settings,
            spec,
            bench,
            identity,
            Desk(link, journal, blobs, jobs, ForwardClock(), folder),
            software=f"slimfleet {__version__}",
            audit=config.audit,
        )
        if coordinator.replayed:
            log.info("replayed %d events: %s", coordinator.replayed, coordinator.state.phase)
        async with stop_on_signal(coordinator.stop), _beside(page):
            await coordinator.run()


def _beside(page: Sequence[str] | None) -> AbstractAsyncContextManager[object]:
    return contextlib.nullcontext() if page is None else child_kept(page)


def _will(fleet: str) -> Will:
    offline = ServerState(status=LinkStatus.OFFLINE)
    return Will(topic_for(fleet, ServerTopic(ServerTells.STATE)), encode(offline))


def public_key_line(config: ServerConfig, base: Path) -> str:
    """Return the server's public key as devices trust it, making the keys if needed."""
    from slimfleet.keys import public_key

    return public_key(load_identity(make_folder(base / config.folder), os.urandom))


def main(config: ServerConfig, base: Path, page: Sequence[str] | None = None) -> None:
    """Run the event loop."""
    asyncio.run(run_server(config, base, page))
