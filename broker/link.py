"""What a connection to a broker offers, whatever the broker: the interface and its values.

Two implementations: `broker.memory.MemoryLink` (tests, simulation) and `broker.mqtt.MqttLink`. One
conformance suite runs on both.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.codec import BLOCK_LIMIT, CONTROL_LIMIT
from broker.errors import SizeError

PACKET_OVERHEAD = 1024
"""Room for the topic and the headers of a packet that carries one block."""
PACKET_LIMIT = BLOCK_LIMIT + PACKET_OVERHEAD
"""The largest packet that ever travels; brokers are configured with it."""


@dataclass(frozen=True)
class Will:
    """What the broker publishes (QoS 1) when the connection is lost without a goodbye."""

    topic: str
    payload: bytes
    retain: bool = True


@dataclass(frozen=True)
class Received:
    """A message arrived; ``retained`` says that it was delivered with the retain flag."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True)
class Connected:
    """The broker accepted the connection and every remembered filter was asked for again."""

    session_present: bool


@dataclass(frozen=True)
class Disconnected:
    """The connection ended, or could not be made; ``reason`` is one line for people."""

    reason: str


LinkEvent = Received | Connected | Disconnected


class Link(Protocol):
    """One party's connection to the broker. Everything is QoS 1.

    A message may arrive twice. The order of one sender's messages is kept within one filter of the
    receiver only: nats-server delivers each subscription on its own.
    """

    async def start(self) -> None:
        """Begin to connect and return at once; retry for ever with jittered back-off."""

    async def stop(self, *, graceful: bool = True) -> None:
        """End the connection and the event stream.

        Args:
            graceful: flush what is queued (for a bounded time) and say goodbye, so that the will
                is not published; otherwise cut the connection as a power failure would.
        """

    def events(self) -> AsyncIterator[LinkEvent]:
        """Return the one stream of events; it ends after `stop`."""

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

    def post(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        bulk: bool = False,
        expiry_s: float | None = None,
    ) -> asyncio.Future[None]:
        """Queue a message and return what is done when the broker has acknowledged it.

        The message survives reconnects: it is sent again until it is acknowledged, so a receiver
        may see it twice.

        Args:
            topic: where to.
            payload: at most `CONTROL_LIMIT` bytes, or `BLOCK_LIMIT` where ``bulk``.
            retain: the broker keeps it for late subscribers; empty clears what is kept.
            bulk: it yields to control messages.
            expiry_s: the broker may forget it after this time, where the broker can.

        Raises:
            SizeError: the payload is over the limit; nothing was sent.
            LinkError: the link was stopped before the broker acknowledged, or a broker that can
                say so (MQTT 5) refused it.
            ValueError: the topic is a filter or empty.
        """

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for topic filters now and on every later connect.

        Returns when the broker has answered, or at once while there is no connection.
        """

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Forget topic filters."""

    @property
    def sent_bytes(self) -> Mapping[str, int]:
        """Payload bytes acknowledged by the broker so far, by ``"control"`` and ``"bulk"``."""


def check_publication(topic: str, payload: bytes, *, bulk: bool) -> None:
    """Refuse what must not be published, before anything is sent.

    Raises:
        SizeError: it is over `BLOCK_LIMIT` where ``bulk``, else over `CONTROL_LIMIT`.
        ValueError: the topic is empty, holds a wildcard or a null character.
    """
    if not topic or any(character in topic for character in "+#\0"):
        raise ValueError(f"{topic!r} is not a topic to publish to: it is a filter, or empty")
    limit = BLOCK_LIMIT if bulk else CONTROL_LIMIT
    if len(payload) > limit:
        kind = "block" if bulk else "control"
        raise SizeError(
            f"{len(payload)} bytes for {topic} are over the {kind} limit of {limit};"
            " send them as a blob, in smaller blocks"
        )


class EventStream:
    """The event queue of one link: filled from the event loop, read by one consumer."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[LinkEvent | None] = asyncio.Queue()

    def put(self, event: LinkEvent) -> None:
        """Add an event."""
        self._queue.put_nowait(event)

    def close(self) -> None:
        """End the stream after what is in it."""
        self._queue.put_nowait(None)

    async def read(self) -> AsyncIterator[LinkEvent]:
        """Yield events until the stream is closed."""
        while (event := await self._queue.get()) is not None:
            yield event
        self.close()  # a second reader finds the end too
