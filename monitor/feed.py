"""Follow a server's journal into a fleet view, without ever writing to it.

The journal may belong to a running server, to one that is away, or be a copy. What is intact is
shown; a loss, a broken chain or an event of a newer version is said and never hidden.
"""

import contextlib
import math
from pathlib import Path

from journal.chain import EMPTY, Head, verify
from journal.errors import ChainError, EventError, JournalDamagedError, JournalError
from journal.reader import TELEMETRY_BATCH, TELEMETRY_START, JournalReader, TelemetryMark
from monitor.fleet_view import FleetView
from monitor.folding import fold


class JournalFeed:
    """Reads what is new, each time it is asked.

    Attributes:
        view: what was read so far.
        damage: what is wrong with the journal, in one sentence, or "".
        unknown: events that this version of the software does not know.
    """

    def __init__(
        self,
        folder: Path,
        *,
        telemetry_from: float | None = None,
        until: float = math.inf,
        view: FleetView | None = None,
    ) -> None:
        """Remember the folder; nothing is read yet.

        Args:
            folder: of the journal.
            telemetry_from: server time of the oldest telemetry that is wanted; None = all kept.
            until: what happened at this server time or later is checked, and not taken in.
            view: that is filled; None = a new one.
        """
        self._folder = folder
        self._reader = JournalReader(folder)
        self._head: Head = EMPTY
        self._mark: TelemetryMark = TELEMETRY_START
        self._telemetry_from = -math.inf if telemetry_from is None else telemetry_from
        self._until = until
        self.view = FleetView() if view is None else view
        self.damage = ""
        self.unknown = 0

    @property
    def head(self) -> Head:
        """The last record that was read and found to continue the chain."""
        return self._head

    def has_writer(self) -> bool | None:
        """Tell whether a server writes this journal now; None where nobody can tell."""
        return self._reader.has_writer()

    def refresh(self) -> int:
        """Take in what is new and return how many events and messages that were.

        A journal that is not there yet, or that cannot be read for the moment, is an error; damage
        in it is none, but stands in `damage`.

        Raises:
            JournalError: there is none, it is of another version, or cannot be read for now.
        """
        found = 0
        if not self.damage:
            found += self._events()
        return found + self._telemetry()

    def _events(self) -> int:
        found = 0
        try:
            found = self._records()
            noted = self._reader.head()
            if noted.index > self._head.index:  # the writer went on meanwhile, or the end is gone
                more = self._records()
                found += more
                if not more:
                    raise ChainError(self._head.count, f"missing, and so are all to {noted.index}")
            if noted.index < self._head.index:
                self._damaged(
                    f"the journal ends at record {noted.index} and was known to reach"
                    f" {self._head.index}: it was replaced or cut off"
                )
        except (ChainError, JournalDamagedError) as error:
            self._reader = JournalReader(self._folder, salvage=True)
            found += self._rest()
            self._damaged(error)
        return found

    def _rest(self) -> int:
        """Take in what is left before the damage, where the file as a whole was refused."""
        before = self._head.count
        with contextlib.suppress(JournalError):
            self._records()
        return self._head.count - before

    def _records(self) -> int:
        found = 0
        for record in self._reader.records(self._head.count):
            self._head = verify([record], after=self._head)
            found += 1
            if record.at >= self._until:
                continue
            try:
                event = record.event
            except EventError as error:
                self.unknown += 1
                self.view.incident(record.at, "journal", str(error))
                continue
            fold(self.view, record.at, event)
        return found

    def _damaged(self, error: JournalError | str) -> None:
        self.damage = (
            f"{error}; what is shown ends with record {self._head.index}"
            if self._head.count
            else str(error)
        )
        self.view.incident(self.view.at, "journal", self.damage)

    def _telemetry(self) -> int:
        found, full = 0, True
        while full:
            try:
                heard, self._mark = self._reader.telemetry_since(self._mark, self._telemetry_from)
            except JournalDamagedError as error:
                self.damage = self.damage or str(error)
                return found
            for one in (said for said in heard if said.at < self._until):
                self.view.hear(one.device, one.at, one.said)
            found += len(heard)
            full = len(heard) == TELEMETRY_BATCH
        return found
