"""What changed in the fleet since the last look, as server-sent events. Pure.

Each look is written once, whoever reads it: a reader that is behind by a few looks gets them one
after the other, one that is too far behind has to begin again with everything.

Format of the events: WHATWG HTML, section 9.2, "Server-sent events".
"""

from collections import deque
from collections.abc import Mapping

import msgspec

from monitor.device_data import Data, Seen, device_row
from monitor.fleet_data import overview
from monitor.fleet_view import FleetView

KEPT_LOOKS = 30
RECENT_MOMENTS = 20
"""Notes and incidents in the live overview; all of them stand in /api/overview."""


class LiveRows:
    """The rows as they were shown last, and the last changes of them.

    Attributes:
        number: of the last look; it grows by one with each that found something.
    """

    def __init__(self) -> None:
        self.number = 0
        self._overview: Data = {}
        self._rows: dict[str, Data] = {}
        self._changes: deque[tuple[int, bytes]] = deque(maxlen=KEPT_LOOKS)
        self._server: bool | None = None

    def look(self, view: FleetView, seen: Seen) -> bool:
        """Compare the view with what was shown last; return whether something changed.

        Only devices that were touched since are looked at, unless presence itself has to be judged
        anew because the server came or went.
        """
        names: list[str] = sorted(view.touched)
        if not self._rows or seen.server_online is not self._server:
            names = sorted(view.devices)
        view.touched.clear()
        self._server = seen.server_online
        changed = []
        for name in names:
            row = device_row(view.devices[name], view, seen)
            if difference := _difference(self._rows.get(name, {}), row):
                changed.append({"device": name, **difference})
                self._rows[name] = row
        now = live_overview(view, seen)
        difference = _difference(self._overview, now)
        self._overview = now
        if not changed and difference.keys() <= {"now"}:
            return False
        self.number += 1
        said = event("overview", {**difference, "now": seen.now})
        if changed:
            said += event("devices", changed)
        self._changes.append((self.number, said))
        return True

    def forget(self) -> None:
        """Let go of everything, for as long as nobody reads."""
        self._rows.clear()
        self._overview = {}
        self._changes.clear()

    def snapshot(self) -> bytes:
        """Return everything as it was at the last look, as one event."""
        return event("snapshot", {"overview": self._overview, "devices": list(self._rows.values())})

    def since(self, number: int) -> bytes | None:
        """Return the changes after a look, b"" where there are none, None where they are gone."""
        if number > self.number:
            return None
        if number < self.number and (not self._changes or self._changes[0][0] > number + 1):
            return None
        return b"".join(said for at, said in self._changes if at > number)


def live_overview(view: FleetView, seen: Seen) -> Data:
    """Return the fleet at a glance, with the last notes and incidents only."""
    found = overview(view, seen)
    for key in ("notes", "incidents"):
        found[key] = found[key][:RECENT_MOMENTS]
    return found


def event(kind: str, data: Data | list[Data]) -> bytes:
    """Return one server-sent event; JSON has no line breaks, so that one line of data will do."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(data))


def _difference(before: Mapping[str, object], now: Data) -> Data:
    return {key: value for key, value in now.items() if key not in before or before[key] != value}
