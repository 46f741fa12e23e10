"""Which of the coordinator's publications are new. Pure.

`coordinator.publications` says what must stand on every topic. To work that out for the whole fleet
after each message would cost the square of the number of devices, so what one device did is
followed up for that device alone; everything else is followed up for all.

The summary is about the whole fleet whatever happened. It is told at once when the phase or the
round changes, and otherwise at most once a tick.
"""

from collections.abc import Iterable, Mapping, Sequence

from broker import messages as m
from broker.topics import DownTopic, ServerSays, ServerTells, ServerTopic, Topic
from coordinator.duties import Share, Shared
from coordinator.fleet import Campaign, Phase
from coordinator.fleet_summary import summary
from coordinator.publications import Sign, device_publications, publications
from journal import events as e

SUMMARY = ServerTopic(ServerTells.SUMMARY)
# Recorded; nobody is told, and nothing has to be done.
SAYS_NOTHING = frozenset({e.MessageRefused, e.TaskProgressed})
# What happens to one device changes nothing that is said to another one.
OF_ONE_DEVICE = (
    e.UpdateAccepted,
    e.DeviceDropped,
    e.PresenceChanged,
    e.DeviceBorn,
    e.DeviceProfiled,
    e.WidthChosen,
    e.UpdateRefused,
    e.DeploymentIssued,
    e.InstallReported,
    e.ContradictionReported,
    e.ContradictionSettled,
)


def tells(events: Sequence[e.AnyEvent]) -> bool:
    """Return whether anything may have to be said or done after these events."""
    return any(type(event) not in SAYS_NOTHING for event in events)


class Notices:
    """Remembers what was said last on every topic.

    Attributes:
        compared: how many messages were made and compared with the last one on their topic.
    """

    def __init__(self, sign: Sign) -> None:
        """Start with nothing said.

        Args:
            sign: see `coordinator.publications.publications`.
        """
        self._sign = sign
        self._said: dict[Topic, m.Message | None] = {}
        self._stale: set[str] | None = None  # devices; None = all
        self._summarised: Campaign | None = None
        self._summary_due = True
        self.compared = 0

    def happened(self, events: Sequence[e.AnyEvent]) -> None:
        """Note what may have to be said differently after these events."""
        for event in events:
            if type(event) in SAYS_NOTHING:
                continue
            device = ""
            if isinstance(event, (*OF_ONE_DEVICE, e.BlobShared)):
                device = event.device
            if not device:
                self.anything_changed()
            elif self._stale is not None:
                self._stale.add(device)

    def anything_changed(self) -> None:
        """Note that anything may have to be said differently."""
        self._stale = None

    def forgotten(self) -> None:
        """Note that the broker may have lost all that was said."""
        self._said.clear()
        self.anything_changed()

    def tick(self, state: Campaign) -> bool:
        """Let the summary be told again; returns whether there is something to tell."""
        self._summary_due = state is not self._summarised
        return self._summary_due

    def due(self, state: Campaign, shares: Mapping[Shared, Share]) -> dict[Topic, m.Message | None]:
        """Return what has to be said now, and take it as said.

        Args:
            state: after all events that were noted.
            shares: see `coordinator.publications.publications`.
        """
        stale, self._stale = self._stale, set()
        if stale is None:
            wanted = publications(state, shares, self._sign)
            said: Iterable[Topic] = self._said
        else:
            wanted = {}
            for device in stale:
                wanted |= device_publications(state, device, shares, self._sign)
            said = [DownTopic(device, channel) for device in stale for channel in ServerSays]
            if state.settings and (self._summary_due or self._turned(state)):
                wanted[SUMMARY] = summary(state, state.settings)
        wanted |= {topic: None for topic in said if topic in self._said and topic not in wanted}
        if SUMMARY in wanted:
            self._summarised, self._summary_due = state, False
        self.compared += len(wanted)
        changed = {
            topic: message
            for topic, message in wanted.items()
            if topic not in self._said or self._said[topic] != message
        }
        self._said |= changed
        return changed

    def _turned(self, state: Campaign) -> bool:
        """Whether the phase or the round is another one than in the last summary."""
        last = self._summarised
        return last is None or _place(last) != _place(state)


def _place(state: Campaign) -> tuple[Phase, int]:
    return state.phase, state.round.number if state.round else 0
