"""What an operator is told about the audit log: from retained messages to data and sentences.

No signature is checked here, for an operator's tools hold no key of the server: who wants to be
sure exports the log and checks it, see docs/audit.md.
"""

import math
from collections.abc import Mapping
from typing import Any

from broker.decoding import decode_struct
from broker.errors import DecodeError
from broker.messages import Checkpoint, SignedCheckpoint, Witness
from monitor.terminal_text import plain


def checkpoint_in(signed: SignedCheckpoint) -> Checkpoint | None:
    """Return what a server says that it signed, None where that cannot be read."""
    try:
        return decode_struct(signed.checkpoint.payload, Checkpoint)
    except DecodeError:
        return None


def contradicted(witnesses: Mapping[str, Witness]) -> tuple[str, ...]:
    """Return the devices that report a contradiction, sorted."""
    return tuple(sorted(name for name, one in witnesses.items() if one.contradiction))


def alarms(witnesses: Mapping[str, Witness]) -> list[str]:
    """Return what must not be overlooked, as sentences."""
    names = contradicted(witnesses)
    if not names:
        return []
    who = ", ".join(map(plain, names))
    said = (
        f"THE SERVER'S HISTORY WAS CHANGED, report: {who}; what the server shows now is not what"
        " they saw signed: see docs/audit.md"
    )
    return [said]


def sentences(witness: Witness | None) -> list[str]:
    """Return what stands below a device."""
    if witness is None or witness.contradiction is None:
        return []
    return [
        (
            f"CONTRADICTION ({witness.contradiction.kind}): it keeps a checkpoint of {witness.size}"
            " events that a later one of the server denies"
        )
    ]


def checkpoint_data(one: Checkpoint | None) -> dict[str, Any] | None:
    """Return a checkpoint as plain data."""
    if one is None:
        return None
    return {"size": one.size, "root": one.root.hex(), "signed_at": _finite(one.signed_at)}


def witness_data(one: Witness | None) -> dict[str, Any] | None:
    """Return what a device witnesses as plain data."""
    if one is None:
        return None
    return {
        "size": one.size,
        "root": one.root.hex(),
        "signed_at": _finite(one.signed_at),
        "contradiction": str(one.contradiction.kind) if one.contradiction else "",
        "accepted": one.accepted,
    }


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0
