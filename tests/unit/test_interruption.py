"""A signal unwinds the demonstration once, and never between two steps that belong together."""

import signal

import pytest

from slimfleet.demo.interruption import SIGNALS, Interruption


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """Put the handlers back: a shell starts what runs in its background with Ctrl+C ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block(number):
    with pytest.raises(KeyboardInterrupt), Interruption():
        signal.raise_signal(number)


def start_two(done):
    with Interruption() as interruption:
        with interruption.held():
            with interruption.held():
                signal.raise_signal(signal.SIGTERM)
            done.append("started")
        done.append("never")


def test_a_signal_waits_for_what_must_not_be_cut_in_two():
    done = []
    with pytest.raises(KeyboardInterrupt):
        start_two(done)
    assert done == ["started"]


def test_only_the_first_signal_counts_so_that_the_ending_is_not_cut_short():
    with Interruption():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interruption():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_after_the_block_signals_mean_what_they_meant_before():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
