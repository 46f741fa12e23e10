"""Passwords and tokens as they are kept: hashed, never readable.

A token is 256 random bits, so one SHA-256 hides it. A password is guessable, so that each guess has
to cost: scrypt (RFC 7914), with the parameters that OWASP's password storage cheat sheet names.
"""

import hashlib
import hmac
import secrets
import unicodedata

from monitor.web.person import SecretHash

COST, BLOCK, LANES = 2**15, 8, 3  # 32 MiB, some 0.2 s
MEMORY = 160 * BLOCK * COST
SALT_BYTES = 16
TOKEN_PREFIX = "slimfleet_"  # noqa: S105 - what tokens begin with, so that scanners find leaked ones
SHORTEST_PASSWORD = 12


NOBODY = SecretHash(kind="password", hash="00" * 32, salt="00" * SALT_BYTES)
"""What a password is compared with where there is no such user: as slow, and it never fits."""


def make_token() -> str:
    """Return a new token of 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def hash_token(token: str) -> SecretHash:
    """Return what is kept of a token."""
    return SecretHash(kind="token", hash=hashlib.sha256(token.encode()).hexdigest())


def hash_password(password: str, salt: bytes | None = None) -> SecretHash:
    """Return what is kept of a password.

    Raises:
        ValueError: it is too short to be kept.
    """
    if len(password) < SHORTEST_PASSWORD:
        raise ValueError(f"a password has at least {SHORTEST_PASSWORD} characters")
    salt = salt or secrets.token_bytes(SALT_BYTES)
    return SecretHash(kind="password", hash=_scrypt(password, salt).hex(), salt=salt.hex())


def fits(password: str, kept: SecretHash) -> bool:
    """Return whether this is the password; takes as long whether it is or not."""
    found = _scrypt(password, bytes.fromhex(kept.salt))
    return hmac.compare_digest(found, bytes.fromhex(kept.hash))


def _scrypt(password: str, salt: bytes) -> bytes:
    # One password, however a keyboard composes its letters (RFC 8265 asks for the like).
    same = unicodedata.normalize("NFKC", password).encode()
    return hashlib.scrypt(same, salt=salt, n=COST, r=BLOCK, p=LANES, maxmem=MEMORY, dklen=32)
