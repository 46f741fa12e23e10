"""What state the machine is in right now: how hot, whether slowed down, on what power, how full.

All of it may be missing: a virtual machine has no thermometer, a PC no battery. What is missing is
None or "", never a guess.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import psutil

from profiler.profile import Condition
from profiler.system_files import text_of

SYS = Path("/sys")
COOLING = ("processor", "cpufreq", "cpu")  # in the type of a cooling device that slows processors
# Of the Raspberry Pi's firmware; the same bits from 16 on say that it has happened since the start.
FIRMWARE_BITS = (
    "under-voltage",
    "clock capped",
    "throttled",
    "temperature limit",
)


def read_condition(folder: Path, sys: Path = SYS) -> Condition:
    """Return the condition of the machine that runs this.

    Args:
        folder: where the agent keeps its files; the nearest one above it that exists is asked.
        sys: where Linux describes devices.
    """
    return Condition(_hottest(), _throttled(sys), _power(), _free(folder))


def _hottest() -> float | None:
    if not hasattr(psutil, "sensors_temperatures"):  # Windows, macOS
        return None
    try:
        sensors = psutil.sensors_temperatures()
    except (OSError, ValueError):  # a sensor that answers with garbage, or not at all
        return None
    found = [entry.current for entries in sensors.values() for entry in entries]
    # Some boards report a sensor that is not connected as -273 or 255.
    return max((c for c in found if math.isfinite(c) and -60 < c < 150), default=None)


def _power() -> str:
    if not hasattr(psutil, "sensors_battery"):
        return ""
    try:
        battery = psutil.sensors_battery()
    except (OSError, ValueError):
        return ""
    if battery is None or battery.power_plugged is None:
        return ""
    return "mains" if battery.power_plugged else "battery"


def _free(folder: Path) -> int:
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.exists():
            return int(psutil.disk_usage(str(place)).free)
    return 0


def _throttled(sys: Path) -> str:
    return "; ".join(dict.fromkeys((*_firmware(sys), *_cooling(sys))))


def _firmware(sys: Path) -> Iterator[str]:
    """Yield what a Raspberry Pi's firmware and its voltage sensor say."""
    for file in sorted(sys.glob("devices/platform/*/*firmware/get_throttled")):
        try:
            bits = int(text_of(file), 16)
        except ValueError:
            continue
        for place, what in enumerate(FIRMWARE_BITS):
            if bits >> place & 1:
                yield what
            elif bits >> (16 + place) & 1:
                yield f"{what} since the start"
    for name in sorted(sys.glob("class/hwmon/hwmon*/name")):
        if text_of(name) == "rpi_volt" and text_of(name.with_name("in0_lcrit_alarm")) == "1":
            yield FIRMWARE_BITS[0]


def _cooling(sys: Path) -> Iterator[str]:
    """Yield what Linux's own thermal control says: a processor held back to cool."""
    for kind in sorted(sys.glob("class/thermal/cooling_device*/type")):
        level = text_of(kind.with_name("cur_state"))
        if any(word in text_of(kind).lower() for word in COOLING) and level not in {"", "0"}:
            yield "slowed down to cool"
