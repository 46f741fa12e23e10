"""Timing goes on where a width ends the process: the agent's side, with a process of values."""

import asyncio

import pytest

from edge_agent import trainer_protocol as protocol
from edge_agent.training_failure import OutOfMemory, ProcessDied, TrainingFailed
from edge_agent.width_timing import time_widths

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def command(**changes):
    plain = {"model": "toy", "options": {}, "widths": WIDTHS, "batch_size": 8}
    data = protocol.DataSource(path="own.npz", reader="npz")
    return protocol.ProfileCommand(**(plain | {"data": data} | changes))


class Machine:
    """Answers as a training process would; some widths end it."""

    def __init__(self, endings=None, skips=(), failures=()):
        self.endings = endings or {}
        self.skips, self.failures = set(skips), tuple(failures)
        self.asked = []

    async def exchange(self, given, timeout_s, listener):
        self.asked.append(given)
        listener.hear(protocol.Loaded(spec_hash="5" * 64, samples=9, resident_bytes=7))
        for width in given.widths:
            if width in self.skips and len(given.widths) > 1:
                continue
            listener.hear(protocol.WidthStarted(width=width))
            if width in self.endings:
                raise self.endings[width]
            listener.hear(
                protocol.WidthTimed(width=width, step_s=width, peak_bytes=100, timed_steps=3)
            )
        return protocol.Profiled(failures=self.failures)


def run(machine, **changes):
    return asyncio.run(time_widths(machine.exchange, command(**changes), 60.0))


def test_a_sound_machine_is_asked_once():
    machine = Machine()
    found = run(machine, time_budget_s=5.0)
    assert [cost.width for cost in found.costs] == list(WIDTHS)
    assert (found.failures, found.passing) == ((), False)
    assert (found.samples, found.spec_hash, found.baseline_bytes) == (9, "5" * 64, 7)
    assert len(machine.asked) == 1


def test_widths_that_were_left_out_are_interpolated():
    found = run(Machine(skips=(0.5, 0.75)))
    assert [cost.interpolated for cost in found.costs] == [False, True, True, False]


def test_a_width_that_is_left_out_is_timed_where_the_widest_needs_too_much_memory():
    machine = Machine(
        {1.0: OutOfMemory(1.0, "out of memory at width 1: needs 9 of 8 MiB")}, (0.75,)
    )
    found = run(machine)
    assert [cost.width for cost in found.costs] == [0.25, 0.5, 0.75]
    assert not any(cost.interpolated for cost in found.costs)
    assert found.failures == ("out of memory at width 1: needs 9 of 8 MiB",)
    assert [one.widths for one in machine.asked] == [WIDTHS, (0.75,)]


def test_too_much_memory_at_one_width_spares_the_wider_ones():
    found = run(Machine({0.5: OutOfMemory(0.5, "out of memory at width 0.5: ...")}))
    assert [cost.width for cost in found.costs] == [0.25]
    assert found.failures[1:] == (
        "width 0.75: not tried, as 0.5 needed too much memory",
        "width 1: not tried, as 0.5 needed too much memory",
    )
    assert not found.passing, "the budget says the same the next time"


def test_a_kill_by_the_system_may_not_happen_again_and_an_illegal_instruction_will():
    assert run(Machine({0.5: ProcessDied(-9)})).passing
    assert not run(Machine({0.5: ProcessDied(-4)})).passing


def test_two_deaths_are_enough():
    machine = Machine({0.25: ProcessDied(-4), 0.5: ProcessDied(-11)})
    found = run(machine)
    assert found.costs == ()
    assert "width 0.25: the training process was ended by SIGILL" in found.failures[0]
    assert "width 0.5: the training process was ended by SIGSEGV" in found.failures[1]
    assert found.failures[2:] == (
        "width 0.75: not tried, as 2 widths ended the process",
        "width 1: not tried, as 2 widths ended the process",
    )
    assert len(machine.asked) == 2


def test_what_is_wrong_with_the_data_is_no_matter_of_a_width():
    class Refusing(Machine):
        async def exchange(self, given, timeout_s, listener):
            return protocol.Failed(code="bad-data", detail="own.npz: no such file")

    with pytest.raises(TrainingFailed, match="no such file"):
        run(Refusing())


def test_what_was_timed_before_a_timeout_is_kept():
    found = run(Machine({0.75: TrainingFailed("no answer within 60 s; it was ended")}))
    assert [cost.width for cost in found.costs] == [0.25, 0.5]
    assert found.failures == ("no answer within 60 s; it was ended",)
    assert found.passing


def test_a_process_that_answers_that_memory_is_out_names_the_width():
    class Survivor(Machine):
        async def exchange(self, given, timeout_s, listener):
            listener.hear(protocol.WidthStarted(width=given.widths[0]))
            return protocol.Failed(code="out-of-memory", detail="cannot allocate memory")

    found = run(Survivor(), widths=(0.5,))
    assert found.failures == ("out of memory at width 0.5: cannot allocate memory",)
