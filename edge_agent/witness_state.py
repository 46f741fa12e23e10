"""What a witness keeps on a device's disk, as values."""

import msgspec

from broker import messages as m
from broker.decoding import decode_struct


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A contradiction that an operator has accepted on this device, and why; device's clock."""

    contradiction: m.Contradiction
    reason: str
    at: float


class WitnessState(msgspec.Struct, frozen=True, kw_only=True):
    """What a witness keeps on its disk.

    Attributes:
        kept: envelope of the newest checkpoint that agrees with all before it.
        contradiction: the evidence that another one does not; ``kept`` stays where it is meanwhile.
        accepted: contradictions of the past, the last ones.
    """

    kept: m.SignedEnvelope | None = None
    contradiction: m.Contradiction | None = None
    accepted: tuple[Accepted, ...] = ()


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's word, left in a file beside the state: this contradiction is accounted for.

    Attributes:
        seen: signatures' payload of the checkpoint that is accepted, so that another contradiction
            is not accepted with it.
    """

    seen: bytes
    reason: str


def encode_witness_state(state: WitnessState) -> bytes:
    """Return the bytes of a state; the file that holds them adds the checksum."""
    return msgspec.msgpack.encode(state)


def decode_witness_state(data: bytes) -> WitnessState:
    """Read the bytes of a state.

    Raises:
        DecodeError: they are not a state, or what it keeps is no checkpoint.
    """
    state = decode_struct(data, WitnessState)
    document_of(state.kept)
    return state


def document_of(envelope: m.SignedEnvelope | None) -> m.Checkpoint | None:
    """Return the checkpoint in an envelope that was verified before."""
    return decode_struct(envelope.payload, m.Checkpoint) if envelope else None
