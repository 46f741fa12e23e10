"""Machines that one computer can stand for, and exactly what standing for them means.

What is emulated, for an agent started with ``--emulate raspberry-pi-3``:

* **Compute.** The training process really trains; its CPU seconds times `EmulatedMachine.factor`
  are its emulated seconds, and the difference is waited out. CPU seconds hardly change when other
  processes want the processor, wall time does: so contention does not decide who is late.
* **Memory.** Training that holds more resident bytes than ``memory_budget`` is ended, as the
  kernel of a small machine would do.
* **Link.** The rate at which the agent moves blocks.

What is not: another instruction set (kernels, their rounding and their relative speed stay those
of the machine underneath), caches, storage, temperature, several cores, start-up of processes,
loading of data, and inference, whose latencies are those of the machine underneath.

The whole table runs in **slow motion**: a "workstation" is `SLOW_MOTION` times slower than the core
underneath, and every other machine is slower by the same factor on top of its own. A process with
factor f keeps a core busy for 1/f of the time, so eight of them fit on less than one and a half.
Read the *ratios* between machines, not the seconds.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MIB = 2**20
GIB = 2**30
SLOW_MOTION = 6.0


class EmulationError(ValueError):
    """No machine of that name can be emulated. Choose one of the table."""


@dataclass(frozen=True)
class EmulatedMachine:
    """One row of the table.

    Attributes:
        name: what ``--emulate`` takes, or "" for the real machine.
        factor: emulated seconds per CPU second of training.
        memory_budget: bytes that training may hold; 0 = what the real machine allows.
        link_bytes_per_s: rate of transfers; 0 = what the real link gives.
        source: where the figures come from.
    """

    name: str
    factor: float
    memory_budget: int
    link_bytes_per_s: float
    source: str

    @property
    def emulates(self) -> bool:
        """Whether this stands for another machine."""
        return self.name != ""


REAL_MACHINE = EmulatedMachine("", 1.0, 0, 0.0, "the machine itself: nothing is emulated")

# Speed. The three Raspberry Pi stand to each other as their published single-thread sysbench
# results do (prime test, version 1.0.20: Pi 5 2737, Pi 4 1478, Pi 3B+ 687 events a second,
# https://leoncode.co.uk/articles/raspberry-pi-benchmarks), that is 1 : 1.85 : 3.98. The Zero 2 W
# has the processor of the Pi 3B+ at 1.0 instead of 1.4 GHz. How a Pi 5 stands to a workstation (2)
# and where the two PCs lie between (1.5 and 2.5) are our own round estimates, not measurements.
# Memory. What the board or PC has, less the system, the agent and a reserve.
# Link. Round figures for the network such a machine is usually found on; chosen, not measured.
_PI_5 = 2.0
_PI_4 = _PI_5 * 2737 / 1478
_PI_3 = _PI_5 * 2737 / 687
_ZERO_2 = _PI_3 * 1.4

_TABLE = (
    EmulatedMachine("workstation", 1.0, 8 * GIB, 50e6, "16 GB PC, gigabit Ethernet; estimate"),
    EmulatedMachine("factory-pc", 1.5, 3 * GIB, 10e6, "8 GB PC, 100 Mbit Ethernet; estimate"),
    EmulatedMachine("old-pc", 2.5, 1 * GIB, 5e6, "2 GB PC ten years old; estimate"),
    EmulatedMachine("raspberry-pi-5", _PI_5, 2 * GIB, 6e6, "4 GB, 5 GHz Wi-Fi; sysbench ratio"),
    EmulatedMachine("raspberry-pi-4", _PI_4, 1 * GIB, 4e6, "2 GB, 5 GHz Wi-Fi; sysbench ratio"),
    EmulatedMachine("raspberry-pi-3", _PI_3, 512 * MIB, 2e6, "1 GB, 2.4 GHz Wi-Fi; sysbench ratio"),
    # 512 MB less graphics, system and inference leave less than torch alone needs: it only infers.
    EmulatedMachine("raspberry-pi-zero-2", _ZERO_2, 200 * MIB, 1e6, "512 MB; clock of the Pi 3B+"),
)
MACHINES: Mapping[str, EmulatedMachine] = MappingProxyType(
    {
        row.name: EmulatedMachine(
            row.name,
            round(row.factor * SLOW_MOTION, 1),
            row.memory_budget,
            row.link_bytes_per_s,
            row.source,
        )
        for row in _TABLE
    }
)

# Eight unlike machines; the last of them is the demo's free-rider.
DEMO_FLEET = (
    "workstation",
    "workstation",
    "factory-pc",
    "old-pc",
    "raspberry-pi-5",
    "raspberry-pi-4",
    "raspberry-pi-3",
    "workstation",
)


def find_machine(name: str) -> EmulatedMachine:
    """Return the machine called ``name``; "" and "none" are the real one.

    Raises:
        EmulationError: the table has no such machine; the message names the nearest.
    """
    if name in {"", "none"}:
        return REAL_MACHINE
    if name in MACHINES:
        return MACHINES[name]
    near = difflib.get_close_matches(name, MACHINES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(MACHINES)}"
    raise EmulationError(f"no emulated machine {name!r}: {hint}")


def owed_wait(cpu_s: float, wall_s: float, factor: float) -> float:
    """Return the seconds still to wait so that ``wall_s`` reaches ``cpu_s * factor``."""
    return max(0.0, cpu_s * factor - wall_s)
