"""A mosquitto set up as an administrator does it: by the command that writes its files."""

import getpass
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker.child import ChildBroker
from broker.mosquitto import find_program
from tests.fakes.certificates import Authority


class MosquittoFromFiles(ChildBroker):
    """What ``slimfleet broker config mosquitto`` wrote, started.

    Only what names the administrator's machine is changed: the system user and the place of the
    database.

    Args:
        folder: of this broker alone.
        fleet: whose topics.
        passwords: of every user.
        operators: which of them are operators.
        tls: with a certificate of an authority of our own.
    """

    def __init__(
        self,
        folder: Path,
        fleet: str,
        passwords: Mapping[str, str],
        *,
        operators: Sequence[str],
        tls: bool,
    ) -> None:
        super().__init__("mosquitto", folder, "mosquitto.log", tls=tls)
        folder.mkdir()
        self._fleet = fleet
        self._passwords = dict(passwords)
        self._operators = list(operators)
        self._authority = Authority(folder, "authority") if tls else None

    @property
    def ca_file(self) -> Path | None:
        return self._authority.file if self._authority else None

    def _prepare(self, port: int) -> list[str]:
        out = self._folder / "files"
        config = out / "mosquitto.conf"
        if not config.exists():
            self._write(out, port)
        (self._folder / "store").mkdir(exist_ok=True)
        text = config.read_text()
        changed = text.replace("user mosquitto\n", f"user {getpass.getuser()}\n").replace(
            "persistence_location /var/lib/mosquitto/\n",
            f"persistence_location {self._folder / 'store'}/\n",
        )
        assert changed.count("\n") == text.count("\n")
        config.write_text(changed)
        return [str(find_program("mosquitto")), "-v", "-c", str(config)]

    def _write(self, out: Path, port: int) -> None:
        arguments = ["--bind", "127.0.0.1", "--port", str(port)]
        if self._authority:
            pair = self._authority.issue("broker", server=True)
            arguments += ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
        subprocess.run(
            [
                *(sys.executable, "-m", "slimfleet", "broker", "config", "mosquitto"),
                *("--fleet", self._fleet, "--out", str(out)),
                *("--operators", ",".join(self._operators), *arguments),
            ],
            check=True,
            capture_output=True,
        )
        (out / "passwords").touch(mode=0o600)
        for user, password in self._passwords.items():
            subprocess.run(
                [find_program("mosquitto_passwd"), "-b", out / "passwords", user, password],
                check=True,
                capture_output=True,
            )
