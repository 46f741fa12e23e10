"""Which model a device runs, as a value: every change of it is a pure function here.

`edge_agent.slots` keeps one such value on disk, so that each change is one atomic write. The rules:

* the counter never falls, and a repeated counter must name the same digest;
* ``previous`` was confirmed to run on this device, so it is safe to go back to;
* a model that is not confirmed is started at most `MAX_ATTEMPTS` times.
"""

import msgspec

from broker.decoding import decode_struct
from broker.errors import RollbackError

MAX_ATTEMPTS = 3


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """What the device runs and what it was last told.

    Attributes:
        revision: counts the changes.
        counter: of the last deployment that was decided on.
        asked: the digest that this deployment named; "" took the model away.
        failure: why the last deployment is finally not running, in one line; "" otherwise.
        current: digest of the model to run, or "".
        placed_by: counter of the deployment that put it there.
        confirmed: the current model was seen to run.
        attempts: starts of the current model before it was confirmed.
        previous: digest of the last confirmed model before it, or "".
        previous_placed_by: counter of the deployment that put that one there.
    """

    revision: int = 0
    counter: int = 0
    asked: str = ""
    failure: str = ""
    current: str = ""
    placed_by: int = 0
    confirmed: bool = False
    attempts: int = 0
    previous: str = ""
    previous_placed_by: int = 0


def check_counter(state: SlotState, counter: int, digest: str) -> None:
    """Refuse a deployment that is older than the last one, or a different one of its counter.

    Raises:
        RollbackError: it is.
    """
    if counter < state.counter or (counter == state.counter and digest != state.asked):
        raise RollbackError(
            f"deployment {counter} names {digest[:12] or 'no model'}, but deployment"
            f" {state.counter} was already decided on; to go back, deploy with a higher counter"
        )


def activate(state: SlotState, digest: str, counter: int) -> SlotState:
    """Make ``digest`` the model to run; it is not confirmed yet.

    Raises:
        RollbackError: the deployment is an old one.
    """
    check_counter(state, counter, digest)
    told = _change(state, counter=counter, asked=digest, failure="", placed_by=counter)
    if digest == state.current:
        return told
    back, back_by = (
        (state.current, state.placed_by)
        if state.confirmed
        else (state.previous, state.previous_placed_by)
    )
    if back == digest:
        back, back_by = "", 0
    return msgspec.structs.replace(
        told,
        current=digest,
        confirmed=False,
        attempts=0,
        previous=back,
        previous_placed_by=back_by,
    )


def confirm(state: SlotState) -> SlotState:
    """Note that the current model was seen to run."""
    return _change(state, confirmed=bool(state.current), attempts=0)


def start(state: SlotState) -> SlotState:
    """Count a start of the process; after too many of an unconfirmed model, go back."""
    if state.confirmed or not state.current:
        return state
    if state.attempts >= MAX_ATTEMPTS:
        return revert(
            state,
            f"model {state.current[:12]} was started {state.attempts} times and never confirmed",
        )
    return _change(state, attempts=state.attempts + 1)


def revert(state: SlotState, reason: str) -> SlotState:
    """Go back to the previous model, or to none; the counter stays where it is."""
    return _change(
        state,
        failure=reason,
        current=state.previous,
        placed_by=state.previous_placed_by,
        confirmed=bool(state.previous),
        attempts=0,
        previous="",
        previous_placed_by=0,
    )


def give_up(state: SlotState, digest: str, counter: int, reason: str) -> SlotState:
    """Note that a deployment will not be installed; what runs stays.

    Raises:
        RollbackError: the deployment is an old one.
    """
    check_counter(state, counter, digest)
    return _change(state, counter=counter, asked=digest, failure=reason)


def remove(state: SlotState, counter: int) -> SlotState:
    """Run no model, and keep none to go back to: the deployment took it away.

    Raises:
        RollbackError: the deployment is an old one.
    """
    check_counter(state, counter, "")
    return SlotState(revision=state.revision + 1, counter=counter)


def without(state: SlotState, damaged: str) -> SlotState:
    """Forget a model whose file is damaged; asking for it again installs it again."""
    if damaged == state.current:
        return msgspec.structs.replace(revert(state, ""), failure="")
    return _change(state, previous="", previous_placed_by=0)


def encode_slot_state(state: SlotState) -> bytes:
    """Return the bytes of a state; the file that holds them adds the checksum."""
    return msgspec.msgpack.encode(state)


def decode_slot_state(data: bytes) -> SlotState:
    """Read the bytes of a state.

    Raises:
        DecodeError: they are not a state.
    """
    return decode_struct(data, SlotState)


def _change(state: SlotState, **fields: int | str | bool) -> SlotState:
    return msgspec.structs.replace(state, revision=state.revision + 1, **fields)
