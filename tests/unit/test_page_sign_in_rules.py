"""Sessions, waits after failures, secrets and the file of people."""

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.web.people import AccessError, People
from monitor.web.person import Person, Role
from monitor.web.secret_hash import NOBODY, fits, hash_password, hash_token, make_token
from monitor.web.sessions import LIMIT, Limits, Sessions
from monitor.web.throttle import (
    FORGOTTEN_S,
    FREE,
    KEPT,
    LONGEST_ADDRESS_S,
    LONGEST_NAME_S,
    Throttle,
    network,
)

LIMITS = Limits(idle_s=100.0, whole_s=1000.0)


def person(name="anna", role=Role.OPERATOR, token="t"):  # noqa: S107 - of a test
    return Person(name=name, role=role, secret=hash_token(token), made_at=1.0)


def sessions():
    numbers = iter(range(100_000))
    return Sessions(lambda: f"random {next(numbers)}", LIMITS)


ANNA, BEN = person(), person("ben", Role.VIEWER, "u")
PEOPLE = {"anna": ANNA, "ben": BEN}


def test_a_session_ends_when_it_is_not_used():
    known = sessions()
    name, session = known.begin(ANNA, 0.0)
    assert known.find(name, PEOPLE, 99.0) is session
    assert known.find(name, PEOPLE, 198.0) is session
    assert known.find(name, PEOPLE, 298.0) is None
    assert known.find(name, PEOPLE, 200.0) is None  # and does not come back


def test_a_session_ends_at_last_however_much_it_is_used():
    known = sessions()
    name, _ = known.begin(ANNA, 0.0)
    for now in range(0, 1000, 50):
        assert known.find(name, PEOPLE, float(now))
    assert known.find(name, PEOPLE, 1000.0) is None


def test_an_open_page_keeps_a_viewer_signed_in_and_an_operator_not():
    known = sessions()
    names = {one.name: known.begin(one, 0.0)[0] for one in (ANNA, BEN)}
    for now in range(0, 300, 50):
        for name in names.values():
            known.find(name, PEOPLE, float(now), watching=True)
    assert known.find(names["ben"], PEOPLE, 300.0)
    assert known.find(names["anna"], PEOPLE, 300.0) is None


@pytest.mark.parametrize(
    "people",
    [{}, {"anna": person(role=Role.VIEWER)}, {"anna": person(token="another")}],
    ids=["removed", "another role", "a new token"],
)
def test_a_session_ends_when_the_person_changes(people):
    known = sessions()
    name, _ = known.begin(ANNA, 0.0)
    assert known.find(name, people, 1.0) is None


def test_a_session_that_somebody_ended_or_made_up_is_none():
    known = sessions()
    name, session = known.begin(ANNA, 0.0)
    assert session.csrf != name
    known.end(name)
    assert known.find(name, PEOPLE, 1.0) is None
    assert known.find("", PEOPLE, 1.0) is None
    assert known.find("random 0x", PEOPLE, 1.0) is None


def test_ids_of_sessions_are_not_kept_as_they_are_and_there_are_not_endlessly_many():
    known = sessions()
    first, _ = known.begin(ANNA, 0.0)
    for _ in range(LIMIT):
        known.begin(ANNA, 1.0)
    assert known.find(first, PEOPLE, 2.0) is None
    assert len(known._open) == LIMIT
    assert not any("random" in key for key in known._open)


def test_a_few_failures_cost_no_wait_and_further_ones_double_it():
    throttle, now, waits = Throttle(), 0.0, []
    for _ in range(16):
        throttle.failed("10.0.0.1", "", now)
        waits.append(throttle.wait("10.0.0.1", "", now))
    assert waits[: FREE + 4] == [0, 0, 0, 1, 2, 4, 8]
    assert waits[-1] == LONGEST_ADDRESS_S


def test_a_name_is_slowed_down_from_wherever_it_is_guessed_but_never_locked_out_for_long():
    throttle = Throttle()
    for number in range(50):
        throttle.failed(f"10.0.0.{number}", "anna", 0.0)
    assert throttle.wait("10.9.9.9", "anna", 0.0) == LONGEST_NAME_S
    assert throttle.wait("10.9.9.9", "ben", 0.0) == 0
    throttle.succeeded("anna")
    assert throttle.wait("10.9.9.9", "anna", 0.0) == 0


