"""``--crash``: kill the server in the middle of a round, start it again, check what was lost."""

from collections.abc import Callable, Sequence

from coordinator.fleet import Campaign, Phase
from journal import events as e
from journal.chain import Record

CRASH_ROUND = 3


class CrashTest:
    """Waits for the middle of a round, crashes the server once, then judges from the journal."""

    def __init__(self, kill: Callable[[], None], restart: Callable[[], None]) -> None:
        """Take the two acts."""
        self._kill = kill
        self._restart = restart
        self._before: list[Record] = []
        self._round = 0
        self.message = ""

    def step(self, state: Campaign, records: Sequence[Record]) -> bool:
        """Crash and restart the server if the moment has come; returns whether it did."""
        current = state.round
        if self._before or state.phase is not Phase.TRAINING or current is None:
            return False
        accepted = [name for name, task in current.tasks.items() if task.update]
        enough = max(1, len(current.tasks) // 2)
        if current.number < CRASH_ROUND or not enough <= len(accepted) < len(current.tasks):
            return False
        self._kill()
        self._before, self._round = list(records), current.number
        self._restart()
        self.message = (
            f"CRASH: killed the server (SIGKILL) in round {current.number} with"
            f" {len(accepted)} of {len(current.tasks)} updates acknowledged; started it again"
        )
        return True

    def verdict(self, records: Sequence[Record]) -> str:
        """Return in one sentence whether the same round went on and nothing was lost."""
        if not self._before:
            return "CRASH: no round was caught in its middle; run again with more devices"
        if list(records[: len(self._before)]) != self._before:
            return "CRASH: FAILED: the journal changed what it had acknowledged"
        acknowledged = {
            r.event.device
            for r in self._before
            if isinstance(r.event, e.UpdateAccepted) and r.event.round == self._round
        }
        aggregated: set[str] = set()
        openings = 0
        for record in records:
            if isinstance(record.event, e.RoundOpened) and record.event.round == self._round:
                openings += 1
            if isinstance(record.event, e.RoundClosed) and record.event.round == self._round:
                aggregated = set(record.event.aggregated)
        if openings != 1 or not acknowledged <= aggregated:
            return f"CRASH: FAILED: round {self._round} lost {sorted(acknowledged - aggregated)}"
        return (
            f"CRASH survived: round {self._round} went on after the restart; all"
            f" {len(acknowledged)} updates acknowledged before the crash were aggregated,"
            f" {len(aggregated)} in all; no journal entry was lost or changed"
        )
