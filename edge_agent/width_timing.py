"""Time each width in the training process, and go on where a width ends that process. No torch.

A wheel that needs another processor ends it with an illegal instruction, memory that runs out with
a kill. Then what was measured is kept, the width is named with its reason, and the others are timed
in a new process: after too much memory only the narrower ones, as wider ones need more.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from edge_agent import trainer_protocol as protocol
from edge_agent.training_failure import OutOfMemory, ProcessDied, TrainingFailed, expect
from profiler.interpolation import completed
from profiler.profile import Benchmark, WidthCost

# Deaths of other causes than memory until the rest is given up: each new process imports torch,
# which takes a minute on a slow SD card, and what kills two widths most likely kills all.
MOST_DEATHS = 2


class Listener:
    """Hears the events of a command; knows the width that is being worked on."""

    width = 0.0

    def hear(self, event: protocol.Event) -> None:
        """Take note of one event."""


class _BenchmarkListener(Listener):
    def __init__(self) -> None:
        self.loaded: protocol.Loaded | None = None
        self.costs: list[WidthCost] = []

    def hear(self, event: protocol.Event) -> None:
        match event:
            case protocol.Loaded():
                self.loaded = event
            case protocol.WidthStarted(width=width):
                self.width = width
            case protocol.WidthTimed():
                self.costs.append(
                    WidthCost(event.width, event.step_s, event.peak_bytes, event.timed_steps)
                )


Exchange = Callable[[protocol.Command, float, Listener], Awaitable[protocol.Reply]]


async def time_widths(
    exchange: Exchange, command: protocol.ProfileCommand, timeout_s: float
) -> Benchmark:
    """Return what each width of the command costs; one that failed is a line in ``failures``.

    Args:
        exchange: sends a command to the training process, starting one where none runs.
        command: the widths, and the budgets of memory and time for all of them together.
        timeout_s: for the answer to one command; what was timed by then is returned.

    Raises:
        TrainingFailed: model or data cannot be loaded, or the process cannot start.
    """
    timing = _Timing(command)
    loop = asyncio.get_running_loop()
    started = loop.time()
    while timing.left:
        listener = _BenchmarkListener()
        spent = loop.time() - started
        try:
            reply = await exchange(timing.command(spent), timeout_s, listener)
            timing.failures += expect(protocol.Profiled, reply, listener.width).failures
            timing.keep(listener)
            break
        except TrainingFailed as error:
            timing.keep(listener)
            timing.failed(listener.width, error)
    return timing.benchmark()


class _Timing:
    """What is known so far, and what is still to be timed."""

    def __init__(self, command: protocol.ProfileCommand) -> None:
        self._command = command
        self._loaded: protocol.Loaded | None = None
        self._costs: dict[float, WidthCost] = {}
        self._deaths = 0
        self._lost: set[float] = set()
        self._passing = False
        self.left = sorted(set(command.widths))
        self.failures: list[str] = []

    def command(self, spent_s: float) -> protocol.ProfileCommand:
        """Return the order to time what is left, in the time that is left."""
        budget = self._command.time_budget_s
        return msgspec.structs.replace(
            self._command,
            widths=tuple(self.left),
            time_budget_s=max(0.1, budget - spent_s) if budget else 0.0,
        )

    def keep(self, listener: _BenchmarkListener) -> None:
        self._loaded = listener.loaded or self._loaded
        for cost in listener.costs:
            self._costs[cost.width] = cost
        self.left = [width for width in self.left if width not in self._costs]

    def failed(self, width: float, error: TrainingFailed) -> None:
        """Note why the process ended at ``width``, and what is still worth a try.

        Raises:
            TrainingFailed: nothing was measured, and it is not about one width.
        """
        died = isinstance(error, ProcessDied)
        killed = isinstance(error, ProcessDied) and error.by_memory
        memory = isinstance(error, OutOfMemory) or killed
        # Our own budget of memory and an illegal instruction will say the same the next time.
        self._passing |= killed or not (memory or died)
        if not width or not (memory or died):
            if not self._costs and not self.failures and not isinstance(error, OutOfMemory):
                raise error
            self.failures.append(str(error))
            self.left = []
            return
        self._lost.add(width)
        self.failures.append(
            str(error) if isinstance(error, OutOfMemory) else f"width {width:g}: {error}"
        )
        self.left = [one for one in self.left if one != width]
        if memory:
            self._give_up(
                [one for one in self.left if one > width], f"{width:g} needed too much memory"
            )
            return
        self._deaths += 1
        if self._deaths >= MOST_DEATHS:
            self._give_up(self.left, f"{self._deaths} widths ended the process")

    def _give_up(self, widths: list[float], why: str) -> None:
        self.failures += [f"width {width:g}: not tried, as {why}" for width in widths]
        self._lost.update(widths)
        self.left = [one for one in self.left if one not in widths]

    def benchmark(self) -> Benchmark:
        loaded = self._loaded or protocol.Loaded(spec_hash="", samples=0, resident_bytes=0)
        wanted = set(self._command.widths) - self._lost
        return Benchmark(
            model=self._command.model,
            spec_hash=loaded.spec_hash,
            batch_size=self._command.batch_size,
            samples=loaded.samples,
            costs=completed(list(self._costs.values()), wanted),
            failures=tuple(self.failures),
            baseline_bytes=loaded.resident_bytes,
            passing=self._passing,
        )
