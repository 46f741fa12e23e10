"""Which model how many devices said they run, over time. Pure, and bounded."""

from collections import Counter

Running = tuple[str, bool]
"""Digest of a model, "" for none, and whether it is what the device was last sent."""
POINTS = 400


class VersionHistory:
    """Counts of devices by what they run; the past gets coarser as it gets longer.

    Attributes:
        points: (server time, counts from then on), oldest first.
        step_s: of the points that lie closer together only the last is kept.
    """

    def __init__(self, limit: int = POINTS) -> None:
        self.points: list[tuple[float, dict[Running, int]]] = []
        self.step_s = 1.0
        self._limit = limit
        self._of: dict[str, Running] = {}
        self._counts: Counter[Running] = Counter()

    def note(self, at: float, device: str, running: Running | None) -> None:
        """Note what a device runs from now on.

        Args:
            at: server time; never before that of the last call.
            device: its name.
            running: None = it does not count any more.
        """
        before = self._of.get(device)
        if before == running:
            return
        if before is not None:
            self._counts[before] -= 1
        if running is None:
            del self._of[device]
        else:
            self._of[device] = running
            self._counts[running] += 1
        self._counts += Counter()  # lets go of what nobody runs
        self._add(at)

    def _add(self, at: float) -> None:
        point = (at, dict(self._counts))
        same = self.points and at == self.points[-1][0]
        if same or (len(self.points) > 1 and at - self.points[-2][0] < self.step_s):
            self.points[-1] = point
        else:
            self.points.append(point)
        while len(self.points) > self._limit:
            self.step_s *= 2
            self._thin()

    def _thin(self) -> None:
        """Keep the first and the last point, and of those between the last of each step."""
        first, *between = self.points
        last_of: dict[int, tuple[float, dict[Running, int]]] = {}
        for point in between[:-1]:
            last_of[int((point[0] - first[0]) // self.step_s)] = point
        self.points = [first, *last_of.values(), *between[-1:]]
