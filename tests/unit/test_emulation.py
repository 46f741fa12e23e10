"""The table of emulated machines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.emulation import (
    DEMO_FLEET,
    MACHINES,
    REAL_MACHINE,
    SLOW_MOTION,
    EmulationError,
    find_machine,
    owed_wait,
)


def test_the_demo_fleet_needs_less_than_one_and_a_half_cores():
    assert len(DEMO_FLEET) == 8
    training = sum(1 / find_machine(name).factor for name in DEMO_FLEET)
    # A tenth of a core each is left for the agents themselves and for starting processes anew.
    assert training + 8 * 0.05 < 1.5


def test_no_machine_is_faster_than_slow_motion_allows():
    assert min(machine.factor for machine in MACHINES.values()) == SLOW_MOTION


def test_the_raspberry_pi_stand_to_each_other_as_published():
    pi = {n: find_machine(f"raspberry-pi-{n}").factor for n in ("5", "4", "3", "zero-2")}
    assert pi["4"] / pi["5"] == pytest.approx(1.85, rel=0.01)
    assert pi["3"] / pi["5"] == pytest.approx(3.98, rel=0.01)
    assert pi["zero-2"] / pi["3"] == pytest.approx(1.4, rel=0.01)


def test_every_machine_names_its_source():
    assert all(machine.source and machine.emulates for machine in MACHINES.values())
    assert all(name == machine.name for name, machine in MACHINES.items())


def test_the_real_machine_is_not_slowed_down():
    assert find_machine("none") is find_machine("") is REAL_MACHINE
    assert not REAL_MACHINE.emulates
    assert REAL_MACHINE.factor == 1.0


def test_an_unknown_machine_is_refused_with_the_nearest_one():
    with pytest.raises(EmulationError, match="did you mean 'raspberry-pi-4'"):
        find_machine("rasberry-pi4")
    with pytest.raises(EmulationError, match="choose one of workstation"):
        find_machine("???")


@given(st.floats(0, 1e4), st.floats(0, 1e6), st.floats(1, 100))
def test_waiting_brings_wall_time_to_the_emulated_time(cpu_s, wall_s, factor):
    wait = owed_wait(cpu_s, wall_s, factor)
    assert wait >= 0
    assert wall_s + wait == pytest.approx(max(wall_s, cpu_s * factor))
