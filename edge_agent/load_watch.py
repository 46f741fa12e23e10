"""Do a device's trainings take another time than they did? Then it is worth timing anew. Pure."""

from dataclasses import dataclass
from statistics import median

ROUNDS = 3  # one odd round says nothing
# Smaller changes the server follows by the rounds themselves, which tell more than a new profile.
CHANGED = 2.0


@dataclass(frozen=True)
class LoadWatch:
    """What the newest trainings took over what the profile says.

    Attributes:
        ratios: of the newest trainings.
        level: what is normal here, 0 = not known yet; not 1, as a round does more than steps.
    """

    ratios: tuple[float, ...] = ()
    level: float = 0.0

    def after(self, expected_s: float, took_s: float) -> "LoadWatch":
        """Return the watch after a training that took ``took_s`` instead of ``expected_s``."""
        if not (0 < expected_s < float("inf") and 0 < took_s < float("inf")):
            return self
        ratios = (*self.ratios, took_s / expected_s)[-ROUNDS:]
        level = self.level
        if not level and len(ratios) == ROUNDS:
            level = median(ratios)
        return LoadWatch(ratios, level)

    @property
    def changed(self) -> bool:
        """Whether the machine's load is another one than it was."""
        if not self.level or len(self.ratios) < ROUNDS:
            return False
        return not self.level / CHANGED <= median(self.ratios) <= self.level * CHANGED
