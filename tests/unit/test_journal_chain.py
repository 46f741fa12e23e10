"""The hash chain: what it stores, and every way of tampering with it."""

import dataclasses
import hashlib
import math
import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from journal.chain import EMPTY, Head, Record, canonical_bytes, extend, verify
from journal.errors import ChainError, EventError, JournalDamagedError
from journal.events import (
    CampaignStarted,
    DeviceDropped,
    MessageRefused,
    ModelInitialised,
    ServerStarted,
    WorkFailed,
)

EVENTS = st.one_of(
    st.builds(ServerStarted, epoch=st.integers(0, 2**40)),
    st.builds(WorkFailed, job=st.text(max_size=8), detail=st.text(max_size=20)),
    st.builds(
        MessageRefused, sender=st.text(max_size=8), channel=st.just("update"), reason=st.text()
    ),
    st.builds(ModelInitialised, digest=st.text(max_size=4), score=st.floats(-1e9, 1e9)),
)
TIMES = st.floats(allow_nan=False, allow_infinity=False)


def chain_of(batches):
    records = []
    for events, at in batches:
        records += extend(records[-1].head if records else EMPTY, events, at)
    return records


CHAINS = st.lists(st.tuples(st.lists(EVENTS, max_size=3), TIMES), max_size=6).map(chain_of)
SOME = CHAINS.filter(bool)
SEVERAL = CHAINS.filter(lambda records: len(records) > 1)


def four():
    return chain_of([([ServerStarted(epoch=one)], 100.0 + one) for one in range(4)])


@given(CHAINS)
def test_an_untouched_chain_verifies_and_gives_its_head(records):
    head = verify(records)
    assert head == (records[-1].head if records else EMPTY)
    assert head.count == len(records)
    assert verify(records, head) == head


@given(st.lists(EVENTS, max_size=4), TIMES)
def test_every_event_comes_back_as_it_was_recorded(events, at):
    records = extend(EMPTY, events, at)
    assert [one.event for one in records] == events
    assert all(one.at == at for one in records)


def test_the_hash_covers_previous_index_time_and_exactly_the_stored_bytes():
    first, second = extend(EMPTY, [ServerStarted(epoch=1), ServerStarted(epoch=2)], 5.5)
    assert second.payload == b'{"event":"server-started","epoch":2}'
    assert second.previous == first.hash
    expected = hashlib.sha256(first.hash + struct.pack(">qd", 1, 5.5) + second.payload).digest()
    assert second.hash == expected


def test_the_order_in_a_mapping_does_not_change_the_bytes():
    def campaign(settings):
        return CampaignStarted(
            fleet="f",
            model="m",
            options={},
            spec_hash="s",
            widths=(1.0,),
            ladder=(1.0,),
            seed=0,
            software="1",
            settings=settings,
        )

    forth = canonical_bytes(campaign({"a": 1, "b": {"x": 1, "y": 2}}))
    back = canonical_bytes(campaign({"b": {"y": 2, "x": 1}, "a": 1}))
    assert forth == back


@given(SOME, st.data())
def test_any_edit_of_one_record_is_found_at_its_place(records, data):
    place = data.draw(st.integers(0, len(records) - 1))
    field = data.draw(st.sampled_from(["index", "at", "payload", "previous", "hash"]))
    old = getattr(records[place], field)
    if field == "index":
        new = data.draw(st.integers(-5, 2**40))
    elif field == "at":
        new = data.draw(TIMES)
    elif field == "payload":
        new = data.draw(st.binary(max_size=40))
    else:
        new = data.draw(st.binary(min_size=32, max_size=32))
    assume(new != old)
    records[place] = dataclasses.replace(records[place], **{field: new})
    with pytest.raises(ChainError) as caught:
        verify(records)
    assert caught.value.index == place


