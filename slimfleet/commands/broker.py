"""``slimfleet broker``."""

import argparse
import asyncio
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from broker.embedded import EmbeddedBroker
from broker.errors import BrokerConfigError
from broker.mosquitto import ServerTls, mosquitto_acl, mosquitto_config
from broker.permissions import (
    Permissions,
    device_permissions,
    operator_permissions,
    server_permissions,
)
from journal.disk import make_folder, write_atomically
from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode
from slimfleet.operator_link import OPERATOR, name_argument
from slimfleet.stopping import stop_on_signal

EXAMPLE = """example:
  slimfleet broker config mosquitto --fleet pumps --out /etc/mosquitto/slimfleet \\
    --tls-cert /etc/ssl/broker.crt --tls-key /etc/ssl/private/broker.key
  slimfleet broker run --fleet pumps --folder broker-data --devices pump-1,pump-2
"""
CONFIG_EXAMPLE = """example:
  slimfleet broker config mosquitto --fleet pumps --out mosquitto --operators anna,ben
  slimfleet broker config mosquitto --fleet pumps --out mosquitto \\
    --tls-cert broker.crt --tls-key broker.key --client-ca devices-ca.crt
"""
RUN_EXAMPLE = """example:
  slimfleet broker run --fleet pumps --folder broker-data --devices pump-1,pump-2

For trials on one machine: it listens on loopback only. Each user's password stands in a file of its
own under FOLDER/passwords, for password_file in agent.toml and server.toml.
"""
SERVER = "server"
RUN_PORT = 1883
WATCH_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    actions = parser.add_subparsers(dest="broker_action", required=True, metavar="ACTION")
    config = _action(actions, "config", "write a broker's configuration", CONFIG_EXAMPLE)
    config.add_argument("kind", choices=["mosquitto"], help="which broker")
    config.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    config.add_argument("--tls-cert", type=Path, metavar="FILE", help="the broker's certificate")
    config.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    config.add_argument(
        "--client-ca",
        type=Path,
        metavar="FILE",
        help="authority of client certificates; every client then shows one, without a password",
    )
    config.add_argument("--crl", type=Path, metavar="FILE", help="revoked client certificates")
    config.add_argument("--bind", metavar="ADDRESS", help="loopback without TLS, else everywhere")
    config.add_argument("--force", action="store_true", help="overwrite files that are there")
    run_parser = _action(actions, "run", "run the embedded broker on this machine", RUN_EXAMPLE)
    run_parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="its store and passwords"
    )
    run_parser.add_argument(
        "--devices", type=_names, required=True, metavar="A,B", help="ids of the devices"
    )
    for action in (config, run_parser):
        action.add_argument("--fleet", type=name_argument, required=True, metavar="NAME")
        action.add_argument(
            "--operators",
            type=_names,
            default=(OPERATOR,),
            metavar="A,B",
            help=f"user names of operators (default {OPERATOR})",
        )
        action.add_argument(
            "--server", type=name_argument, default=SERVER, metavar="NAME", help="its user name"
        )
        action.add_argument("--port", type=_port, metavar="N", help="1883, with TLS 8883")


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    _check_distinct(arguments)
    if arguments.broker_action == "config":
        return write_mosquitto(arguments)
    asyncio.run(_serve(arguments))
    return ExitCode.DONE


def write_mosquitto(arguments: argparse.Namespace) -> int:
    """Write ``mosquitto.conf`` and ``acl``, and say what is left to do.

    Raises:
        ConfigError: the TLS files do not belong together, or a file is already there.
    """
    tls = _tls(arguments)
    out = make_folder(arguments.out.resolve())
    config, acl, passwords = out / "mosquitto.conf", out / "acl", out / "passwords"
    there = [path for path in (config, acl) if path.exists()]
    if there and not arguments.force:
        raise ConfigError(f"{there[0]} is already there; add --force to overwrite it")
    certificates = tls is not None and tls.client_certificates
    text = mosquitto_config(
        acl_file=acl,
        password_file=None if certificates else passwords,
        tls=tls,
        port=arguments.port,
        bind=arguments.bind,
    )
    access = mosquitto_acl(arguments.fleet, arguments.operators, server=arguments.server)
    write_atomically(config, text.encode(), mode=0o644)
    write_atomically(acl, access.encode())
    sys.stdout.write("\n".join(_next_steps(arguments, config, acl, passwords)) + "\n")
    return ExitCode.DONE


