"""What the comparison was asked to show, and whether it does. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from benchmarks.heterogeneity.measures import (
    LAST,
    Found,
    curve,
    judged_width,
    last,
    mean_and_spread,
    participation,
)
from benchmarks.heterogeneity.methods import NAMED, OURS, REFERENCE

NOISE = 2.0  # standard errors of a difference over seeds that count as noise
WANTED_PARTICIPATION = 0.95
WANTED_TRAFFIC = 0.5


@dataclass(frozen=True)
class Goal:
    """One goal in one table.

    Attributes:
        met: None where it cannot be judged.
        detail: the figures, in one line.
    """

    name: str
    met: bool | None
    detail: str


Methods = Mapping[str, Sequence[Found]]


def goals(methods: Methods) -> list[Goal]:
    """Return the goals of one table; our method must be among its methods."""
    return [
        _accuracy(methods, "at equal device-seconds", _at_equal_device_seconds),
        _accuracy(methods, "after as many rounds", _at_the_end),
        _order(methods),
        _participation(methods),
        _traffic(methods),
    ]


def _at_equal_device_seconds(one: Found, other: Found) -> tuple[float, float]:
    """Return what both score at the device-seconds that both reach."""
    limit = min(curve(one).device_s[-1], curve(other).device_s[-1])
    return curve(one).at("device_s", limit), curve(other).at("device_s", limit)


def _at_the_end(one: Found, other: Found) -> tuple[float, float]:
    return last(one, judged_width(one)) or 0.0, last(other, judged_width(other)) or 0.0


def _accuracy(
    methods: Methods, where: str, judge: Callable[[Found, Found], tuple[float, float]]
) -> Goal:
    """Within one standard deviation of the best listed method, seed by seed."""
    name = f"within a standard deviation of the best {where}"
    worst: tuple[float, str] | None = None
    for method in (one.name for one in NAMED if one.name != OURS and one.name in methods):
        pairs = [judge(*pair) for pair in _same_seeds(methods[OURS], methods[method])]
        if not pairs:
            continue
        ours, theirs = zip(*pairs, strict=True)
        spread = (mean_and_spread(theirs) or (0.0, 0.0))[1]
        margin = fmean(ours) - fmean(theirs) + spread
        line = f"{fmean(ours):.1f} against {fmean(theirs):.1f} +- {spread:.1f} of {method}"
        if worst is None or margin < worst[0]:
            worst = (margin, line)
    if worst is None:
        return Goal(name, None, "nothing to compare with")
    return Goal(name, worst[0] >= 0, worst[1])


def _order(methods: Methods) -> Goal:
    """Accuracy does not fall with width by more than noise."""
    cells = methods[OURS]
    widths = [f"{width:g}" for width in cells[0]["widths"]]
    falls = []
    for narrow, wide in pairwise(widths):
        steps = [(last(one, wide) or 0.0) - (last(one, narrow) or 0.0) for one in cells]
        mean, spread = mean_and_spread(steps) or (0.0, 0.0)
        falls.append(
            (mean + NOISE * spread / max(1, len(steps)) ** 0.5, mean, f"{narrow} to {wide}")
        )
    bound, mean, where = min(falls)
    return Goal(
        "accuracy does not fall with width", bound >= 0, f"least step {mean:+.1f} points, {where}"
    )


def _participation(methods: Methods) -> Goal:
    least = min(participation(one)[1] for one in methods[OURS])
    alone = [participation(one)[0] for one in methods.get("fedavg", ())]
    other = f"; FedAvg at full width has {100 * fmean(alone):.0f} % of the fleet" if alone else ""
    return Goal(
        "every device in 95 % of the rounds",
        least >= WANTED_PARTICIPATION,
        f"least {100 * least:.0f} %{other}",
    )


def _traffic(methods: Methods) -> Goal:
    """At most half of HeteroFL's traffic at equal accuracy: what it ends with, and where we do."""
    name = f"at most half of {REFERENCE}'s traffic at equal accuracy"
    shares = []
    for mine, other in _same_seeds(methods[OURS], methods.get(REFERENCE, ())):
        theirs, ours = curve(other), curve(mine)
        target = fmean(theirs.scores[-LAST:])
        reached = ours.first("megabytes", target)
        they = theirs.first("megabytes", target)
        if reached is None or they is None:
            return Goal(
                name, met=False, detail=f"seed {mine['cell']['seed']}: {target:.1f} is not reached"
            )
        shares.append(reached / they)
    if not shares:
        return Goal(name, None, "nothing to compare with")
    return Goal(name, fmean(shares) <= WANTED_TRAFFIC, f"{fmean(shares):.2f} of it")


def _same_seeds(one: Sequence[Found], other: Sequence[Found]) -> list[tuple[Found, Found]]:
    of = {found["cell"]["seed"]: found for found in other if found["rounds"]}
    return [
        (found, of[found["cell"]["seed"]])
        for found in one
        if found["cell"]["seed"] in of and found["rounds"]
    ]
