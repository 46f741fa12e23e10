"""What the cells of one method in one case say, over their seeds. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, stdev
from typing import Any

LAST = 3  # rounds whose mean is a method's accuracy: on uneven data single rounds jump
Found = Mapping[str, Any]
Key = tuple[str, str]
"""Of a table: data and case."""


@dataclass(frozen=True)
class Curve:
    """One campaign, round by round.

    Attributes:
        scores: of the judged width, in percentage points.
        time_s: virtual seconds since the start; device_s: seconds that devices worked; megabytes:
            sent and received, as they travelled. All up to the end of each round.
    """

    scores: tuple[float, ...]
    time_s: tuple[float, ...]
    device_s: tuple[float, ...]
    megabytes: tuple[float, ...]

    def first(self, axis: str, target: float) -> float | None:
        """Return where on an axis a score is first reached; None = nowhere."""
        places: tuple[float, ...] = getattr(self, axis)
        reached = (at for at, score in zip(places, self.scores, strict=True) if score >= target)
        return next(reached, None)

    def at(self, axis: str, limit: float) -> float:
        """Return the score of the last round that ends within a limit on an axis.

        0 where not even the first does.
        """
        places: tuple[float, ...] = getattr(self, axis)
        inside = [s for at, s in zip(places, self.scores, strict=True) if at <= limit * (1 + 1e-9)]
        return inside[-1] if inside else 0.0


def tables(cells: Sequence[Found]) -> dict[Key, dict[str, list[Found]]]:
    """Return the finished cells: table -> method -> its cells."""
    found: dict[Key, dict[str, list[Found]]] = {}
    for one in cells:
        cell = one["cell"]
        methods = found.setdefault((cell["data"], cell["case"]), {})
        methods.setdefault(cell["method"], []).append(one)
    return found


def judged_width(found: Found) -> str:
    """Return the width that a method is judged by: the widest that somebody trains.

    That is the full width, but for the method that trains the narrowest alone.
    """
    return f"{found['widths'][0 if found['cell']['method'] == 'fedavg-narrow' else -1]:g}"


def last(found: Found, width: str) -> float | None:
    """Return the mean score of a width over the last rounds, in points; None = not trained."""
    scores = [100 * score[width] for score in found["scores"][-LAST:] if width in score]
    return fmean(scores) if scores else None


def curve(found: Found) -> Curve:
    """Return a campaign round by round."""
    rounds, width = found["rounds"], judged_width(found)
    moved = [(one["downloaded_bytes"] + one["uploaded_bytes"]) / 1e6 for one in rounds]
    return Curve(
        tuple(100 * score[width] for score in found["scores"]),
        tuple(one["closed_s"] for one in rounds),
        tuple(accumulate(one["device_s"] for one in rounds)),
        tuple(accumulate(moved)),
    )


def participation(found: Found) -> tuple[float, float]:
    """Return the mean and the least share of rounds that a device took part in."""
    shares = [device["participation"] for device in found["devices"]]
    return fmean(shares), min(shares)


def total(found: Found, name: str) -> float:
    """Return the sum of a figure over the devices."""
    return float(sum(device[name] for device in found["devices"]))


def mean_and_spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Return the mean and the sample standard deviation of what is known; None = nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return fmean(known), stdev(known) if len(known) > 1 else 0.0