def _tls(arguments: argparse.Namespace) -> ServerTls | None:
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        raise ConfigError("--tls-cert and --tls-key go together: give both or neither")
    if arguments.tls_cert is None:
        if arguments.client_ca or arguments.crl:
            raise ConfigError("client certificates need TLS: give --tls-cert and --tls-key too")
        return None
    if arguments.crl and not arguments.client_ca:
        raise ConfigError("--crl revokes client certificates: give --client-ca too")
    return ServerTls(
        cert_file=arguments.tls_cert.resolve(),
        key_file=arguments.tls_key.resolve(),
        ca_file=arguments.client_ca.resolve() if arguments.client_ca else None,
        crl_file=arguments.crl.resolve() if arguments.crl else None,
        client_certificates=arguments.client_ca is not None,
    )


def _next_steps(
    arguments: argparse.Namespace, config: Path, acl: Path, passwords: Path
) -> list[str]:
    users = [arguments.server, *arguments.operators]
    steps = [f"wrote {config}", f"wrote {acl}", "", "next:"]
    owned = [acl]
    if arguments.client_ca:
        steps.append(
            "  1. give every client a certificate whose common name is its user name:"
            f" {', '.join(users)}, and each device's id"
        )
    else:
        owned.append(passwords)
        steps += [
            "  1. set a password for each user; you are asked for it:",
            *(
                f"       mosquitto_passwd {'-c ' if number == 0 else ''}{passwords} {user}"
                for number, user in enumerate(users)
            ),
            f"       mosquitto_passwd {passwords} DEVICE     (for each device, its id)",
        ]
    steps += [
        "  2. let the broker's user alone read them:",
        f"       chown mosquitto: {' '.join(map(str, owned))}",
        f"       chmod 600 {' '.join(map(str, owned))}",
        f"  3. start it: mosquitto -c {config}",
    ]
    if arguments.tls_cert is None:
        steps += [
            "",
            "Without TLS, passwords and weights travel in the clear:",
            f"it listens on {arguments.bind or 'loopback only'}.",
            "For real machines give --tls-cert and --tls-key.",
        ]
    return steps


async def _serve(arguments: argparse.Namespace) -> None:
    """Run the embedded broker until a signal.

    Raises:
        BrokerConfigError: it does not start, or ended by itself.
    """
    folder = make_folder(arguments.folder.resolve())
    files = make_passwords(folder / "passwords", _members(arguments))
    users = {
        name: (files[name].read_text().strip(), may) for name, may in _members(arguments).items()
    }
    broker = EmbeddedBroker(folder / "broker", users=users, port=arguments.port or RUN_PORT)
    make_folder(folder / "broker")
    stopping = asyncio.Event()

    async def stop() -> None:
        stopping.set()

    async with stop_on_signal(stop):
        await asyncio.to_thread(broker.start)
        try:
            sys.stdout.write(
                f"broker of fleet {arguments.fleet} at {broker.address}\n"
                f"passwords in {folder / 'passwords'}: {', '.join(users)}\n"
            )
            sys.stdout.flush()
            await _until(stopping, lambda: broker.running)
            if not stopping.is_set():
                raise BrokerConfigError(f"the broker ended by itself; see {broker.log}")
        finally:
            await asyncio.to_thread(broker.stop)


async def _until(stopping: asyncio.Event, running: Callable[[], bool]) -> None:
    while running() and not stopping.is_set():
        try:
            await asyncio.wait_for(stopping.wait(), WATCH_S)
        except TimeoutError:
            continue


def _members(arguments: argparse.Namespace) -> dict[str, Permissions]:
    fleet = arguments.fleet
    return (
        {device: device_permissions(fleet, device) for device in arguments.devices}
        | {name: operator_permissions(fleet, name) for name in arguments.operators}
        | {arguments.server: server_permissions(fleet)}
    )


def make_passwords(folder: Path, users: Mapping[str, object]) -> dict[str, Path]:
    """Return each user's password file, made where it is missing, readable by its owner only."""
    make_folder(folder)
    files = {user: folder / user for user in users}
    for path in files.values():
        if not path.exists():
            write_atomically(path, f"{secrets.token_urlsafe(24)}\n".encode())
    return files


def _check_distinct(arguments: argparse.Namespace) -> None:
    names = [arguments.server, *arguments.operators, *getattr(arguments, "devices", ())]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"each user needs a name of its own; {', '.join(sorted(twice))} is twice")


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name_argument(part.strip()) for part in text.split(","))


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: use 1 to 65535")
    return int(text)
