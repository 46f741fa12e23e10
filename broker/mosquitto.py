"""mosquitto: the configuration and access list that we ship, and a runner for tests and trials.

mosquitto reads no comment behind a value (the ``#`` would become part of it), and one pattern line
holds for *every* user. So devices are who is left over: whoever the broker knows and who is not
listed by name may do what a device may, on topics that carry its own name (``%u``). The server and
the operators are listed, and an operator's denials go before the patterns.
"""

import getpass
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.child import LOOPBACK, ChildBroker, write_private
from broker.errors import BrokerConfigError
from broker.link import PACKET_LIMIT
from broker.permissions import device_permissions, operator_permissions
from broker.topics import check_name, root

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian puts mosquitto, outside of a normal user's path."""
INSTALL = "install it (Debian: `apt install mosquitto`), or use the embedded broker"


@dataclass(frozen=True)
class ServerTls:
    """TLS of the broker.

    Attributes:
        cert_file, key_file: the broker's certificate, which names its host, and its key.
        ca_file: authority of the *devices'* certificates; required with ``client_certificates``.
        crl_file: revoked certificates; read again on SIGHUP.
        client_certificates: every client shows a certificate, whose common name is its user name;
            passwords are not asked for.
    """

    cert_file: Path
    key_file: Path
    ca_file: Path | None = None
    crl_file: Path | None = None
    client_certificates: bool = False


def mosquitto_config(
    *,
    acl_file: Path,
    password_file: Path | None = None,
    tls: ServerTls | None = None,
    port: int | None = None,
    bind: str | None = None,
    persistence: Path = Path("/var/lib/mosquitto"),
    user: str = "mosquitto",
    autosave_s: int = 30,
) -> str:
    """Return the text of a ``mosquitto.conf``.

    Args:
        acl_file: see `mosquitto_acl`.
        password_file: made with ``mosquitto_passwd``; not used with client certificates.
        tls: without it, passwords and weights travel in the clear.
        port: 1883, or 8883 with TLS, where None.
        bind: address to listen on; loopback without TLS, every interface with TLS, where None.
        persistence: folder of the broker's database.
        user: system user that a broker started by root becomes.
        autosave_s: how often the database is written: what a power failure may cost.

    Raises:
        BrokerConfigError: neither passwords nor client certificates, or no authority for these.
    """
    certificates = tls is not None and tls.client_certificates
    if password_file is None and not certificates:
        raise BrokerConfigError("mosquitto without users: give a password file or use certificates")
    if tls is not None and certificates and tls.ca_file is None:
        raise BrokerConfigError("client certificates need ca_file, the authority that signed them")
    listener = f"listener {port or (8883 if tls else 1883)}"
    if bind is not None or tls is None:
        listener += f" {bind or LOOPBACK}"
    lines = [
        "per_listener_settings false",
        "persistence true",
        f"persistence_location {persistence}/",
        f"autosave_interval {autosave_s}",
        f"user {user}",
        "",
        "# Without it a QoS 1 round trip takes 44 ms.",
        "set_tcp_nodelay true",
        "# One block of 256 KiB with its topic and headers; nothing larger is ever published.",
        f"max_packet_size {PACKET_LIMIT}",
        "max_inflight_messages 100",
        "# The default of 1000 drops what is over it without a word.",
        "max_queued_messages 10000",
        "max_queued_bytes 67108864",
        "max_keepalive 300",
        "persistent_client_expiration 7d",
        "",
        "allow_anonymous false",
        f"acl_file {acl_file}",
    ]
    if password_file is not None and not certificates:
        lines.append(f"password_file {password_file}")
    # An option of the listener above its line would open a second one: 1883 on every interface.
    lines += [
        "",
        listener,
        "max_connections 10000",
        "# Client id = user name, so that no device takes another's session over.",
        "use_username_as_clientid true",
    ]
    if tls is not None:
        lines += _tls_lines(tls)
    return "\n".join(lines) + "\n"


def _tls_lines(tls: ServerTls) -> list[str]:
    lines = [f"certfile {tls.cert_file}", f"keyfile {tls.key_file}", "tls_version tlsv1.2"]
    if tls.client_certificates:
        lines += [
            f"cafile {tls.ca_file}",
            "require_certificate true",
            "# The certificate's common name is the user; a name in CONNECT is ignored.",
            "use_identity_as_username true",
        ]
        if tls.crl_file is not None:
            lines += ["# SIGHUP reads it again.", f"crlfile {tls.crl_file}"]
    return lines


