"""A broker in memory, for tests and simulated fleets: no clock, no random, no threads.

It behaves like the real ones where a protocol could notice: retained messages, wills, QoS 1 (a lost
acknowledgement means that the message is sent again), permissions enforced by delivery and without
a word to the sender, and the takeover of a session by the next connection of the same user. Each
step is one turn of the event loop, so that a run is the same every time.

Faults for tests: `MemoryBroker.cut` and `heal` a user's link, `crash` and `restart` the broker,
`lose_acknowledgements`, and `MemoryBroker.fault`, which may drop, repeat, hold or reorder what is
delivered.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from broker.connection import Connection, ConnectionOwner, Publication
from broker.filter_tree import FilterTree
from broker.link import Received, Will
from broker.outgoing import BULK_WINDOW, CONTROL_WINDOW
from broker.permissions import Permissions, allows
from broker.reconnecting import ReconnectingLink

Fault = Callable[[str, Received], Iterable[Received]]
"""Gets the receiving user and a delivery; returns what is delivered instead."""


class MemoryBroker:
    """Routes between the links of one event loop.

    Args:
        permissions: what each user may do; everybody may do everything where None.
    """

    def __init__(self, permissions: Callable[[str], Permissions] | None = None) -> None:
        self._permissions = permissions
        self._sessions: dict[str, MemoryConnection] = {}
        self._subscriptions: FilterTree[MemoryConnection] = FilterTree()
        self._admitted = count()
        self._retained: dict[str, bytes] = {}
        self._cut: set[str] = set()
        self._crashed = False
        self._changed: dict[str, asyncio.Event] = {}
        self._lost_acknowledgements: dict[str, int] = {}
        self.fault: Fault | None = None
        self.published = 0

    # --- for tests --------------------------------------------------------------------------------

    @property
    def retained(self) -> dict[str, bytes]:
        """A copy of what the broker keeps, in the order of first publication."""
        return dict(self._retained)

    def cut(self, user: str) -> None:
        """Cut a user's connection (the will is published) and let it not in again until `heal`."""
        self._cut.add(user)
        if (session := self._sessions.get(user)) is not None:
            session.close("the network is cut", will=True)

    def heal(self, user: str) -> None:
        """Let a user in again; its link (also one whose session was taken) connects at once."""
        self._cut.discard(user)
        self.wake(user)

    def crash(self) -> None:
        """Kill the broker: every connection ends, no will is published, retained messages stay."""
        self._crashed = True
        for session in list(self._sessions.values()):
            session.close("the broker is gone", will=False)

    def restart(self) -> None:
        """Start a crashed broker again; every link connects at once."""
        self._crashed = False
        for user in list(self._changed):
            self.wake(user)

    def lose_acknowledgements(self, user: str, number: int = 1) -> None:
        """Route the user's next publishes but cut the link instead of acknowledging.

        The link connects again at once and sends the messages again: the receiver sees them twice.
        """
        self._lost_acknowledgements[user] = number

    def deliver(self, user: str, event: Received) -> None:
        """Deliver a message past all rules, for example one that `fault` held back."""
        if (session := self._sessions.get(user)) is not None:
            session.owner.on_received(session, event)

    # --- for connections --------------------------------------------------------------------------

    def refuses(self, user: str) -> str:
        """Return why a user is not let in now, or an empty text."""
        if self._crashed:
            return "the broker is gone"
        return "the network is cut" if user in self._cut else ""

    def admit(self, connection: "MemoryConnection") -> None:
        """Make this the one session of its user; an older one is thrown out."""
        if (older := self._sessions.get(connection.user)) is not None:
            older.close("another connection with the same client id took the session", will=True)
        self._sessions[connection.user] = connection
        connection.number = next(self._admitted)

    def dismiss(self, connection: "MemoryConnection") -> None:
        """Forget a session that ended."""
        if self._sessions.get(connection.user) is connection:
            del self._sessions[connection.user]
        self.unsubscribe(connection, tuple(connection.filters))

    def acknowledges(self, user: str) -> bool:
        """Return whether the user's publish is acknowledged; false cuts the link."""
        left = self._lost_acknowledgements.get(user, 0)
        if left:
            self._lost_acknowledgements[user] = left - 1
        return not left

    def route(self, user: str, topic: str, payload: bytes, *, retain: bool) -> None:
        """Take a publish: keep it where asked, deliver it to whoever may read it."""
        if self._permissions is not None and not self._permissions(user).may_publish(topic):
            return
        self.published += 1
        if retain and payload:
            self._retained[topic] = payload
        elif retain:
            self._retained.pop(topic, None)
        listeners = self._subscriptions.subscribers(topic)
        for session in sorted(listeners, key=lambda session: session.number):
            self._offer(session, Received(topic, payload, retained=False))

    def subscribe(self, session: "MemoryConnection", filters: Sequence[str]) -> None:
        """Add filters and deliver the retained messages that match them."""
        for filter_ in filters:
            session.filters[filter_] = None
            self._subscriptions.add(filter_, session)
        for topic, payload in self._retained_on(filters):
            self._offer(session, Received(topic, payload, retained=True))

    def unsubscribe(self, session: "MemoryConnection", filters: Sequence[str]) -> None:
        """Take filters back."""
        for filter_ in filters:
            session.filters.pop(filter_, None)
            self._subscriptions.remove(filter_, session)

    def _retained_on(self, filters: Sequence[str]) -> list[tuple[str, bytes]]:
        if any("+" in filter_ or "#" in filter_ for filter_ in filters):
            return [one for one in self._retained.items() if allows(tuple(filters), one[0])]
        topics = dict.fromkeys(filters)  # one message each, however often it is asked for
        return [(topic, self._retained[topic]) for topic in topics if topic in self._retained]

    def changed(self, user: str) -> asyncio.Event:
        """Return the event that is set when the user may be let in again."""
        return self._changed.setdefault(user, asyncio.Event())

    def wake(self, user: str) -> None:
        """Let the user's link try again."""
        self.changed(user).set()

    def _offer(self, session: "MemoryConnection", event: Received) -> None:
        permissions = self._permissions(session.user) if self._permissions is not None else None
        if permissions is not None and not permissions.may_read(event.topic):
            return
        events = (event,) if self.fault is None else self.fault(session.user, event)
        for each in events:
            session.owner.on_received(session, each)


