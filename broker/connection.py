"""One connection to a broker, from the first packet to the end, as a link sees it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.link import Received


@dataclass(eq=False)
class Publication:
    """A message on its way to the broker, and the future of its acknowledgement."""

    topic: str
    payload: bytes
    retain: bool
    bulk: bool
    expiry_s: float | None
    acknowledged: asyncio.Future[None]


class ConnectionOwner(Protocol):
    """What a connection reports to; always called in the event loop."""

    def on_accepted(self, connection: "Connection", *, session_present: bool) -> None:
        """Take note that the broker accepted the connection."""

    def on_received(self, connection: "Connection", event: Received) -> None:
        """Take a message."""

    def on_acknowledged(self, connection: "Connection", handle: int, refusal: str) -> None:
        """Take note that the broker answered a publish; ``refusal`` is empty, or says why not."""

    def on_subscribed(self, connection: "Connection", handle: int, refusals: list[str]) -> None:
        """Take note that the broker answered a subscribe, filter by filter."""


class Connection(ABC):
    """One connection. A new one is made for every attempt, so none has a past.

    Attributes:
        accepted: set once the broker accepted us; accepted_at: the event loop's time of it.
        ended: set once nothing more will come; reason: one line for people that says why.
        refused: the broker says no, and only a person can mend that.
        max_packet: the largest packet that the broker takes, where it said so.
    """

    def __init__(self, owner: ConnectionOwner) -> None:
        self.owner = owner
        self.loop = asyncio.get_running_loop()
        self.accepted = asyncio.Event()
        self.accepted_at = 0.0
        self.ended = asyncio.Event()
        self.reason = ""
        self.refused = False
        self.max_packet: int | None = None

    @property
    def stands(self) -> bool:
        """Whether the broker accepted us and nothing ended it since."""
        return self.accepted.is_set() and not self.ended.is_set()

    @property
    def held_s(self) -> float:
        """Seconds since it was accepted; 0 where it never was."""
        return self.loop.time() - self.accepted_at if self.accepted.is_set() else 0.0

    def accept(self, session_present: bool) -> None:  # noqa: FBT001 - a flag of the protocol
        """Take note that the broker accepted us, and tell the owner."""
        self.accepted_at = self.loop.time()
        self.accepted.set()
        self.owner.on_accepted(self, session_present=session_present)

    @abstractmethod
    def open(self) -> None:
        """Begin to connect."""

    @abstractmethod
    def goodbye(self) -> None:
        """End the connection so that the will is not published."""

    @abstractmethod
    def cut(self) -> None:
        """End the connection as a power failure would."""

    @abstractmethod
    def publish(self, item: Publication) -> int:
        """Send a message and return the handle of its acknowledgement."""

    @abstractmethod
    def subscribe(self, filters: Sequence[str]) -> int | None:
        """Ask for filters and return the answer's handle; None where the connection just ended."""

    @abstractmethod
    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take filters back."""
