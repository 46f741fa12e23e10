"""The link over a real broker, through paho-mqtt: the only file that imports it.

Decisions:

* **MQTT 3.1.1 by default**, since every broker we support speaks it (nats-server nothing else).
  With ``protocol="5"`` the broker also forgets expired messages, refuses a publish aloud, and
  announces the largest packet it takes.
* **Clean sessions.** Everything that matters is retained by the broker or sent again by its sender
  until a receipt arrives, so a session stored at the broker would only add stale copies, and a
  queue that overflows silently.
* **One paho client per connection.** Our own queue holds what is not acknowledged, so a lost
  connection leaves nothing behind in the old client; retries follow our own jittered back-off.
* **The network thread decides nothing.** It connects, reads, writes and hands over with
  ``call_soon_threadsafe``. Whatever ends it, an exception included, is handed over as the end of
  the connection, so that it can not die unnoticed.
"""

import asyncio
import contextlib
import logging
import math
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from broker.address import BrokerAddress, Credentials, MqttVersion
from broker.backoff import Backoff
from broker.connection import Connection, Publication
from broker.errors import BrokerConfigError
from broker.link import Received, Will
from broker.outgoing import BULK_WINDOW, CONTROL_WINDOW
from broker.reconnecting import ReconnectingLink

__all__ = ["BrokerAddress", "Credentials", "MqttLink"]

SECOND_LOOK_S = 2.0
_LOG = logging.getLogger(__name__)
# Reason codes that only a person can mend: protocol, client id, password, permission, banned, auth.
_HOPELESS = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})


@dataclass(frozen=True)
class _Settings:
    """What every connection of a link needs."""

    address: BrokerAddress
    client_id: str
    credentials: Credentials
    will: Will | None
    keepalive: int
    protocol: MqttVersion


class _Client(paho.Client):
    """A paho client whose network thread also connects, and always says how it ended."""

    def __init__(
        self,
        client_id: str,
        protocol: MqttVersion,
        connect: Callable[["_Client"], None],
        ended: Callable[[Exception | None], None],
    ) -> None:
        version5 = protocol == "5"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if version5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if version5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self._connect_now = connect
        self._ended = ended
        self.suppress_exceptions = True
        self.max_inflight_messages = 0  # our own queue bounds what is in flight

    def loop_forever(
        self,
        timeout: float = 1.0,
        retry_first_connection: bool = False,  # noqa: FBT001, FBT002 - paho's signature
    ) -> MQTTErrorCode:
        """Connect, then read and write until the connection ends; runs in the network thread."""
        failure: Exception | None = None
        try:
            self._connect_now(self)
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:  # noqa: BLE001 - handed over; a silent end is the worst end
            failure = error
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self._ended(failure)

    def release(self) -> None:
        """Close what paho otherwise leaves to the garbage collector: its wake-up sockets."""
        self._reset_sockets()


