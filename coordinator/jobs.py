"""Runs the coordinator's slow jobs in worker processes, so that the server always answers.

Two workers: one for rounds, one that prepares ONNX templates while devices train. Processes are
spawned, never forked, and end with their parent even if it is killed.
"""

import asyncio
import importlib
import logging
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from coordinator.bench import (
    AssessJob,
    AssessResult,
    Bench,
    ExportJob,
    ExportResult,
    RoundResult,
    ScoreJob,
)

log = logging.getLogger(__name__)


class JobError(Exception):
    """A job failed or its process died. The coordinator records it and tries again."""


class JobRunner(Protocol):
    """Runs jobs somewhere else."""

    async def describe(self, bench: Bench) -> bytes:
        """See `coordinator.work.describe`."""

    async def initialise(self, bench: Bench) -> tuple[str, float, str]:
        """See `coordinator.work.initialise`."""

    async def score(self, bench: Bench, job: ScoreJob) -> RoundResult:
        """See `coordinator.scoring.score_round`."""

    async def assess(self, bench: Bench, job: AssessJob) -> AssessResult:
        """See `coordinator.assessment.assess`."""

    async def export(self, bench: Bench, job: ExportJob) -> ExportResult:
        """See `coordinator.release_files.export_widths`."""

    def warm(self, bench: Bench) -> None:
        """Start making ONNX templates; nobody waits for it."""

    def close(self) -> None:
        """End the worker processes."""


class ProcessJobs:
    """Jobs in spawned processes."""

    def __init__(self, threads: int = 1) -> None:
        """Start no process yet; each starts with its first job.

        Args:
            threads: that measure at a time, each on a core of its own. They change how long a job
                takes, nothing else.
        """
        self._threads = threads
        self._pools: dict[str, ProcessPoolExecutor] = {}
        self._warming: asyncio.Task[None] | None = None

    async def describe(self, bench: Bench) -> bytes:
        """Run `coordinator.work.describe` in the rounds process."""
        spec: bytes = await self._run("rounds", "describe", bench)
        return spec

    async def initialise(self, bench: Bench) -> tuple[str, float, str]:
        """Run `coordinator.work.initialise` in the rounds process."""
        result: tuple[str, float, str] = await self._run("rounds", "initialise", bench)
        return result

    async def score(self, bench: Bench, job: ScoreJob) -> RoundResult:
        """Run `coordinator.scoring.score_round` in the rounds process."""
        result: RoundResult = await self._run("rounds", "score_round", bench, job)
        return result

    async def assess(self, bench: Bench, job: AssessJob) -> AssessResult:
        """Run `coordinator.assessment.assess` in the rounds process."""
        result: AssessResult = await self._run("rounds", "assess", bench, job)
        return result

    async def export(self, bench: Bench, job: ExportJob) -> ExportResult:
        """Wait for the templates, then run `coordinator.release_files.export_widths`."""
        if self._warming:
            await self._warming
        result: ExportResult = await self._run("exports", "export_widths", bench, job)
        return result

    def warm(self, bench: Bench) -> None:
        """Make templates in the exports process in the background."""
        if self._warming is None:
            self._warming = asyncio.create_task(self._warm(bench))

    async def _warm(self, bench: Bench) -> None:
        try:
            seconds = await self._run("exports", "warm_templates", bench)
        except JobError as error:
            log.warning("templates are made at export time instead: %s", error)
        else:
            log.info("ONNX templates ready after %.1f CPU s", seconds)

    async def _run(self, pool: str, job: str, *arguments: object) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._pool(pool), run_job, self._threads, job, *arguments
            )
        except BrokenProcessPool as error:
            broken = self._pools.pop(pool, None)
            if broken:  # two jobs of one pool fail together
                broken.shutdown(wait=False, cancel_futures=True)
            raise JobError(f"{job}: the worker process died ({error})") from error
        except Exception as error:
            raise JobError(f"{job}: {type(error).__name__}: {error}") from error

    def _pool(self, name: str) -> ProcessPoolExecutor:
        if name not in self._pools:
            self._pools[name] = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_end_with_parent,
            )
        return self._pools[name]

    def close(self) -> None:
        """Kill the workers: whatever they do is done again from the journal's state."""
        if self._warming:
            self._warming.cancel()
        for pool in self._pools.values():
            # The executor offers no way to end a running job before Python 3.14.
            for worker in list((pool._processes or {}).values()):  # noqa: SLF001
                worker.kill()
            pool.shutdown(wait=True, cancel_futures=True)


def run_job(threads: int, job: str, *arguments: object) -> Any:
    """Run one of `coordinator.work.JOBS`, imported here so that only workers load torch."""
    jobs = importlib.import_module("coordinator.work").JOBS
    with importlib.import_module("coordinator.measuring").in_threads(threads):
        return jobs[job](*arguments)


def _end_with_parent() -> None:
    """Leave when the parent is gone: a pool worker would wait for its next job for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
