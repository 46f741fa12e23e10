"""Follow a campaign from outside: replay the journal of a running server, read-only."""

from pathlib import Path

from coordinator.evolution import evolve
from coordinator.fleet import Campaign
from journal.chain import Record
from journal.errors import JournalMissingError
from journal.reader import JournalReader


class CampaignWatcher:
    """The state of a campaign, kept up to date from its journal."""

    def __init__(self, journal: Path) -> None:
        """Watch the journal in this folder; it may not exist yet."""
        self._reader = JournalReader(journal)
        self.state = Campaign()
        self.records: list[Record] = []

    def refresh(self) -> list[Record]:
        """Read what is new and return it."""
        try:
            new = list(self._reader.records(len(self.records)))
        except JournalMissingError:
            return []  # the server has not made it yet
        for record in new:
            self.state = evolve(self.state, record.event, record.at)
        self.records += new
        return new
