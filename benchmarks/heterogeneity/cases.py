"""Ten machines, and what limits them: compute, link, memory, or all three.

The machines are those of `profiler.emulation`: their speeds stand to each other as published
single-thread benchmarks do. What a step costs at each width is measured by the profiler on the
machine that runs the comparison (`benchmarks.heterogeneity.costs`); a case says how many times
slower each device is, how fast its link is, and how much of the memory of full-width training it
has. The network of the experiments is small: on a real Raspberry Pi its memory would not bind, and
its transfers would take no time. Rates and budgets are therefore in proportion to the network.
"""

from dataclasses import dataclass
from statistics import median

from profiler.emulation import find_machine

FLEET = (
    *("workstation", "factory-pc", "old-pc", "old-pc", "raspberry-pi-5"),
    *("raspberry-pi-4", "raspberry-pi-4", "raspberry-pi-3", "raspberry-pi-3"),
    "raspberry-pi-zero-2",
)
# Seconds that the full-width weights take one way, in multiples of a full-width round's computation
# on the fastest machine: from a cable to a poor cellular link, a hundred to one.
LINK_TIMES = (0.1, 0.1, 0.25, 0.5, 0.5, 1.0, 1.0, 4.0, 4.0, 10.0)
# Share of full-width training's memory above an idle process.
MEMORY_SHARES = (1.0, 1.0, 1.0, 0.6, 1.0, 0.6, 0.6, 0.3, 0.3, 0.25)
# What a machine draws while it computes, in watts: round figures of such machines under load of one
# core; estimates, not measurements. A transfer is counted with a watt for the radio.
WATTS = {
    "workstation": 65.0,
    "factory-pc": 40.0,
    "old-pc": 45.0,
    "raspberry-pi-5": 7.0,
    "raspberry-pi-4": 5.0,
    "raspberry-pi-3": 4.0,
    "raspberry-pi-zero-2": 2.0,
}
TRANSFER_WATTS = 1.0


@dataclass(frozen=True)
class Machine:
    """One device of a case.

    Attributes:
        name: of the machine, as in `profiler.emulation`.
        factor: how many times slower than the fastest it computes.
        link_time: see `LINK_TIMES`; 0 = transfers take no time.
        memory_share: see `MEMORY_SHARES`.
        watts: while it computes.
    """

    name: str
    factor: float
    link_time: float
    memory_share: float
    watts: float


@dataclass(frozen=True)
class Case:
    """What limits the devices."""

    name: str
    compute: bool
    link: bool
    memory: bool

    def machines(self, count: int) -> tuple[Machine, ...]:
        """Return the devices, dealt from the fleet in turn."""
        return tuple(
            Machine(
                name=FLEET[at],
                factor=_slower(FLEET[at]) if self.compute else 1.0,
                link_time=LINK_TIMES[at] if self.link else 0.0,
                memory_share=MEMORY_SHARES[at] if self.memory else 1.0,
                watts=WATTS[FLEET[at]],
            )
            for at in (number % len(FLEET) for number in range(count))
        )

    def deadline(self, count: int) -> float:
        """Return the deadline, in full-width rounds of the fastest machine.

        It is what a full-width round takes the median device: half of the fleet could train the
        full width.
        """
        return median(one.factor + 2 * one.link_time for one in self.machines(count))


def _slower(name: str) -> float:
    """Return how many times slower a machine computes than the fastest, without slow motion."""
    return find_machine(name).factor / find_machine(FLEET[0]).factor


CASES = {
    case.name: case
    for case in (
        Case("compute", compute=True, link=False, memory=False),
        Case("link", compute=False, link=True, memory=False),
        Case("memory", compute=False, link=False, memory=True),
        Case("all", compute=True, link=True, memory=True),
    )
}
