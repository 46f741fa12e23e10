"""Somebody who may use the page."""

from enum import StrEnum
from typing import Literal

import msgspec


class Role(StrEnum):
    """What somebody may do: a viewer looks, an operator acts as well."""

    VIEWER = "viewer"
    OPERATOR = "operator"


class SecretHash(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of a token or of a password.

    Attributes:
        kind: which of the two.
        salt: hex, "" of a token.
        hash: hex.
    """

    kind: Literal["token", "password"]
    hash: str
    salt: str = ""


class Person(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody, or some program, that may use the page.

    Attributes:
        name: unique; what the journal keeps of whoever acted.
        made_at: seconds since the epoch.
    """

    name: str
    role: Role
    secret: SecretHash
    made_at: float
