"""Where a broker is, and what it is shown to let us in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from broker.errors import BrokerConfigError

MqttVersion = Literal["3.1.1", "5"]
DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerAddress:
    """``mqtt://host:port``, or ``mqtts://host:port`` with TLS."""

    host: str
    port: int
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> "BrokerAddress":
        """Read a URL; the port defaults to 1883, with TLS to 8883.

        Raises:
            BrokerConfigError: it is not such a URL, or it holds a password.
        """
        example = "write mqtt://host:1883, or mqtts://host:8883 with TLS"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise BrokerConfigError(f"broker {url!r}: {error}; {example}") from error
        if "@" in parts.netloc:
            # The URL ends up in logs and process lists; it is not repeated here either.
            raise BrokerConfigError(
                f"broker URL with a user name or password in it: give them apart, and {example}"
            )
        if parts.scheme not in DEFAULT_PORTS or not host or port == 0:
            raise BrokerConfigError(f"broker {url!r} is not a broker URL; {example}")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise BrokerConfigError(f"broker {url!r} goes on after the port; {example}")
        return cls(host, port or DEFAULT_PORTS[parts.scheme], parts.scheme == "mqtts")

    def __str__(self) -> str:
        """Return the URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


@dataclass(frozen=True)
class Credentials:
    """Who we are.

    Attributes:
        username, password: as the broker knows them; with client certificates it may not ask.
        ca_file: PEM of the authority that signed the broker's certificate; the system's
            authorities where None. TLS only.
        cert_file, key_file: PEM of our own certificate and its key. TLS only.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
