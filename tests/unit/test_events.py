"""Every event type: comes back from its bytes, and has no place for a secret."""

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as search
from hypothesis import strategies as st
from msgspec import inspect

from coordinator.settings import Settings
from journal import events as e
from journal.chain import canonical_bytes

TYPES = typing.get_args(e.AnyEvent)
SECRETS = ("key", "password", "secret", "token", "credential")


def nested(kind, path=""):
    """Yield every (path, type) below a msgspec type."""
    yield path, kind
    match kind:
        case inspect.StructType() | inspect.DataclassType():
            for field in kind.fields:
                yield from nested(field.type, f"{path}.{field.name}")
        case inspect.VarTupleType() | inspect.ListType():
            yield from nested(kind.item_type, f"{path}[]")
        case inspect.DictType():
            yield from nested(kind.value_type, f"{path}{{}}")
        case inspect.UnionType():
            for one in kind.types:
                yield from nested(one, path)


def values(kind):
    """Return a strategy for the values of a msgspec type."""
    match kind:
        case inspect.StructType():
            fields = {field.name: values(field.type) for field in kind.fields}
            return st.builds(kind.cls, **fields)
        case inspect.DataclassType():  # its only number, a window's, is at least 0
            whole = st.integers(0, 2**63 - 1)
            return st.builds(
                kind.cls,
                **{
                    field.name: whole
                    if isinstance(field.type, inspect.IntType)
                    else values(field.type)
                    for field in kind.fields
                },
            )
        case inspect.VarTupleType():
            return st.lists(values(kind.item_type), max_size=2).map(tuple)
        case inspect.DictType():
            return st.dictionaries(st.text(max_size=4), values(kind.value_type), max_size=2)
        case inspect.UnionType():
            return st.one_of([values(one) for one in kind.types])
        case inspect.EnumType():
            return st.sampled_from(kind.cls)
        case inspect.IntType():
            return st.integers(-(2**63), 2**63 - 1)
        case inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case inspect.StrType():
            return st.text(max_size=8)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.AnyType():
            return st.one_of(st.text(max_size=4), st.integers(-9, 9), st.lists(st.booleans()))
    raise AssertionError(f"no values for {kind}: add them here")


@pytest.mark.parametrize("event_type", TYPES, ids=lambda kind: kind.__name__)
def test_an_event_comes_back_from_its_bytes(event_type):
    @given(values(inspect.type_info(event_type)))
    @search(max_examples=25)
    def comes_back(event):
        payload = canonical_bytes(event)
        assert msgspec.json.decode(payload, type=e.AnyEvent) == event

    comes_back()


@pytest.mark.parametrize("event_type", [*TYPES, Settings], ids=lambda kind: kind.__name__)
def test_no_event_has_a_place_for_a_key(event_type):
    for path, kind in nested(inspect.type_info(event_type)):
        name = path.rpartition(".")[2].lower()
        assert not any(secret in name for secret in SECRETS), path
        assert not isinstance(kind, inspect.BytesType), f"{path} holds bytes: is it a key?"


# What of an event may hold many numbers. None of it is a sample, a feature or a weight, but widths,
# shapes, counts, and scores over blocks of recordings.
NUMBERS = {
    ".widths[]",
    ".ladder[]",
    ".training.widths[]",
    ".training.draw_weights[]",
    ".contributions[].blocks[]",
    ".scores[].blocks[]",
    ".release.manifest.input_shape[]",
    ".release.manifest.other_inputs[].shape[]",
    ".release.manifest.reference.classes[]",
    ".release.manifest.reference.confidence[]",
}


def test_no_event_has_a_place_for_raw_data():
    """A sample is many numbers: a list of numbers is looked at before it may enter the journal."""
    number = (inspect.IntType, inspect.FloatType, inspect.AnyType)
    found = {
        path
        for event_type in TYPES
        for path, kind in nested(inspect.type_info(event_type))
        if path.endswith("[]") and isinstance(kind, number)
    }
    assert found == NUMBERS, "is it somebody's data?"


def test_every_event_has_a_tag_of_its_own():
    tags = [msgspec.inspect.type_info(kind).tag for kind in TYPES]
    assert len(set(tags)) == len(tags)
    assert all(tag == tag.lower() for tag in tags)


def test_every_event_of_the_file_is_one_that_can_be_read_back():
    written = {kind for kind in vars(e).values() if isinstance(kind, type)}
    assert {kind for kind in written if issubclass(kind, e.Event)} - {e.Event} == set(TYPES)
