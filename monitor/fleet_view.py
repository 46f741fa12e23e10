"""The state of the fleet as an operator sees it, folded from the journal and from telemetry. Pure.

::

    view = FleetView()
    for record in reader.records():
        fold(view, record.at, record.event)  # of monitor.folding
    view.hear("pump-7", received_at, telemetry)

The page, the terminal and the metrics are made from one and the same view. It can be rebuilt from
the journal at any time, and holds nothing that is not in there.

A round is *eligible* for a device that takes part in the fleet, can train, is neither suspended nor
retired, and that the operator's limits do not keep away. Whether it is there, and strong enough, is
what participation is about: such rounds count as missed. Rounds for which others were drawn do not
count. *Participation* is the share of a device's eligible rounds whose aggregate holds its update.
"""

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from broker.messages import Release, Telemetry
from monitor.device_view import DeviceView, Moment, clipped
from monitor.drift import ConfidenceDrift
from monitor.histogram import Histogram
from monitor.round_view import RoundView
from monitor.version_history import VersionHistory

if TYPE_CHECKING:
    from journal import events as e

KEPT_ROUNDS = 200
"""Rounds that are kept task by task; of older ones only what devices and totals say of them."""
KEPT_TASKS = 100_000
"""Of a large fleet fewer rounds are kept: so many tasks in all, but at least `LEAST_ROUNDS`."""
LEAST_ROUNDS = 20
INCIDENTS = 500


class FleetView:
    """Everything that an operator can see. Times are the server's clock.

    Attributes:
        fleet, model, software: of the campaign; "" before it began.
        settings: the campaign's, as plain data; started_at: when it began.
        phase: what the server does, in a word; phase_since: from when on.
        epoch: how often the server started.
        devices: name -> what is known of it.
        keep_from: rounds that were opened then or later are all kept.
        rounds: number -> round, the last `KEPT_ROUNDS`.
        opened, closed, counted: rounds so far, those of them that are over, and those of them that
            were aggregated. closed_at, counted_at: when the last one was.
        missed: rounds that closed with no aggregate since the last one that had one.
        round_s, update_s: how long rounds took, and how long devices took for accepted updates.
        scores: (round, server time, score over width) of every measured round.
        releases: digest -> the release and when it was made.
        allocations: (server time, allocation), all of them.
        paused: why no further round opens, or "".
        stopped: why training is over, or ""; held: why no round opens for the moment; withheld: why
            the newest weights were not released.
        incidents: what went wrong with no device to blame, and refused messages; troubles: kind of
            an incident -> how often.
        actions: what operators did.
        notes: of the whole fleet.
        sent, received: bytes that all devices moved, both only ever grow.
        drops: reason -> how often an eligible device missed an aggregate for it.
        presence_changes: (state, cause) -> how often.
        events: how many were folded; at: the latest server time of them; last_at: of the last.
        sizes: training width -> bytes that a device fetches for it.
        versions: what the devices run, over time.
        touched: names of devices that may look different since somebody last emptied it.
    """

    def __init__(self, *, keep_from: float = math.inf) -> None:
        """Know nothing yet.

        Args:
            keep_from: rounds that were opened at this server time or later are all kept.
        """
        self.keep_from = keep_from
        self.fleet = self.model = self.software = ""
        self.settings: dict[str, Any] = {}
        self.started_at: float | None = None
        self.phase, self.phase_since = "empty", 0.0
        self.epoch = 0
        self.devices: dict[str, DeviceView] = {}
        self.rounds: dict[int, RoundView] = {}
        self.opened = self.closed = self.counted = self.missed = 0
        self.closed_at: float | None = None
        self.counted_at: float | None = None
        self.round_s, self.update_s = Histogram(), Histogram()
        self.scores: list[tuple[int, float, tuple[e.CurvePoint, ...]]] = []
        self.releases: dict[str, tuple[Release, float]] = {}
        self.allocations: list[tuple[float, e.RewardsAllocated]] = []
        self.paused = self.stopped = self.held = ""
        self.withheld = ""
        self.incidents: deque[Moment] = deque(maxlen=INCIDENTS)
        self.troubles: Counter[str] = Counter()
        self.actions: deque[tuple[float, e.OperatorActed]] = deque(maxlen=INCIDENTS)
        self.notes: deque[Moment] = deque(maxlen=INCIDENTS)
        self.sent = self.received = 0
        self.drops: dict[str, int] = {}
        self.presence_changes: dict[tuple[str, str], int] = {}
        self.events = 0
        self.at = self.last_at = 0.0
        self.sizes: dict[float, int] = {}
        self.versions = VersionHistory()
        self.touched: set[str] = set()

    @property
    def current(self) -> RoundView | None:
        """The round that was opened last."""
        return self.rounds[max(self.rounds)] if self.rounds else None

    @property
    def score(self) -> float | None:
        """Score of the widest width that was measured last."""
        return self.scores[-1][2][-1].score if self.scores and self.scores[-1][2] else None

    def hear(self, name: str, at: float, said: Telemetry) -> None:
        """Take in a device's telemetry.

        Args:
            name: of the device.
            at: server time at which it came.
            said: the message.
        """
        device = self.device(name)
        device.telemetry, device.telemetry_at = said, at
        device.inferences += max(0, said.inferences)
        if said.inferences > 0:
            device.inferred_at = at
            device.worked(at, "inference")
        if said.running and said.confidence:
            watched = device.drift.get(said.running)
            if watched is None:  # one model at a time, so that a long life does not fill the memory
                watched = ConfidenceDrift.empty(len(said.confidence))
                device.drift = {said.running: watched}
            watched.add(said.confidence)

    def device(self, name: str) -> DeviceView:
        """Return a device to change; one that was never heard of is new."""
        self.touched.add(name)
        found = self.devices.get(name)
        if found is None:
            labels = self.settings.get("labels", {}).get(name, {})
            found = self.devices[name] = DeviceView(name, dict(labels))
        return found

    def forget_rounds(self) -> None:
        """Let go of the oldest rounds that need not be kept."""
        tasks = sum(len(one.tasks) for one in self.rounds.values())
        while len(self.rounds) > KEPT_ROUNDS or (
            tasks > KEPT_TASKS and len(self.rounds) > LEAST_ROUNDS
        ):
            oldest = self.rounds[min(self.rounds)]
            if oldest.opened_at >= self.keep_from:
                return
            tasks -= len(oldest.tasks)
            del self.rounds[oldest.number]

    def enter(self, at: float, phase: str) -> None:
        """Note what the server does from now on."""
        self.phase, self.phase_since = phase, at

    def incident(self, at: float, kind: str, text: str) -> None:
        """Note what went wrong with no device to blame."""
        self.incidents.append(Moment(at, kind, clipped(text)))
        self.troubles[kind] += 1
