"""An operator's short visit to the broker: connect, listen until something is known, leave."""

import argparse
import asyncio
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from broker.address import BrokerAddress, Credentials
from broker.codec import decode_on
from broker.errors import DecodeError, LinkError
from broker.link import Connected, Disconnected, Link, Received
from broker.messages import Message
from broker.mqtt import MqttLink
from broker.topics import Topic, check_name, parse_topic
from slimfleet.config import (
    AgentConfig,
    BrokerSection,
    ConfigError,
    ServerConfig,
    read_config,
    read_document,
)

OPERATOR = "operator"


@dataclass(frozen=True)
class Access:
    """Where the broker is and who asks.

    Attributes:
        fleet: name of the fleet.
        operator: user name at the broker, and the name that the journal keeps.
        protocol: of MQTT.
    """

    fleet: str
    operator: str
    address: BrokerAddress
    credentials: Credentials
    protocol: Literal["3.1.1", "5"]


def name_argument(text: str) -> str:
    """Read a name from the command line.

    Raises:
        argparse.ArgumentTypeError: it may not stand in a topic.
    """
    try:
        return check_name(text, "name")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_access_arguments(parser: argparse.ArgumentParser, *, timeout_s: float) -> None:
    """Add what every operator's command needs to reach a broker."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="server.toml or agent.toml: takes broker and fleet from it (not its user)",
    )
    parser.add_argument("--broker", default="", metavar="URL", help="mqtt://host or mqtts://host")
    parser.add_argument("--fleet", type=name_argument, metavar="NAME", help="name of the fleet")
    parser.add_argument(
        "--operator",
        "--user",
        dest="operator",
        type=name_argument,
        default=OPERATOR,
        metavar="NAME",
        help=f"the operator's user name at the broker (default {OPERATOR})",
    )
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE", help="its first line is the password"
    )
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="authority of the broker, PEM")
    parser.add_argument("--cert-file", type=Path, metavar="FILE", help="own certificate, PEM")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument(
        "--timeout",
        type=float,
        default=timeout_s,
        metavar="S",
        help=f"seconds to wait for answers (default {timeout_s:g})",
    )


def read_access(arguments: argparse.Namespace) -> Access:
    """Return what the arguments, and the configuration that they may name, say.

    A configuration gives the broker and the fleet, never the user: who connects with the name of
    the server or of a device may take over its connection.

    Raises:
        ConfigError: broker or fleet are missing, or a file cannot be read.
        BrokerConfigError: the URL is none.
    """
    section, fleet, base = _from_config(arguments.config)
    url = arguments.broker or section.url
    fleet = arguments.fleet or fleet
    if not url or not fleet:
        missing = "--broker" if not url else "--fleet"
        raise ConfigError(f"{missing} is missing: give it, or --config server.toml")

    def here(path: Path | None) -> str:
        return str(path.resolve()) if path else ""

    own = msgspec.structs.replace(
        section,
        url=url,
        username=arguments.operator,
        password_file=here(arguments.password_file),
        ca_file=here(arguments.ca_file) or section.ca_file,
        cert_file=here(arguments.cert_file),
        key_file=here(arguments.key_file),
    )
    return Access(
        fleet=fleet,
        operator=arguments.operator,
        address=own.address(),
        credentials=own.credentials(base, arguments.operator),
        protocol=own.protocol,
    )


def _from_config(path: Path | None) -> tuple[BrokerSection, str, Path]:
    if path is None:
        return BrokerSection(url=""), "", Path()
    base = path.resolve().parent
    # The two files are told apart by what only a server has.
    if "campaign" in read_document(path):
        server = read_config(path, ServerConfig)
        return server.broker, server.campaign.fleet, base
    agent = read_config(path, AgentConfig)
    return agent.broker, agent.fleet, base


@asynccontextmanager
async def operator_link(access: Access, filters: Sequence[str]) -> AsyncIterator[MqttLink]:
    """Connect for the time of the block, with these subscriptions."""
    link = MqttLink(
        access.address,
        # Two terminals of one operator shall not end each other's connection.
        f"{access.operator}-{secrets.token_hex(4)}",
        access.credentials,
        None,
        random.Random(os.urandom(16)),
        protocol=access.protocol,
    )
    await link.subscribe(filters)
    await link.start()
    try:
        yield link
    finally:
        await link.stop()


async def listen(
    link: Link, access: Access, heard: Callable[[Topic, Message], bool], timeout_s: float
) -> bool:
    """Hand over messages until ``heard`` returns True; messages that cannot be read are skipped.

    Returns:
        Whether ``heard`` was satisfied in time.

    Raises:
        LinkError: there is no connection: the broker is away, or does not let us in.
    """
    connected = False
    try:
        async with asyncio.timeout(timeout_s):
            async for event in link.events():
                match event:
                    case Connected():
                        connected = True
                    case Disconnected(reason) if not connected:
                        raise LinkError(reason)
                    case Received(topic, payload):
                        if _understood(access.fleet, topic, payload, heard):
                            return True
    except TimeoutError:
        pass
    if not connected:
        raise LinkError(
            f"cannot reach the broker {access.address}: no answer within {timeout_s:g} s; check"
            " the URL and the network"
        )
    return False


def _understood(
    fleet: str, topic: str, payload: bytes, heard: Callable[[Topic, Message], bool]
) -> bool:
    try:
        meaning = parse_topic(fleet, topic)
        message = decode_on(meaning, payload)
    except DecodeError:
        return False  # not ours to repair: the server counts and reports such messages
    return heard(meaning, message)
