"""An operator who stays: knows whether the server is there, and asks it for what people want."""

import asyncio
import logging

from broker.codec import decode_on, encode
from broker.errors import DecodeError, LinkError
from broker.link import Connected, Disconnected, Link, Received
from broker.messages import Command, CommandResult, LinkStatus, ServerState
from broker.topics import (
    CommandTopic,
    ResultTopic,
    ServerTells,
    ServerTopic,
    parse_topic,
    topic_for,
)
from slimfleet.operator_link import Access, operator_link

log = logging.getLogger(__name__)


class CommandDesk:
    """One long connection to the broker, shared by everybody who uses the page.

    Args:
        access: where the broker is, and which operator this is there.
        answer_s: how long to wait for the server's answer.
    """

    def __init__(self, access: Access, answer_s: float) -> None:
        self._access = access
        self._answer_s = answer_s
        self._link: Link | None = None
        self._waiting: dict[str, asyncio.Future[CommandResult]] = {}
        self._status: LinkStatus | None = None
        self._asking = asyncio.Lock()
        self._trouble = f"not connected to the broker {access.address} yet"

    @property
    def server_online(self) -> bool | None:
        """Whether the server is there; None while the broker cannot be asked."""
        if self._trouble:
            return None
        return self._status is LinkStatus.ONLINE

    @property
    def obstacle(self) -> str:
        """Why nothing can be asked, or ""."""
        return self._trouble

    async def run(self) -> None:
        """Stay connected until it is cancelled."""
        fleet = self._access.fleet
        filters = [
            topic_for(fleet, ResultTopic(self._access.operator)),
            topic_for(fleet, ServerTopic(ServerTells.STATE)),
        ]
        async with operator_link(self._access, filters) as link:
            self._link = link
            async for event in link.events():
                match event:
                    case Connected():
                        self._connected()
                    case Disconnected(reason):
                        self._lost(reason)
                    case Received(topic, payload):
                        self._heard(topic, payload)

    async def ask(self, command: Command) -> CommandResult | None:
        """Send a command and return the server's answer, None where none came in time.

        Raises:
            LinkError: there is no connection, or the broker refused the message.
        """
        async with self._asking:  # only the answer to the last command is sure to come
            if self._link is None or self._trouble:
                raise LinkError(self._trouble)
            return await self._ask(self._link, command)

    async def _ask(self, link: Link, command: Command) -> CommandResult | None:
        answer: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        self._waiting[command.command_id] = answer
        topic = topic_for(self._access.fleet, CommandTopic(self._access.operator))
        try:
            async with asyncio.timeout(self._answer_s):
                await link.publish(topic, encode(command))
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._waiting[command.command_id]

    def _connected(self) -> None:
        self._trouble = ""

    def _lost(self, reason: str) -> None:
        if not self._trouble:
            log.warning("no connection to the broker: %s", reason)
        self._status = None
        self._trouble = f"no connection to the broker {self._access.address}: {reason}"

    def _heard(self, topic: str, payload: bytes) -> None:
        try:
            message = decode_on(parse_topic(self._access.fleet, topic), payload)
        except DecodeError:
            return  # not ours to repair: the server counts and reports such messages
        if isinstance(message, ServerState):
            self._status = message.status
        if isinstance(message, CommandResult):
            waiting = self._waiting.get(message.command_id)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
