"""A training process that need not time again what it timed before."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from edge_agent.profile_cache import ProfileCache
from edge_agent.trainer_process import TrainRequest
from edge_agent.trainer_protocol import Trained
from profiler.profile import Benchmark, MachineFacts
from profiler.remembered import Question, Remembered, outdated

log = logging.getLogger(__name__)


class Timed(Protocol):
    """What is needed of `edge_agent.trainer_process.TrainerProcess`."""

    async def profile(
        self, model: str, options: dict[str, Any], widths: Sequence[float], batch_size: int
    ) -> Benchmark:
        """Time training steps of each width."""

    async def train(self, request: TrainRequest, timeout_s: float) -> Trained:
        """Train one width."""

    async def close(self) -> None:
        """End the process."""


class RememberingTrainer:
    """`edge_agent.agent.TrainerHandle` that keeps its benchmarks on the disk.

    A kept one counts for the same model, runtimes and hardware, and only after its narrowest width
    was timed once more: that tells whether the load has changed.
    """

    def __init__(
        self,
        trainer: Timed,
        cache: ProfileCache,
        facts: MachineFacts,
        *,
        memory_budget: int = 0,
        emulated: str = "",
        fresh: bool = False,
    ) -> None:
        """Remember what ``trainer`` measures.

        Args:
            trainer: the one that measures and trains.
            cache: where benchmarks are kept.
            facts: of this machine.
            memory_budget: bytes that training may use; 0 = no limit.
            emulated: name of the emulated machine, or "".
            fresh: whether to measure whatever is remembered.
        """
        self._trainer = trainer
        self._cache = cache
        self._facts = facts
        self._memory_budget = memory_budget
        self._emulated = emulated
        self._fresh = fresh

    async def profile(
        self,
        model: str,
        options: dict[str, Any],
        widths: Sequence[float],
        batch_size: int,
        *,
        fresh: bool = False,
    ) -> Benchmark:
        """Return what each width costs, from memory where that still holds.

        Args:
            model: model id.
            options: keyword arguments of its function.
            widths: offered widths.
            batch_size: samples a step.
            fresh: whether to measure whatever is remembered.

        Raises:
            TrainingFailed: as `edge_agent.trainer_process.TrainerProcess.profile`.
        """
        question = Question(model, options, widths, batch_size, self._emulated)
        key = question.key(self._facts)
        known = None if self._fresh or fresh else self._cache.read(key, Remembered)
        if known is not None and known.usable(self._memory_budget):
            narrowest = (known.benchmark.costs[0].width,)
            again = await self._trainer.profile(model, options, narrowest, batch_size)
            why = outdated(known.benchmark, again)
            if not why:
                log.info("the profile of %s still holds", model)
                return known.within(self._memory_budget)
            log.info("timing every width of %s anew: %s", model, why)
        found = await self._trainer.profile(model, options, widths, batch_size)
        if found.costs:
            self._cache.keep(key, Remembered(found, self._memory_budget))
        return found

    async def train(self, request: TrainRequest, timeout_s: float) -> Trained:
        """Train one width.

        Raises:
            TrainingFailed: as `edge_agent.trainer_process.TrainerProcess.train`.
        """
        return await self._trainer.train(request, timeout_s)

    async def close(self) -> None:
        """End the process."""
        await self._trainer.close()
