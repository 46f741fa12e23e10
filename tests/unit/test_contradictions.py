"""What devices report about the server's history, as events of the campaign."""

import msgspec
import pytest

from broker.messages import ContradictionKind
from coordinator import inputs as i
from coordinator.notices import tells
from journal import events as e
from tests.fakes.office import Office, settings

A, B = "press", "lathe"


@pytest.fixture
def desk():
    return Office(settings()).begin(A, B)


def claim(device=A, seen=3, *, proven=True):
    return e.ContradictionReported(
        device=device,
        kind=ContradictionKind.SMALLER_TREE,
        kept_size=9,
        kept_root="aa" * 32,
        seen_size=seen,
        seen_root="bb" * 32,
        proven=proven,
    )


def report(desk, found, accepted="", device=A):
    """Return the events that a report leads to."""
    return desk.say(i.WitnessReported(device, found, accepted))


def test_a_contradiction_is_recorded_once_however_often_it_is_said(desk):
    assert report(desk, claim()) == [claim()]
    assert report(desk, claim()) == []
    assert desk.state.devices[A].contradiction == claim()
    assert desk.state.devices[B].contradiction is None


def test_a_device_that_accepted_it_is_recorded_with_the_operators_reason(desk):
    report(desk, claim())
    assert report(desk, None, "restored") == [e.ContradictionSettled(device=A, reason="restored")]
    assert desk.state.devices[A].contradiction is None
    assert report(desk, None, "restored") == []


def test_a_device_without_a_contradiction_is_no_event(desk):
    assert report(desk, None) == []


def test_a_liar_cannot_fill_the_journal_with_claims(desk):
    assert len(report(desk, claim(proven=False))) == 1
    assert not any(report(desk, claim(seen=n, proven=False)) for n in range(1, 50))


def test_a_proven_claim_replaces_one_that_is_not(desk):
    report(desk, claim(proven=False))
    assert report(desk, claim()) == [claim()]
    assert report(desk, claim(seen=1, proven=False)) == []
    assert report(desk, claim(seen=2)) == [claim(seen=2)]


def test_a_device_that_nobody_knows_yet_is_heard_too(desk):
    assert report(desk, claim("stranger"), device="stranger") == [claim("stranger")]
    assert desk.state.devices["stranger"].contradiction


def test_the_reason_of_an_acceptance_is_cut_to_what_fits(desk):
    report(desk, claim())
    (event,) = report(desk, None, "x" * 10_000)
    assert len(event.reason) == 300


def test_a_device_with_a_contradiction_takes_part_as_before(desk):
    before = desk.state.devices[A]
    report(desk, claim())
    after = desk.state.devices[A]
    assert (after.participation, after.width) == (before.participation, before.width)
    assert tells([claim()])


def test_an_old_journal_without_a_signer_still_loads():
    payload = msgspec.json.encode({"event": "server-started", "epoch": 3})
    assert msgspec.json.decode(payload, type=e.AnyEvent) == e.ServerStarted(epoch=3)


def test_a_start_records_which_key_signs_from_now_on(desk):
    (event,) = desk.say(i.Started(settings(), "5" * 64, "slimfleet 0", signer="ab" * 8))
    assert event.signer == "ab" * 8
