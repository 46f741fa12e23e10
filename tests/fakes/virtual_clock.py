"""Tests in virtual time: hours pass in milliseconds, and every run is the same."""

import functools

from slimfleet.simulation.virtual_clock import Stuck, VirtualClockLoop, run

__all__ = ["Stuck", "VirtualClockLoop", "run", "simulated"]


def simulated(test):
    """Turn an async test into a plain one that runs in virtual time."""

    @functools.wraps(test)
    def in_virtual_time(*args, **kwargs):
        return run(test(*args, **kwargs))

    return in_virtual_time
