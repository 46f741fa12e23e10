"""The lease of a device: a table of what renews it, doubts it and ends it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.presence import Lease, Leases, Transition
from coordinator.settings import Presence
from journal.events import LinkState

# Late after 20 s without a sign of life, offline after 35 s; a will is given 5 s.
SETTINGS = Presence(heartbeat_s=10.0, late_after=2.0, offline_after=3.5, grace_s=5.0)
NEW = LinkState.NEVER_SEEN
ONLINE, LATE, OFFLINE = LinkState.ONLINE, LinkState.LATE, LinkState.OFFLINE


def leases(known=None, now=0.0):
    return Leases(SETTINGS, known or {}, now)


def states(found, now):
    return [(change.device, change.state) for change in found.transitions(now)]


def test_a_sign_of_life_brings_a_device_online_and_silence_takes_it_away():
    found = leases()
    assert found.heard("pi", 1, 0.0)
    assert found.transitions(0.0) == [Transition("pi", ONLINE, "heard")]
    assert states(found, 19.9) == []
    assert states(found, 20.0) == [("pi", LATE)]
    assert states(found, 34.9) == []
    assert found.transitions(35.0) == [Transition("pi", OFFLINE, "silent for 35 s")]
    assert states(found, 1e9) == []


@pytest.mark.parametrize("last", [0.0, 19.0, 25.0, 1000.0])
def test_a_heartbeat_renews_the_whole_lease(last):
    found = leases()
    found.heard("pi", 1, 0.0)
    found.heard("pi", 1, last)
    found.transitions(last)
    assert states(found, last + 19.9) == []
    assert states(found, last + 20.1) == [("pi", LATE)]


def test_a_retained_birth_makes_a_device_known_but_not_present():
    found = leases()
    found.remembered("pi", 4)
    assert states(found, 0.0) == [("pi", OFFLINE)]
    assert found.session("pi") == 4
    found.heard("pi", 4, 1.0)
    assert states(found, 1.0) == [("pi", ONLINE)]


def test_retained_messages_never_renew_a_lease():
    found = leases()
    found.heard("pi", 1, 0.0)
    found.transitions(0.0)
    for second in range(1, 40):
        found.remembered("pi", 1)
        found.remembered("pi", 2)
        assert found.transitions(float(second)) == (
            []
            if second not in (20, 35)
            else [Transition("pi", LATE if second == 20 else OFFLINE, f"silent for {second} s")]
        )


def test_a_will_is_given_a_grace_and_any_sign_of_life_ends_it():
    found = leases()
    found.heard("pi", 1, 0.0)
    found.transitions(0.0)
    found.doubted("pi", 1, "will", 1.0)
    assert states(found, 5.9) == []
    found.heard("pi", 1, 5.95)
    assert states(found, 6.0) == []
    found.doubted("pi", 1, "will", 7.0)
    assert found.transitions(12.0) == [Transition("pi", OFFLINE, "will")]


def test_repeating_a_will_does_not_lengthen_its_grace():
    found = leases()
    found.heard("pi", 1, 0.0)
    found.transitions(0.0)
    for moment in (1.0, 3.0, 5.0):
        found.doubted("pi", 1, "will", moment)
    assert states(found, 6.0) == [("pi", OFFLINE)]


def test_a_goodbye_counts_at_once():
    found = leases()
    found.heard("pi", 1, 0.0)
    found.transitions(0.0)
    found.doubted("pi", 1, "shutdown", 1.0)
    assert found.transitions(1.0) == [Transition("pi", OFFLINE, "shutdown")]


def test_a_goodbye_counts_at_once_also_after_a_will():
    found = leases()
    found.heard("pi", 1, 0.0)
    found.transitions(0.0)
    found.doubted("pi", 1, "will", 1.0)
    found.doubted("pi", 1, "shutdown", 2.0)
    assert states(found, 2.0) == [("pi", OFFLINE)]


@pytest.mark.parametrize("cause", ["will", "shutdown"])
def test_the_will_of_an_older_session_is_ignored(cause):
    found = leases()
    found.heard("pi", 2, 0.0)
    found.transitions(0.0)
    found.doubted("pi", 1, cause, 1.0)
    assert states(found, 10.0) == []


def test_a_message_of_an_older_session_is_no_sign_of_life():
    found = leases()
    found.heard("pi", 2, 0.0)
    found.transitions(0.0)
    assert not found.heard("pi", 1, 19.0)
    assert states(found, 20.0) == [("pi", LATE)]


def test_a_restarted_device_is_heard_with_its_new_session():
    found = leases()
    found.heard("pi", 1, 0.0)
    found.doubted("pi", 1, "will", 1.0)
    found.heard("pi", 2, 2.0)
    assert states(found, 10.0) == [("pi", ONLINE)]
    assert found.session("pi") == 2


def test_a_device_of_which_only_the_will_is_known_is_offline():
    found = leases()
    found.doubted("pi", 3, "will", 0.0)
    assert states(found, 0.0) == [("pi", OFFLINE)]
    assert found.session("pi") == 3


@pytest.mark.parametrize("before", [ONLINE, LATE])
def test_a_restarted_server_gives_who_was_there_one_fresh_lease(before):
    found = leases({"pi": Lease(3, state=before)}, now=1000.0)
    assert states(found, 1000.0) == ([] if before is ONLINE else [("pi", ONLINE)])
    assert states(found, 1019.0) == []
    assert states(found, 1020.0) == [("pi", LATE)]
    assert states(found, 1035.0) == [("pi", OFFLINE)]


@pytest.mark.parametrize("before", [OFFLINE, NEW])
def test_a_restarted_server_gives_no_lease_to_who_was_not_there(before):
    found = leases({"pi": Lease(3, state=before)}, now=1000.0)
    assert ("pi", ONLINE) not in states(found, 1000.0)
    assert states(found, 2000.0) == []
    assert not found.heard("pi", 2, 2000.0)


def test_a_will_that_is_read_after_a_restart_ends_the_fresh_lease():
    found = leases({"pi": Lease(3, state=ONLINE)}, now=1000.0)
    found.doubted("pi", 3, "will", 1001.0)
    assert states(found, 1006.0) == [("pi", OFFLINE)]


def test_an_unknown_device_has_no_session():
    assert leases().session("ghost") == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["heard", "remembered", "will", "shutdown", "look"]),
            st.sampled_from(["a", "b"]),
            st.integers(0, 4),
            st.floats(0, 30),
        ),
        max_size=40,
    )
)
def test_in_any_order_a_device_is_online_only_within_its_lease(inputs):
    found, now, told, heard = leases(), 0.0, {}, {}
    for kind, device, session, passed in inputs:
        now += passed
        known = found.session(device)
        if kind == "heard":
            assert found.heard(device, session, now) == (session >= known)
            if session >= known:
                heard[device] = now
        elif kind == "remembered":
            found.remembered(device, session)
        elif kind != "look":
            found.doubted(device, session, kind, now)
        assert found.session(device) >= known
        for change in found.transitions(now):
            assert told.get(change.device) is not change.state, "told twice"
            told[change.device] = change.state
        for name, state in told.items():
            if state in {ONLINE, LATE}:
                assert now - heard[name] < 35.0
            if state is ONLINE:
                assert now - heard[name] < 20.0