def test_failures_are_forgotten_after_an_hour_without_one():
    throttle = Throttle()
    for _ in range(10):
        throttle.failed("10.0.0.1", "anna", 0.0)
    throttle.failed("10.0.0.1", "anna", FORGOTTEN_S)
    assert throttle.wait("10.0.0.1", "anna", FORGOTTEN_S) == 0


def test_one_network_of_ipv6_is_one_address():
    assert network("2001:db8::1") == network("2001:db8::ffff:2") != network("2001:db8:0:1::1")
    assert network("::ffff:10.0.0.1") == network("10.0.0.1")
    assert network("no address") == "no address"


def test_names_that_are_tried_do_not_fill_the_memory():
    throttle = Throttle()
    for number in range(KEPT + 100):
        throttle.failed("10.0.0.1", f"name {number}", 0.0)
    assert len(throttle._failures) == KEPT
    assert throttle.wait("10.0.0.1", "", 0.0) > 0  # whoever does so still waits


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=20))
def test_a_wait_is_never_longer_than_its_limit_nor_below_zero(tries):
    throttle, now = Throttle(), 0.0
    for after, good in tries:
        now += after
        throttle.succeeded("n") if good else throttle.failed("a", "n", now)
        assert 0 <= throttle.wait("a", "n", now) <= LONGEST_ADDRESS_S


def test_a_password_is_known_again_and_no_other_one():
    kept = hash_password("correct horse battery")
    assert fits("correct horse battery", kept)
    assert not fits("correct horse batteri", kept)
    assert "correct" not in repr(kept)
    assert hash_password("correct horse battery") != kept  # salted
    assert not fits("", NOBODY)


def test_a_short_password_is_not_kept():
    with pytest.raises(ValueError, match="at least 12"):
        hash_password("elevenchars")


def test_tokens_are_long_differ_and_are_kept_hashed():
    first, second = make_token(), make_token()
    assert first != second
    assert len(first) == len("slimfleet_") + 43  # 256 bits
    assert first not in repr(hash_token(first))


@pytest.fixture
def people(tmp_path):
    return People(tmp_path / "data" / "access.json")


def test_the_file_of_people_is_for_its_owner_only_and_holds_no_secret(people):
    people.add(person(token="top secret"))
    assert stat.S_IMODE(people.path.stat().st_mode) == 0o600
    assert b"top secret" not in people.path.read_bytes()
    assert People(people.path).everybody() == {"anna": person(token="top secret")}
    assert people.by_token(hash_token("top secret")).name == "anna"
    assert people.by_token(hash_token("another")) is None


def test_a_change_by_another_process_holds_at_once(people):
    people.add(person())
    assert "anna" in people.known()
    other = People(people.path)
    other.remove("anna")
    other.add(BEN)
    assert set(people.known()) == {"ben"}


def test_names_are_given_once_and_must_be_names(people):
    people.add(person())
    with pytest.raises(AccessError, match="there already"):
        people.add(person(role=Role.VIEWER))
    with pytest.raises(AccessError, match="use 1 to 64"):
        people.add(person("<b>anna</b>"))
    with pytest.raises(AccessError, match="there is no 'ben'; known are anna"):
        people.remove("ben")
    assert people.known() == {"anna": person()}


def damage(path):
    path.write_text('{"schema": 1, "people": [{"name": "eve"}]}')


def newer(path):
    path.write_text(json.dumps({"schema": 2, "people": []}))


def shared(path):
    path.chmod(0o640)


@pytest.mark.parametrize(
    ("harm", "said"),
    [(damage, "is damaged"), (newer, "newer slimfleet"), (shared, "can be read by others: chmod")],
)
def test_a_file_that_cannot_be_used_lets_nobody_in_and_is_left_as_it_is(people, harm, said):
    people.add(person())
    harm(people.path)
    os.utime(people.path, (5, 5))
    before = people.path.read_bytes()
    assert people.known() == {}
    with pytest.raises(AccessError, match=said):
        people.add(BEN)
    assert people.path.read_bytes() == before
