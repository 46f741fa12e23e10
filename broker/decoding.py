"""Bytes to structs, or one line that says why not."""

from typing import TypeVar

import msgspec

from broker.errors import DecodeError

T = TypeVar("T")


def decode_struct(payload: bytes, struct_type: type[T]) -> T:
    """Read any msgpack struct, whatever its size.

    Raises:
        DecodeError: not msgpack, or not of this type.
    """
    try:
        return msgspec.msgpack.decode(payload, type=struct_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a {struct_type.__name__}: {error}") from error


def decode_document(text: bytes, struct_type: type[T]) -> T:
    """Read a struct that stands as JSON in a file for people.

    Raises:
        DecodeError: not JSON, or not of this type.
    """
    try:
        return msgspec.json.decode(text, type=struct_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a {struct_type.__name__}: {error}") from error