def mosquitto_acl(fleet: str, operators: Sequence[str] = (), *, server: str = "server") -> str:
    """Return the text of the access list of one fleet.

    Args:
        fleet: whose topics.
        operators: user names of operators.
        server: user name of the coordinator.

    Raises:
        BrokerConfigError: a name stands twice.
        ValueError: a name may not stand in a topic.
    """
    names = [server, *operators]
    if len(set(names)) != len(names):
        raise BrokerConfigError(f"each user needs a name of its own, not {', '.join(names)}")
    prefix = root(fleet)
    # Any name would do that comes back as the placeholder; '%u' itself is no name.
    device = device_permissions(fleet, "placeholder")
    own = (f"{prefix}d/placeholder/", f"{prefix}d/%u/")
    lines = [
        f"# Access list of fleet {fleet}. A user who is not listed by name is a device.",
        *(f"pattern write {filter_.replace(*own)}" for filter_ in device.publish),
        *(f"pattern read {filter_.replace(*own)}" for filter_ in device.subscribe),
        "",
        f"user {check_name(server, 'server')}",
        f"topic readwrite {prefix}#",
    ]
    for operator in operators:
        permissions = operator_permissions(fleet, operator)
        lines += [
            "",
            f"user {operator}",
            "# What the patterns give to devices:",
            f"topic deny {prefix}b/#",
            f"topic deny {prefix}d/{operator}/#",
            *(f"topic write {filter_}" for filter_ in permissions.publish),
            *(f"topic read {filter_}" for filter_ in permissions.subscribe),
        ]
    return "\n".join(lines) + "\n"


def find_program(name: str) -> Path:
    """Return where ``mosquitto`` or ``mosquitto_passwd`` is.

    Raises:
        BrokerConfigError: it is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path=SBIN)
    if found is None:
        raise BrokerConfigError(f"{name} is not installed; {INSTALL}")
    return Path(found)


class MosquittoBroker(ChildBroker):
    """A mosquitto on loopback with configuration, users and store in one folder.

    Args:
        folder: of this broker alone.
        fleet: whose topics it serves.
        passwords: of every user; hashed with ``mosquitto_passwd``. Empty with certificates.
        operators: which of the users are operators.
        server: which of the users is the coordinator; the others are devices.
        tls: turns TLS on.
        port: on loopback; 0 picks a free one, which then stays over restarts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fleet: str,
        passwords: Mapping[str, str],
        operators: Sequence[str] = (),
        server: str = "server",
        tls: ServerTls | None = None,
        port: int = 0,
    ) -> None:
        super().__init__("mosquitto", folder, "mosquitto.log", port=port, tls=tls is not None)
        self._passwords = dict(passwords)
        self._acl = mosquitto_acl(fleet, operators, server=server)
        self._tls = tls

    def reload(self) -> None:
        """Make the broker read its access list and revocations again."""
        if self._process is not None:
            self._process.signal(signal.SIGHUP)

    def _prepare(self, port: int) -> list[str]:
        program = find_program("mosquitto")
        store = self._folder / "store"
        store.mkdir(parents=True, exist_ok=True)
        write_private(self._folder / "acl", self._acl)
        config = mosquitto_config(
            acl_file=self._folder / "acl",
            password_file=self._write_passwords() if self._passwords else None,
            tls=self._tls,
            port=port,
            bind=LOOPBACK,
            persistence=store,
            user=getpass.getuser(),
            autosave_s=1,
        )
        write_private(self._folder / "mosquitto.conf", config)
        return [str(program), "-v", "-c", str(self._folder / "mosquitto.conf")]

    def _write_passwords(self) -> Path:
        """Write the file of hashed passwords; they are on no command line."""
        path = self._folder / "passwords"
        for user, password in self._passwords.items():
            if ":" in user or not password or "\n" in user + password:
                raise BrokerConfigError(
                    f"user {user!r} or its password cannot be in mosquitto's file"
                )
        write_private(path, "".join(f"{u}:{p}\n" for u, p in self._passwords.items()))
        answer = subprocess.run(
            [str(find_program("mosquitto_passwd")), "-U", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:
            raise BrokerConfigError(f"mosquitto_passwd failed: {answer.stderr.strip()}; see {path}")
        return path
