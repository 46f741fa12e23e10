"""The server's clock: no deadline waits because somebody set the machine's clock back."""

from hypothesis import given
from hypothesis import strategies as st

from slimfleet.forward_clock import ForwardClock

NOON = 1_800_000_000.0


class Machine:
    """A clock that can be set, and one that cannot."""

    def __init__(self):
        self.wall, self.elapsed = NOON, 0.0
        self.clock = ForwardClock(lambda: self.wall, lambda: self.elapsed)

    def passes(self, seconds, jump=0.0):
        self.wall += seconds + jump
        self.elapsed += seconds
        return self.clock()


def test_it_shows_the_time_of_day():
    machine = Machine()
    assert machine.passes(5.0) == NOON + 5.0
    assert machine.passes(0.0) == NOON + 5.0


def test_a_clock_that_is_set_back_is_told_once_and_time_goes_on(caplog):
    machine = Machine()
    assert machine.passes(5.0, jump=-3600.0) == NOON + 5.0
    assert machine.passes(5.0) == NOON + 10.0
    [record] = caplog.records
    assert "set back by 3600 s" in record.getMessage()
    machine.passes(1.0, jump=-60.0)
    assert "set back by 60 s" in caplog.records[1].getMessage()


def test_a_clock_that_is_set_forward_is_followed():
    machine = Machine()
    assert machine.passes(5.0, jump=86400.0) == NOON + 86405.0
    assert machine.passes(5.0, jump=-86400.0) == NOON + 86410.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-1e6, 1e6)), max_size=20))
def test_it_never_goes_back_and_never_slower_than_time(steps):
    machine, last = Machine(), NOON
    for seconds, jump in steps:
        now = machine.passes(seconds, jump)
        assert now >= last + seconds - 1e-3
        assert now >= machine.wall
        last = now