class _MqttConnection(Connection):
    """paho on one side, asyncio on the other."""

    def __init__(
        self, owner: ReconnectingLink, settings: _Settings, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(owner)
        self._settings = settings
        self._tls = tls
        self._abandoned = False
        self._trouble = ""
        self._client = self._make_client()

    def _make_client(self) -> _Client:
        settings = self._settings
        client = _Client(settings.client_id, settings.protocol, self._connect, self._on_end)
        credentials = settings.credentials
        if credentials.username is not None:
            client.username_pw_set(credentials.username, credentials.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if settings.will is not None:
            client.will_set(
                settings.will.topic, settings.will.payload, qos=1, retain=settings.will.retain
            )
        client.on_socket_open = self._on_socket_open
        client.on_log = self._on_log
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    # --- called from the event loop ---------------------------------------------------------------

    def open(self) -> None:
        """Start the network thread."""
        self._client.loop_start()

    def goodbye(self) -> None:
        """Say DISCONNECT, after what is on its way."""
        self._client.disconnect()

    def cut(self) -> None:
        """End the connection without a goodbye, as a power failure would."""
        self._abandoned = True
        self._shut(self._client.socket())

    def publish(self, item: Publication) -> int:
        """Hand a message to paho and return its packet id."""
        properties = None
        if self._settings.protocol == "5" and item.expiry_s is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = max(1, math.ceil(item.expiry_s))
        return self._client.publish(item.topic, item.payload, 1, item.retain, properties).mid

    def subscribe(self, filters: Sequence[str]) -> int | None:
        """Ask for filters and return the packet id; None where the connection just ended."""
        return self._client.subscribe([(filter_, 1) for filter_ in filters])[1]

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take filters back."""
        self._client.unsubscribe(list(filters))

    # --- called from the network thread: hand over, nothing else ----------------------------------

    def _hand_over(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            self.loop.call_soon_threadsafe(call, *arguments)

    def _connect(self, client: _Client) -> None:
        address = self._settings.address
        if self._settings.protocol == "5":
            client.connect(address.host, address.port, self._settings.keepalive, clean_start=True)
        else:
            client.connect(address.host, address.port, self._settings.keepalive)

    def _on_socket_open(self, _client: paho.Client, _data: object, sock: Any) -> None:
        # Without it a QoS 1 round trip takes 44 ms: Nagle waits for the broker's delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._abandoned:
            self._shut(sock)

    @staticmethod
    def _shut(sock: Any) -> None:
        # The plain socket's method: an SSLSocket's own would drop TLS under the reading thread.
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _on_log(self, _client: paho.Client, _data: object, level: int, line: str) -> None:
        if level == paho.MQTT_LOG_ERR:
            self._trouble = line
            if "Caught exception" in line:
                _LOG.error("%s: %s", self._settings.address, line)

    def _on_connect(
        self,
        _client: paho.Client,
        _data: object,
        flags: paho.ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self.refused = code.value in _HOPELESS
            self.reason = _refusal(self._settings, code)
            return
        self.max_packet = getattr(properties, "MaximumPacketSize", None)
        self._hand_over(self.accept, flags.session_present)

    def _on_disconnect(
        self,
        _client: paho.Client,
        _data: object,
        _flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if not self.reason:
            why = self._trouble.removeprefix("failed to receive on socket: ") or _words(code)
            self.reason = f"connection to {self._settings.address} lost: {why}"

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        event = Received(message.topic, bytes(message.payload), message.retain)
        self._hand_over(self.owner.on_received, self, event)

    def _on_publish(
        self, _client: paho.Client, _data: object, mid: int, code: ReasonCode, _props: Properties
    ) -> None:
        refusal = _words(code) if code.is_failure else ""
        self._hand_over(self.owner.on_acknowledged, self, mid, refusal)

    def _on_subscribe(
        self,
        _client: paho.Client,
        _data: object,
        mid: int,
        codes: list[ReasonCode],
        _props: Properties,
    ) -> None:
        answers = [_words(code) if code.is_failure else "" for code in codes]
        self._hand_over(self.owner.on_subscribed, self, mid, answers)

    def _on_end(self, failure: Exception | None) -> None:
        if failure is not None:
            self.refused = isinstance(failure, ssl.SSLCertVerificationError)
            self.reason = _failure(self._settings.address, failure)
        self._hand_over(self._finish)

    def _finish(self) -> None:
        self._client.release()
        self.ended.set()


class MqttLink(ReconnectingLink):
    """A `broker.link.Link` to an MQTT broker.

    Args:
        address: of the broker.
        client_id: the same as the user name, so that a broker can refuse takeovers.
        credentials: what we show the broker.
        will: published by the broker when we vanish.
        rng: for the back-off's jitter.
        keepalive: seconds; below 30 slow links look dead.
        protocol: "3.1.1" everywhere, "5" where the broker speaks it.
        control_window, bulk_window: publishes in flight at most; a slow link wants a small
            ``bulk_window``, since control waits behind the blocks in flight.
        second_look_s: see `broker.reconnecting.ReconnectingLink`; retained messages of filters
            that are still wanted come a second time.
        backoff, sleep: for tests.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        credentials: Credentials,
        will: Will | None,
        rng: random.Random,
        keepalive: int = 30,
        *,
        protocol: MqttVersion = "3.1.1",
        control_window: int = CONTROL_WINDOW,
        bulk_window: int = BULK_WINDOW,
        second_look_s: float | None = SECOND_LOOK_S,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(
            client_id,
            str(address),
            control_window=control_window,
            bulk_window=bulk_window,
            second_look_s=second_look_s,
        )
        self._settings = _Settings(address, client_id, credentials, will, keepalive, protocol)
        self._tls: ssl.SSLContext | None = None
        self._backoff = backoff or Backoff(rng)
        self._sleep = sleep

    def _prepare(self) -> None:
        if self._settings.address.tls:
            self._tls = _tls_context(self._settings.credentials)

    def _connect(self) -> Connection:
        return _MqttConnection(self, self._settings, self._tls)

    async def _pause(self) -> None:
        if (connection := self._connection) is not None:
            await self._sleep(self._backoff.after(connection.held_s, refused=connection.refused))


class _TlsSocket(ssl.SSLSocket):
    """A socket that a failed handshake leaves closed; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - ssl's signature
        """Shake hands, or close."""
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls_context(credentials: Credentials) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=credentials.ca_file)
    except OSError as error:  # an SSLError is one
        raise BrokerConfigError(
            f"CA file {credentials.ca_file} cannot be used: {error}; give a PEM certificate"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _TlsSocket
    if credentials.cert_file is not None:
        try:
            context.load_cert_chain(credentials.cert_file, credentials.key_file)
        except OSError as error:
            raise BrokerConfigError(
                f"client certificate {credentials.cert_file} with key {credentials.key_file}"
                f" cannot be used: {error}; give a PEM certificate and its own key"
            ) from error
    return context


def _refusal(settings: _Settings, code: ReasonCode) -> str:
    user = settings.credentials.username or settings.client_id
    advice = {
        0x84: "; set the protocol version that the broker speaks",
        0x85: "; check the client id",
        0x86: "; check the user name and the password",
        0x87: "; check the user name, the password and the broker's list of users",
    }.get(code.value, "")
    return f"{settings.address} refused {user}: {code}{advice}"


def _words(code: ReasonCode) -> str:
    # 0x80 is all that MQTT 3.1.1 knows; paho calls it "Unspecified error".
    return "no reason given by the broker or the network" if code.value == 0x80 else str(code)


def _failure(address: BrokerAddress, error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of {address} is not trusted: {error.verify_message};"
                " check the CA file and that the certificate names this host"
            )
        case ssl.SSLError() | ConnectionResetError() if address.tls:
            why = getattr(error, "reason", None) or error.strerror or error
            return f"no TLS with {address}: {why}; is it a TLS port?"
        case ConnectionRefusedError():
            return f"no broker answers at {address} (connection refused); is it running?"
        case TimeoutError():
            return f"no broker answers at {address} (timed out); check host, port and firewall"
        case socket.gaierror():
            return f"host of {address} not found: {error.strerror}; check the name and DNS"
        case OSError():
            return f"cannot connect to {address}: {error.strerror or error}"
    return f"connection to {address} ended by {type(error).__name__}: {error}"
