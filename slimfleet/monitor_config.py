"""Section ``[monitor]`` of ``server.toml``: the page."""

import math

import msgspec

from coordinator.settings import SettingsError


class MonitorSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The page of ``slimfleet monitor``, also with ``slimfleet server --monitor``.

    Attributes:
        host, port: where it is served; anything but loopback needs somebody who can sign in.
        public_url: what browsers call it where that is something else, as behind a proxy.
        cert_file, key_file: for TLS.
        proxy: address of a proxy whose word on who asks is taken.
        operator: user name at the broker that actions are sent with.
        password_file: its first line is the password; without it the page can only be read.
        users: file of users and tokens; "" = monitor-access.json in the server's folder.
        idle_minutes, session_hours: how long somebody stays signed in.
    """

    host: str = "127.0.0.1"
    port: int = 8480
    public_url: str = ""
    cert_file: str = ""
    key_file: str = ""
    proxy: str = ""
    operator: str = "operator"
    password_file: str = ""
    users: str = ""
    idle_minutes: float = 30.0
    session_hours: float = 12.0

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            SettingsError: says which setting and what to write instead.
        """
        if bool(self.cert_file) != bool(self.key_file):
            raise SettingsError("monitor.cert_file and monitor.key_file: name both, or none")
        if not 0 <= self.port < 65536:
            raise SettingsError(f"monitor.port = {self.port} must lie between 0 and 65535")
        for name in ("idle_minutes", "session_hours"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"monitor.{name} = {getattr(self, name)} must be above 0")
