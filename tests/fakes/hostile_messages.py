"""Messages that decode and are nonsense: what a hostile or broken peer may say."""

import types
import typing
from enum import Enum

import msgspec
from hypothesis import strategies as st

LONG = 15_000
# Small ones among them, so that rounds and sessions are sometimes those that exist.
INTEGERS = st.integers(-3, 4) | st.sampled_from([2**31, 2**63 - 1, -(2**63), 2**64 - 1])
FLOATS = st.sampled_from([0.0, -0.0, 0.25, 1.0, -1.0, 1e308]) | st.floats()
TEXTS = (
    st.sampled_from(["", "toy", "f" * 64, "../x", "#", "a/+/b", "\0"])
    | st.just(LONG).map("x".__mul__)
    | st.text(max_size=20)
)
BYTES = st.binary(max_size=40) | st.just(b"k" * 32)


def hostile(kind, **fixed):
    """Return a strategy of structs of this type with any values that its fields may take.

    Args:
        kind: a msgspec struct.
        fixed: fields that are drawn from these strategies instead.
    """
    fields = typing.get_type_hints(kind)
    return st.builds(
        kind, **{name: fixed[name] if name in fixed else _values(of) for name, of in fields.items()}
    )


def _values(kind):
    simple = {
        bool: st.booleans(),
        int: INTEGERS,
        float: FLOATS,
        str: TEXTS,
        bytes: BYTES,
        type(None): st.none(),
    }
    if kind in simple:
        return simple[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in {types.UnionType, typing.Union}:
        return st.one_of([_values(one) for one in inner])
    if origin is tuple:
        return st.lists(_values(inner[0]), max_size=4).map(tuple)
    if origin is dict:
        values = st.none() if inner[1] is typing.Any else _values(inner[1])
        return st.dictionaries(TEXTS, values, max_size=3)
    if issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    if issubclass(kind, msgspec.Struct):
        return hostile(kind)
    raise TypeError(f"no hostile values of {kind}")
