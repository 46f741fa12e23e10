"""What every link does, whatever carries it: connect again, subscribe again, send again, in order.

`broker.mqtt` and `broker.memory` only say how one connection is made; so a simulated fleet runs the
same retries and the same queue as a real one.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence

from broker.connection import Connection, Publication
from broker.errors import LinkError, SizeError
from broker.link import (
    PACKET_OVERHEAD,
    Connected,
    Disconnected,
    EventStream,
    LinkEvent,
    Received,
    check_publication,
)
from broker.outgoing import BULK_WINDOW, CONTROL_WINDOW, Outgoing

_LOG = logging.getLogger(__name__)
ANSWER_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 5.0
GOODBYE_TIMEOUT_S = 2.0
SUBSCRIBE_AT_ONCE = 100


class ReconnectingLink(ABC):
    """A `broker.link.Link` over a succession of connections.

    Args:
        name: who we are, for messages to people.
        broker: who the broker is, likewise.
        control_window, bulk_window: publishes in flight at most.
        second_look_s: ask for each filter once more after this time, if it is still wanted.
            nats-server can lose a retained message to a subscriber that arrives in the same
            moment: too late for the live copy, too early for the kept one. None asks once.
    """

    def __init__(
        self,
        name: str,
        broker: str,
        *,
        control_window: int = CONTROL_WINDOW,
        bulk_window: int = BULK_WINDOW,
        second_look_s: float | None = None,
    ) -> None:
        self._name = name
        self._second_look_s = second_look_s
        self._looks: set[asyncio.TimerHandle] = set()
        self._broker = broker
        self._events = EventStream()
        self._outgoing: Outgoing[Publication] = Outgoing(
            control_window=control_window, bulk_window=bulk_window
        )
        self._idle = asyncio.Event()
        self._in_flight: dict[int, Publication] = {}
        self._filters: dict[str, None] = {}
        self._subscribing: dict[int, tuple[Sequence[str], asyncio.Future[None]]] = {}
        self._connection: Connection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._stopping = False
        self._sent_bytes = {"control": 0, "bulk": 0}

    @abstractmethod
    def _connect(self) -> Connection:
        """Return a new connection, not opened yet."""

    @abstractmethod
    async def _pause(self) -> None:
        """Wait as long as is right after the connection ended."""

    def _prepare(self) -> None:  # noqa: B027 - most links have nothing to prepare
        """Check what can be checked before the first attempt."""

    @property
    def sent_bytes(self) -> Mapping[str, int]:
        """Payload bytes acknowledged by the broker so far, by ``"control"`` and ``"bulk"``."""
        return self._sent_bytes

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection still stands."""
        return self._connection is not None and self._connection.stands

    def events(self) -> AsyncIterator[LinkEvent]:
        """Return the one stream of events; it ends after `stop`."""
        return self._events.read()

    async def start(self) -> None:
        """Begin to connect and return at once; retry for ever.

        Raises:
            BrokerConfigError: what we would show the broker cannot be used.
            LinkError: the link was started before.
        """
        if self._runner is not None or self._stopping:
            raise LinkError("a link starts once; make a new one")
        self._prepare()
        self._runner = asyncio.get_running_loop().create_task(
            self._run(), name=f"{self._name} link"
        )

    async def stop(self, *, graceful: bool = True) -> None:
        """End the connection and the event stream; see `broker.link.Link.stop`."""
        if self._stopping:
            return
        self._stopping = True
        if graceful and self.connected and len(self._outgoing):
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), FLUSH_TIMEOUT_S)
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        if self._connection is not None:
            await _end(self._connection, goodbye=graceful and self.connected)
        for item in self._outgoing.clear():
            if not item.acknowledged.done():
                item.acknowledged.set_exception(
                    LinkError(f"the link was stopped before the broker acknowledged {item.topic}")
                )
        for look in self._looks:
            look.cancel()
        self._release_subscribers()
        self._events.close()

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        bulk: bool = False,
        expiry_s: float | None = None,
    ) -> None:
        """Publish and return when the broker has acknowledged; see `post`."""
        await self.post(topic, payload, retain=retain, bulk=bulk, expiry_s=expiry_s)

    def post(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        bulk: bool = False,
        expiry_s: float | None = None,
    ) -> asyncio.Future[None]:
        """Queue a message; see `broker.link.Link.post`.

        Raises:
            SizeError: the payload is over our limit, or over the one that the broker announced.
            LinkError: the link was stopped first, or the broker said no (MQTT 5 only).
            ValueError: the topic is a filter or empty.
        """
        check_publication(topic, payload, bulk=bulk)
        if self._stopping:
            raise LinkError(f"the link is stopped; {topic} was not published")
        limit = self._connection.max_packet if self._connection is not None else None
        if limit is not None and len(payload) + PACKET_OVERHEAD > limit:
            raise SizeError(
                f"{len(payload)} bytes for {topic} are over the {limit} bytes a packet that"
                f" {self._broker} takes; raise the broker's limit or send smaller blocks"
            )
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        item = Publication(topic, payload, retain, bulk, expiry_s, acknowledged)
        self._outgoing.put(item, bulk=bulk)
        self._pump()
        return acknowledged

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for topic filters now and on every later connect.

        A refusal is logged and not raised: portable brokers do not tell, they deliver nothing.
        """
        self._filters.update(dict.fromkeys(filters))
        if self.connected and not self._stopping:
            self._look_again_later(filters)
            await asyncio.gather(*self._ask(filters))

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Forget topic filters."""
        for filter_ in filters:
            self._filters.pop(filter_, None)
        if self._connection is not None and self._connection.stands and filters:
            self._connection.unsubscribe(list(filters))

    # --- what the connection reports --------------------------------------------------------------

    def on_accepted(self, connection: Connection, *, session_present: bool) -> None:
        """Ask for every filter again, then send what waits."""
        if connection is self._connection and not self._stopping:
            self._look_again_later(list(self._filters))
            self._ask(list(self._filters))
            self._events.put(Connected(session_present))
            self._pump()

    def on_received(self, connection: Connection, event: Received) -> None:
        """Pass a message on."""
        if connection is self._connection:
            self._events.put(event)

    def on_acknowledged(self, connection: Connection, handle: int, refusal: str) -> None:
        """Settle a publication and send what waited for its place."""
        item = self._in_flight.pop(handle, None) if connection is self._connection else None
        if item is None:
            return
        self._outgoing.acknowledge(item)
        if not refusal:
            self._sent_bytes["bulk" if item.bulk else "control"] += len(item.payload)
        if not item.acknowledged.done():
            if refusal:
                item.acknowledged.set_exception(
                    LinkError(
                        f"{self._broker} refused {item.topic} from {self._name}: {refusal};"
                        " check its permissions"
                    )
                )
            else:
                item.acknowledged.set_result(None)
        self._pump()
        if not len(self._outgoing):
            self._idle.set()

    def on_subscribed(self, connection: Connection, handle: int, refusals: list[str]) -> None:
        """Settle a subscription; log what was refused."""
        asked = self._subscribing.pop(handle, None) if connection is self._connection else None
        if asked is None:
            return
        filters, answered = asked
        for filter_, refusal in zip(filters, refusals, strict=False):
            if refusal:
                _LOG.warning(
                    "%s refused %s to subscribe to %s: %s; check its permissions",
                    self._broker,
                    self._name,
                    filter_,
                    refusal,
                )
        if not answered.done():
            answered.set_result(None)

    # --- inside -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            connection = self._connection = self._connect()
            connection.open()
            await self._watch(connection)
            self._in_flight.clear()
            self._outgoing.requeue()
            self._release_subscribers()
            self._idle.set()  # a flush that waits has nothing to wait for any more
            self._events.put(Disconnected(connection.reason or "connection ended"))
            await self._pause()

    async def _watch(self, connection: Connection) -> None:
        """Return when the connection ended; give up where the broker does not answer."""
        accepted = asyncio.ensure_future(connection.accepted.wait())
        ended = asyncio.ensure_future(connection.ended.wait())
        try:
            await asyncio.wait(
                {accepted, ended}, timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not connection.accepted.is_set() and not connection.ended.is_set():
                connection.reason = (
                    f"{self._broker} did not answer within {ANSWER_TIMEOUT_S:g} s;"
                    " is it an MQTT broker, and is TLS set as it expects?"
                )
                await _end(connection, goodbye=False)
            else:
                await ended
        finally:
            accepted.cancel()
            ended.cancel()

    def _pump(self) -> None:
        connection = self._connection
        while connection is not None and connection.stands:
            item = self._outgoing.take()
            if item is None:
                return
            if item.acknowledged.done():  # its publisher was cancelled
                self._outgoing.acknowledge(item)
                continue
            self._in_flight[connection.publish(item)] = item

    def _ask(self, filters: Sequence[str]) -> list[asyncio.Future[None]]:
        connection, answers = self._connection, []
        for start in range(0, len(filters) if connection else 0, SUBSCRIBE_AT_ONCE):
            some = filters[start : start + SUBSCRIBE_AT_ONCE]
            handle = connection.subscribe(some) if connection else None
            if handle is not None:
                answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._subscribing[handle] = (some, answered)
                answers.append(answered)
        return answers

    def _look_again_later(self, filters: Sequence[str]) -> None:
        connection = self._connection
        if self._second_look_s is None or connection is None or not filters:
            return

        def look() -> None:
            self._looks.discard(handle)
            if connection is self._connection and connection.stands:
                self._ask([filter_ for filter_ in filters if filter_ in self._filters])

        handle = connection.loop.call_later(self._second_look_s, look)
        self._looks.add(handle)

    def _release_subscribers(self) -> None:
        for _, answered in self._subscribing.values():
            if not answered.done():
                answered.set_result(None)
        self._subscribing.clear()


async def _end(connection: Connection, *, goodbye: bool) -> None:
    if goodbye:
        connection.goodbye()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(connection.ended.wait(), GOODBYE_TIMEOUT_S)
    if not connection.ended.is_set():
        connection.cut()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(connection.ended.wait(), GOODBYE_TIMEOUT_S)
