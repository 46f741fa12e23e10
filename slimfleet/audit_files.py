"""The files that the audit commands read and write: of a server, of a device, and exports."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from broker import messages as m
from broker.decoding import decode_struct
from broker.envelope import parse_private_key, parse_public_key, public_key_of, public_key_text
from broker.errors import DecodeError
from coordinator.journal_checkpoints import SignedCheckpoints
from coordinator.witnessing import CHECKPOINTS_FILE
from edge_agent.witness_state import WitnessState, decode_witness_state
from journal.errors import AuditError, DamagedFileError, JournalError
from journal.reader import JournalReader
from journal.reading import read_state
from slimfleet.config import ConfigError, ServerConfig, read_config
from slimfleet.keys import SIGNING_KEY_FILE

KEY_LINE = re.compile(r"slimfleet-ed25519 [A-Za-z0-9+/=]{44}")


@dataclass(frozen=True)
class ServerFiles:
    """What a server's folder says about its audit log.

    Attributes:
        public_key: as a line for ``trusted_keys``, "" where the folder holds no key.
        checkpoint: the newest that it signed, None before the first.
    """

    fleet: str
    public_key: str
    checkpoint: m.SignedEnvelope | None
    journal: JournalReader


def server_files(config: Path, *, salvage: bool = False) -> ServerFiles:
    """Return what the folder of a server holds; nothing is made or changed there.

    Args:
        config: server.toml.
        salvage: see `journal.reader.JournalReader`.

    Raises:
        ConfigError: the configuration or the key cannot be read.
        AuditError: the checkpoints cannot be read.
    """
    server = read_config(config, ServerConfig)
    folder = config.resolve().parent / server.folder
    return ServerFiles(
        fleet=server.campaign.fleet,
        public_key=_public_key(folder / SIGNING_KEY_FILE),
        checkpoint=_newest(folder / CHECKPOINTS_FILE),
        journal=JournalReader(folder / "journal", salvage=salvage),
    )


def _public_key(path: Path) -> str:
    try:
        return public_key_text(public_key_of(parse_private_key(path.read_text())))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; restore it from a backup") from error


def _newest(path: Path) -> m.SignedEnvelope | None:
    try:
        signed = decode_struct(read_state(path), SignedCheckpoints).checkpoints
    except FileNotFoundError:
        return None
    except (OSError, DamagedFileError, DecodeError) as error:
        raise AuditError(f"{path} cannot be read: {error}") from error
    return signed[-1] if signed else None


def read_keys(given: str) -> list[bytes]:
    """Return the public keys that a line, or a file with such lines in it, names.

    Raises:
        ConfigError: there is none.
    """
    text = given
    if not KEY_LINE.fullmatch(given.strip()):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--key {given}: neither a line 'slimfleet-ed25519 ...' nor a file that can be read"
                f" ({error})"
            ) from error
    try:
        keys = [parse_public_key(line) for line in KEY_LINE.findall(text)]
    except ValueError as error:
        raise ConfigError(f"--key {given}: {error}") from error
    if not keys:
        raise ConfigError(
            f"--key {given}: holds no line 'slimfleet-ed25519 ...'; take the trusted_keys of a"
            " device, or what `slimfleet server --public-key` prints"
        )
    return keys


def own_key(line: str, given: str) -> bytes:
    """Return the key that a file brings along.

    Args:
        line: as it stands in the file.
        given: name of the file, for the error.

    Raises:
        ConfigError: it brings none.
    """
    try:
        return parse_public_key(line)
    except ValueError as error:
        raise ConfigError(f"{given} names no public key: give one with --key") from error


def read_witness_file(path: Path) -> WitnessState:
    """Return what a device has witnessed, from a copy of its file.

    Raises:
        AuditError: it cannot be read.
    """
    try:
        return decode_witness_state(read_state(path))
    except (OSError, DamagedFileError, DecodeError) as error:
        raise AuditError(
            f"{path} is not what a device has witnessed ({error}); copy the file `witness` of its"
            " folder"
        ) from error


def write_lines(path: Path, lines: Iterable[bytes]) -> bytes:
    """Write a file as a whole, or leave what was there, and return its last line.

    Raises:
        AuditError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    last = b""
    try:
        with temporary.open("wb") as file:
            for last in lines:
                file.write(last)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise AuditError(f"{path} cannot be written: {error.strerror or error}") from error
    except JournalError:
        temporary.unlink(missing_ok=True)
        raise
    return last