@given(SOME, st.data())
def test_one_flipped_bit_of_a_payload_is_found(records, data):
    place = data.draw(st.integers(0, len(records) - 1))
    payload = bytearray(records[place].payload)
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    payload[bit // 8] ^= 1 << bit % 8
    records[place] = dataclasses.replace(records[place], payload=bytes(payload))
    with pytest.raises(ChainError) as caught:
        verify(records)
    assert caught.value.index == place


@given(SEVERAL, st.data())
def test_two_swapped_records_are_found_at_the_first(records, data):
    first = data.draw(st.integers(0, len(records) - 2))
    second = data.draw(st.integers(first + 1, len(records) - 1))
    records[first], records[second] = records[second], records[first]
    with pytest.raises(ChainError) as caught:
        verify(records)
    assert caught.value.index == first


@given(SEVERAL, st.data())
def test_a_removed_record_is_found_at_its_place(records, data):
    place = data.draw(st.integers(0, len(records) - 2))
    del records[place]
    with pytest.raises(ChainError, match="missing") as caught:
        verify(records)
    assert caught.value.index == place


@given(SOME, st.data())
def test_a_repeated_record_is_found(records, data):
    place = data.draw(st.integers(0, len(records) - 1))
    records.insert(place, records[place])
    with pytest.raises(ChainError) as caught:
        verify(records)
    assert caught.value.index == place + 1


@given(SOME, st.data())
def test_a_cut_end_is_found_where_the_head_is_known(records, data):
    head = verify(records)
    kept = data.draw(st.integers(0, len(records) - 1))
    with pytest.raises(ChainError, match="cut off") as caught:
        verify(records[:kept], head)
    assert caught.value.index == kept


def test_a_whole_history_written_anew_is_found_where_an_earlier_head_is_known():
    witnessed = four()[2].head
    forged = chain_of([([ServerStarted(epoch=one + 1)], 100.0 + one) for one in range(9)])
    verify(forged)
    with pytest.raises(ChainError, match="another hash") as caught:
        verify(forged, witnessed)
    assert caught.value.index == 2


def test_a_chain_that_grew_since_a_head_was_known_still_holds():
    records = four()
    assert verify(records, records[1].head) == records[3].head
    assert verify(records, EMPTY) == records[3].head


def test_a_chain_can_be_checked_from_a_known_head_on():
    records = four()
    assert verify(records[2:], after=records[1].head) == records[3].head
    with pytest.raises(ChainError) as caught:
        verify(records[3:], after=records[1].head)
    assert caught.value.index == 2


def test_a_record_of_another_history_does_not_continue_a_known_head():
    records = four()
    with pytest.raises(ChainError, match="does not continue"):
        verify(records[2:], after=Head(1, bytes(32)))


def test_a_head_before_the_records_cannot_be_judged():
    records = four()
    with pytest.raises(ValueError, match="before"):
        verify(records[2:], records[0].head, after=records[1].head)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_json_cannot_hold_is_refused(value):
    with pytest.raises(EventError, match="not finite"):
        canonical_bytes(ModelInitialised(digest="", score=value))
    nested = CampaignStarted(
        fleet="f",
        model="m",
        options={"deep": [1, {"x": value}]},
        spec_hash="s",
        widths=(),
        ladder=(),
        seed=0,
        software="",
        settings={},
    )
    with pytest.raises(EventError, match="CampaignStarted"):
        canonical_bytes(nested)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ServerStarted, {"epoch": "first"}),
        (DeviceDropped, {"round": 1, "device": "a", "reason": "because"}),
        (WorkFailed, {"job": "a", "detail": "\ud800"}),
        (WorkFailed, {"job": "a", "detail": object()}),
    ],
)
def test_an_event_that_could_not_be_read_back_is_refused(kind, fields):
    with pytest.raises(EventError, match=kind.__name__):
        canonical_bytes(kind(**fields))


@pytest.mark.parametrize("at", [math.nan, math.inf])
def test_a_time_that_is_no_time_is_refused(at):
    with pytest.raises(EventError, match="seconds"):
        extend(EMPTY, [ServerStarted(epoch=1)], at)


def test_an_event_of_newer_software_is_named_with_its_record():
    record = Record(7, 0.0, b'{"event":"moon-landed"}', bytes(32), bytes(32))
    with pytest.raises(EventError, match=r"record 7 .*moon-landed"):
        _ = record.event


def test_a_chain_error_is_damage_to_the_journal():
    assert issubclass(ChainError, JournalDamagedError)
    assert "record 3" in str(ChainError(3, "missing"))
