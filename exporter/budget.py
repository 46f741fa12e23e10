"""What a device can afford: a limit on latency and on file size, read from one line. Pure."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

LATENCY_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
# Upper and lower case k are both in use; a lower-case m or g for bytes is not.
SIZE_UNITS = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "KiB": 1024,
    "MB": 1000**2,
    "MiB": 1024**2,
    "GB": 1000**3,
    "GiB": 1024**3,
}
QUANTITIES: Mapping[str, Mapping[str, float]] = {"latency": LATENCY_UNITS, "size": SIZE_UNITS}
_LIMIT = re.compile(
    r"(?P<quantity>[A-Za-z]+)\s*(?P<sign><=|≤|\S*?)\s*"
    r"(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*(?P<unit>[A-Za-zµ]*)"
)
_EXAMPLE = '"latency<=20ms,size<=2MB"'


class BudgetError(ValueError):
    """The text is no device budget. Write it as the message shows."""


@dataclass(frozen=True)
class Budget:
    """Limits that a file has to keep; `math.inf` where there is none.

    Attributes:
        latency_s: of one call with one sample.
        size_bytes: of the file.
    """

    latency_s: float = math.inf
    size_bytes: float = math.inf

    @property
    def limits_anything(self) -> bool:
        """Whether there is a limit at all."""
        return self != NO_BUDGET

    def excess(self, latency_s: float, size_bytes: float) -> float:
        """Return the larger of both shares of the limits: at most 1 fits, 2 is twice too much."""
        return max(latency_s / self.latency_s, size_bytes / self.size_bytes)

    def fits(self, latency_s: float, size_bytes: float) -> bool:
        """Whether both limits are kept; a value equal to its limit keeps it."""
        # Not excess() <= 1: a quotient may round to 1 from above.
        return latency_s <= self.latency_s and size_bytes <= self.size_bytes

    def complaint(self, latency_s: float, size_bytes: float) -> str:
        """Return which limits are broken, for example "23 ms > 20 ms"; "" where it fits."""
        broken = []
        if latency_s > self.latency_s:
            broken.append(f"{format_seconds(latency_s)} > {format_seconds(self.latency_s)}")
        if size_bytes > self.size_bytes:
            broken.append(f"{format_bytes(size_bytes)} > {format_bytes(self.size_bytes)}")
        return ", ".join(broken)

    def __str__(self) -> str:
        """Return the budget in the form that `parse_budget` reads."""
        limits = []
        if self.latency_s < math.inf:
            limits.append(f"latency<={format_seconds(self.latency_s).replace(' ', '')}")
        if self.size_bytes < math.inf:
            limits.append(f"size<={format_bytes(self.size_bytes).replace(' ', '')}")
        return ",".join(limits)


NO_BUDGET = Budget()


def parse_budget(text: str) -> Budget:
    """Read a device budget such as ``latency<=20ms,size<=2MB``; order and spaces do not matter.

    Units: us, ms, s for latency; B, kB or KB, KiB, MB, MiB, GB, GiB for size.

    Raises:
        BudgetError: the message names the part and what it should be.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        quantity, limit = _parse_limit(part.strip())
        if quantity in limits:
            raise BudgetError(f"budget {text!r} limits {quantity} twice; give one limit")
        limits[quantity] = limit
    return Budget(limits.get("latency", math.inf), limits.get("size", math.inf))


def format_seconds(seconds: float) -> str:
    """Return a duration with three digits and its unit, for example "1.23 ms"."""
    unit = "us" if seconds < 1e-3 else "ms" if seconds < 1.0 else "s"
    return f"{_three_digits(seconds / LATENCY_UNITS[unit])} {unit}"


def format_bytes(size: float) -> str:
    """Return a size with three digits and its decimal unit, for example "45.1 kB"."""
    unit = "B" if size < 1e3 else "kB" if size < 1e6 else "MB" if size < 1e9 else "GB"
    return f"{_three_digits(size / SIZE_UNITS[unit])} {unit}"


def _parse_limit(part: str) -> tuple[str, float]:
    match = _LIMIT.fullmatch(part)
    if match is None:
        raise BudgetError(f"{part!r} is no limit; write a budget as {_EXAMPLE}")
    quantity, sign, unit = match["quantity"].lower(), match["sign"], match["unit"]
    units = QUANTITIES.get(quantity)
    if units is None:
        raise BudgetError(f"{quantity!r} has no limit; a budget limits {' and '.join(QUANTITIES)}")
    if sign not in {"<=", "≤"}:
        raise BudgetError(f"{part!r}: only <= makes a limit, as in {_EXAMPLE}")
    unit = unit.replace("µ", "u")
    if unit not in units:
        what = f"unit {unit!r}" if unit else "a number without unit"
        raise BudgetError(f"{part!r} has {what}; units of {quantity}: {', '.join(units)}")
    limit = float(match["number"]) * units[unit]
    if not 0.0 < limit < math.inf:
        raise BudgetError(f"{part!r}: nothing keeps this limit; give a number above 0")
    return quantity, limit


def _three_digits(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip("0").rstrip(".") if value else "0"
