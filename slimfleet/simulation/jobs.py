"""The coordinator's slow jobs, called like functions: virtual time stands still meanwhile."""

import asyncio
from typing import Any

from coordinator.bench import (
    AssessJob,
    AssessResult,
    Bench,
    ExportJob,
    ExportResult,
    RoundResult,
    ScoreJob,
)
from coordinator.jobs import run_job

JOB_S = 0.1  # virtual


class InProcessJobs:
    """`coordinator.jobs.JobRunner` in this process.

    An error in a job ends the simulation: tried again, it would fail again.
    """

    def __init__(self, *, export: bool, threads: int = 1) -> None:
        """Prepare.

        Args:
            export: make ONNX files; otherwise every release is withheld.
            threads: that measure at a time. They change the time, nothing else.
        """
        self._exports = export
        self._threads = threads

    async def describe(self, bench: Bench) -> bytes:
        """See `coordinator.work.describe`."""
        spec: bytes = await self._work("describe", bench)
        return spec

    async def initialise(self, bench: Bench) -> tuple[str, float, str]:
        """See `coordinator.work.initialise`."""
        result: tuple[str, float, str] = await self._work("initialise", bench)
        return result

    async def score(self, bench: Bench, job: ScoreJob) -> RoundResult:
        """See `coordinator.work.score_round`."""
        result: RoundResult = await self._work("score_round", bench, job)
        return result

    async def assess(self, bench: Bench, job: AssessJob) -> AssessResult:
        """See `coordinator.work.assess`."""
        result: AssessResult = await self._work("assess", bench, job)
        return result

    async def export(self, bench: Bench, job: ExportJob) -> ExportResult:
        """See `coordinator.work.export_widths`."""
        if not self._exports:
            return ExportResult((), "this simulation exports no files")
        result: ExportResult = await self._work("export_widths", bench, job)
        return result

    def warm(self, bench: Bench) -> None:
        """Make no template ahead of time: nothing goes on meanwhile."""

    def close(self) -> None:
        """There is nothing to end."""

    async def _work(self, job: str, *arguments: object) -> Any:
        await asyncio.sleep(JOB_S)
        return run_job(self._threads, job, *arguments)
