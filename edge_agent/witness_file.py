"""Where a device keeps what it has witnessed, and where an operator leaves a word about it."""

import logging
from pathlib import Path

import msgspec

from broker.decoding import decode_struct
from broker.envelope import Verifier
from broker.errors import DecodeError
from edge_agent.witness import Witness
from edge_agent.witness_state import Acceptance, WitnessState, encode_witness_state
from journal.disk import register_file, write_state
from journal.errors import DamagedFileError
from journal.reading import read_state

log = logging.getLogger(__name__)

WITNESS_FILE = "witness"
ACCEPTED_FILE = "witness-accepted"

register_file("witness", "the checkpoint that a device keeps")


def read_witness(folder: Path, device: str, verifier: Verifier) -> Witness:
    """Return the witness of a device, from what its folder holds.

    A damaged file is no reason to end: the device then trusts the next checkpoint, as a new one.
    """
    try:
        return Witness.restored(device, verifier, read_state(folder / WITNESS_FILE))
    except FileNotFoundError:
        pass
    except (DecodeError, DamagedFileError, OSError) as error:
        log.warning("%s; the next checkpoint of the server is taken as the first", error)
    return Witness(device, verifier)


def write_witness(folder: Path, state: WitnessState) -> None:
    """Write what a device has witnessed, durably.

    Raises:
        OSError: it cannot be written, for example for want of room; the old state is kept.
    """
    write_state(folder / WITNESS_FILE, encode_witness_state(state), kind="witness")


def read_acceptance(folder: Path) -> Acceptance | None:
    """Return what an operator left last, None where there is nothing that can be read."""
    try:
        return decode_struct(read_state(folder / ACCEPTED_FILE), Acceptance)
    except FileNotFoundError:
        return None
    except (DecodeError, DamagedFileError, OSError) as error:
        log.warning("%s", error)
        return None


def leave_acceptance(folder: Path, acceptance: Acceptance) -> None:
    """Leave an operator's word for the agent, which need not run now.

    Raises:
        OSError: it cannot be written.
    """
    write_state(folder / ACCEPTED_FILE, msgspec.msgpack.encode(acceptance), kind="witness")
