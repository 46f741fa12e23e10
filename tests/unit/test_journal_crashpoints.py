"""Places to die: names, passes, and that nothing happens without being asked."""

import os

import pytest

from journal import crashpoints
from journal.crashpoints import CRASH_AT, CRASHPOINTS, KILLED, CrashpointError, crashpoint, register


class Died(BaseException):
    pass


@pytest.fixture
def deaths(monkeypatch):
    statuses = []

    def die(status):
        statuses.append(status)
        raise Died

    monkeypatch.setattr(crashpoints.os, "_exit", die)
    monkeypatch.setattr(crashpoints, "_passes", crashpoints.Counter())
    monkeypatch.setattr(crashpoints, "CRASHPOINTS", {"tea-poured": "the cup is half full"})
    monkeypatch.delenv(CRASH_AT, raising=False)
    return statuses


def test_nothing_happens_unless_asked_for(deaths, monkeypatch):
    crashpoint("tea-poured")
    monkeypatch.setenv(CRASH_AT, "coffee-poured")
    crashpoint("tea-poured")
    monkeypatch.setenv(CRASH_AT, "")
    crashpoint("tea-poured")
    assert deaths == []


def test_the_process_ends_at_the_named_place(deaths, monkeypatch):
    monkeypatch.setenv(CRASH_AT, "tea-poured")
    with pytest.raises(Died):
        crashpoint("tea-poured")
    assert deaths == [KILLED] == [137]


def test_the_process_ends_at_the_nth_pass(deaths, monkeypatch):
    monkeypatch.setenv(CRASH_AT, "tea-poured:3")
    crashpoint("tea-poured")
    crashpoint("tea-poured")
    with pytest.raises(Died):
        crashpoint("tea-poured")


@pytest.mark.parametrize("pass_", ["x", "0", "-1"])
def test_a_pass_that_is_no_number_is_refused(deaths, monkeypatch, pass_):
    monkeypatch.setenv(CRASH_AT, f"tea-poured:{pass_}")
    with pytest.raises(CrashpointError, match="is no pass"):
        crashpoint("tea-poured")


def test_an_unregistered_place_is_an_error_even_when_nobody_asks(deaths):
    with pytest.raises(CrashpointError, match="unknown"):
        crashpoint("coffee-poured")


def test_a_room_registers_its_own_places(deaths):
    register("milk-added", "white")
    register("milk-added", "white")
    crashpoint("milk-added")
    with pytest.raises(CrashpointError, match="twice"):
        register("milk-added", "brown")


@pytest.mark.parametrize("name", ["", "Tea", "tea poured", "tea:1", "-tea", "tea-"])
def test_a_malformed_name_is_refused(deaths, name):
    with pytest.raises(CrashpointError, match="name"):
        register(name, "")


def test_every_registered_place_says_what_may_be_half_done():
    assert CRASHPOINTS
    assert all(CRASHPOINTS.values())
    assert CRASH_AT not in os.environ
