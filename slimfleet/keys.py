"""The server's secrets on disk: made at the first start, readable by their owner only."""

from collections.abc import Callable
from pathlib import Path

from broker.blobs import SECRET_SIZE
from broker.envelope import (
    generate_signing_key,
    parse_private_key,
    private_key_text,
    public_key_of,
    public_key_text,
)
from coordinator.server import Identity
from journal.disk import make_folder, write_atomically
from journal.platform import FileLock, HeldError
from slimfleet.config import ConfigError

LOCK_FILE = "keys.lock"
SIGNING_KEY_FILE = "signing-key"
FLEET_SECRET_FILE = "fleet-secret"  # noqa: S105 - a file name


def load_identity(folder: Path, random_bytes: Callable[[int], bytes]) -> Identity:
    """Return the server's keys, making them where they are missing.

    Args:
        folder: the server's folder.
        random_bytes: returns that many unpredictable bytes, as `os.urandom` does.

    Raises:
        ConfigError: a key file is there but unreadable, or was there and is gone; what devices
            trust is never replaced.
    """
    make_folder(folder)
    try:
        lock = FileLock(folder / LOCK_FILE)  # two first starts must not make two keys
    except HeldError as error:
        raise ConfigError(f"{error}: the server's keys are being made; try again") from error
    try:
        return _load_or_make(folder, random_bytes)
    finally:
        lock.release()


def _load_or_make(folder: Path, random_bytes: Callable[[int], bytes]) -> Identity:
    signing, secret = folder / SIGNING_KEY_FILE, folder / FLEET_SECRET_FILE
    if secret.exists() and not signing.exists():  # they are made in the other order
        raise ConfigError(
            f"{signing} is gone: restore it from a backup; with a new key no device would trust"
            " this server"
        )
    if not signing.exists():
        write_atomically(signing, private_key_text(generate_signing_key()).encode())
    if not secret.exists():
        write_atomically(secret, random_bytes(SECRET_SIZE).hex().encode())
    try:
        key = parse_private_key(signing.read_text())
        fleet_secret = bytes.fromhex(secret.read_text().strip())
        if len(fleet_secret) != SECRET_SIZE:
            raise ValueError(f"{secret} holds {len(fleet_secret)} bytes, not {SECRET_SIZE}")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: the server's keys are unreadable ({error}); restore them from a backup:"
            " with new keys no device would trust this server"
        ) from error
    return Identity(fleet_secret=fleet_secret, signing_key=key)


def public_key(identity: Identity) -> str:
    """Return the line that devices put into ``trusted_keys``."""
    return public_key_text(public_key_of(identity.signing_key))