class MemoryConnection(Connection):
    """One session at a `MemoryBroker`."""

    def __init__(
        self, owner: ConnectionOwner, broker: MemoryBroker, user: str, will: Will | None
    ) -> None:
        super().__init__(owner)
        self._broker = broker
        self._will = will
        self._handles = count(1)
        self.user = user
        self.number = 0
        self.filters: dict[str, None] = {}

    def open(self) -> None:
        """Connect in the next turn of the event loop."""
        self._broker.changed(self.user).clear()
        self.loop.call_soon(self._enter)

    def goodbye(self) -> None:
        """End the session without the will."""
        self.close("goodbye", will=False)

    def cut(self) -> None:
        """End the session; the will is published."""
        self.close("cut", will=True)

    def close(self, reason: str, *, will: bool) -> None:
        """End the session."""
        if self.ended.is_set():
            return
        admitted = self.accepted.is_set()
        self.reason = reason
        self.ended.set()
        self._broker.dismiss(self)
        if will and admitted and self._will is not None:
            self._broker.route(
                self.user, self._will.topic, self._will.payload, retain=self._will.retain
            )

    def publish(self, item: Publication) -> int:
        """Route in the next turn of the event loop, then acknowledge."""
        handle = next(self._handles)
        self.loop.call_soon(self._publish, handle, item)
        return handle

    def subscribe(self, filters: Sequence[str]) -> int:
        """Add filters in the next turn; retained messages and the answer come with it."""
        handle = next(self._handles)
        self.loop.call_soon(self._subscribed, handle, filters)
        return handle

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take filters back."""
        self._broker.unsubscribe(self, filters)

    def _enter(self) -> None:
        if self.ended.is_set():
            return
        if reason := self._broker.refuses(self.user):
            self.close(reason, will=False)
            return
        self._broker.admit(self)
        self.accept(False)  # noqa: FBT003 - a flag of the protocol

    def _publish(self, handle: int, item: Publication) -> None:
        if self.ended.is_set():
            return
        self._broker.route(self.user, item.topic, item.payload, retain=item.retain)
        if self.ended.is_set():  # its own message ended it, through a receiver
            return
        if self._broker.acknowledges(self.user):
            self.owner.on_acknowledged(self, handle, "")
        else:
            self.close("the acknowledgement was lost", will=True)
            self._broker.wake(self.user)

    def _subscribed(self, handle: int, filters: Sequence[str]) -> None:
        if not self.ended.is_set():
            self._broker.subscribe(self, filters)
            self.owner.on_subscribed(self, handle, [""] * len(filters))


class MemoryLink(ReconnectingLink):
    """A `broker.link.Link` to a `MemoryBroker`; the client id is the user.

    Args:
        broker: where to.
        user: who we are.
        will: published when the link is cut or its session taken over.
        control_window, bulk_window: publishes in flight at most.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        user: str,
        will: Will | None = None,
        *,
        control_window: int = CONTROL_WINDOW,
        bulk_window: int = BULK_WINDOW,
    ) -> None:
        super().__init__(user, "memory", control_window=control_window, bulk_window=bulk_window)
        self._memory = broker
        self._will = will

    def _connect(self) -> Connection:
        return MemoryConnection(self, self._memory, self._name, self._will)

    async def _pause(self) -> None:
        await self._memory.changed(self._name).wait()
