"""What the machines of a simulation are like: how fast, how much memory, how fast their link. Pure.

A device without a tier trains in a moment and has room for everything. With one, virtual time is
that of the machine: what its profile claims, how long it trains and how long its transfers take
follow from the figures here, which come best from the profiles of real machines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from broker.messages import TrainingSettings
from profiler.prediction import (
    SET_UP_STEPS,
    TRAINING_BASELINE,
    out_of_memory_line,
    predict_memory,
    training_cost,
)
from profiler.profile import WidthCost
from slimfleet.simulation.errors import SimulationError
from slimmable.cost import model_bytes
from slimmable.spec import WidthSpec
from slimmable.training_rule import TrainingRule

MIB = 2**20
TIMED_STEPS = 3  # of each width in a profile, as `profiler.benchmark` times them
PLENTY = 1 << 40
Curve = float | tuple[tuple[float, float], ...]
"""A figure at full width, or pairs of a width and the figure there; linear between them."""


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines of one kind.

    Attributes:
        name: for tables.
        count: so many devices in a row are of it, where tiers are dealt in turn.
        step_s: seconds of one training step: at full width, or measured at several widths.
        slower: all seconds of steps times this.
        fixed: where ``step_s`` or ``peak_mb`` is one number, the share of it that does not shrink
            with the width; the rest shrinks with the number of parameters.
        memory_mb: MiB that training may use; 0 = as much as it wants.
        peak_mb: MiB that training holds; 0 = predicted from the parameters, which knows nothing of
            activations.
        link_bytes_per_s: rate of transfers; 0 = they take no time.
        noise: standard deviation of the logarithm of a training's duration; its median is as
            ``step_s`` says.
        busy: chance that the machine has other work during a training; busy_slower: it takes so
            many times as long then.
        claims: the profile says that a step takes so many times what it takes; below 1 is a lie.
    """

    name: str
    step_s: Curve
    count: int = 1
    slower: float = 1.0
    fixed: float = 0.2
    memory_mb: float = 0.0
    peak_mb: Curve = 0.0
    link_bytes_per_s: float = 0.0
    noise: float = 0.0
    busy: float = 0.0
    busy_slower: float = 2.0
    claims: float = 1.0

    def check(self) -> "Tier":
        """Return self if a machine can be like that.

        Raises:
            SimulationError: the message names the figure.
        """
        where = f"tier {self.name!r}"
        if not self.name or self.count < 1:
            raise SimulationError(f"{where}: it needs a name, and count must be at least 1")
        for name in ("slower", "busy_slower", "claims"):
            _check(where, name, getattr(self, name), above=0.0)
        for name in ("memory_mb", "link_bytes_per_s", "noise"):
            _check(where, name, getattr(self, name))
        for name in ("fixed", "busy"):
            _check(where, name, getattr(self, name), most=1.0)
        _check_curve(where, "step_s", self.step_s, above=0.0)
        _check_curve(where, "peak_mb", self.peak_mb)
        return self


def _check(
    where: str, name: str, value: float, *, above: float | None = None, most: float = math.inf
) -> None:
    if not math.isfinite(value) or value < 0 or value > most or value == above:
        least = "above 0" if above == 0 else "at least 0"
        upper = f" and at most {most:g}" if most < math.inf else ""
        raise SimulationError(f"{where}: {name} = {value:g} must be {least}{upper}, and finite")


def _check_curve(where: str, name: str, curve: Curve, *, above: float | None = None) -> None:
    if isinstance(curve, int | float):
        _check(where, name, curve, above=above)
        return
    widths = [width for width, _ in curve]
    if not widths or widths != sorted(set(widths)) or not 0 < widths[0] <= widths[-1] <= 1:
        raise SimulationError(
            f"{where}: {name} must be pairs of a width and a figure, such as [[0.5, 0.02],"
            " [1.0, 0.05]], the widths ascending and from above 0 to 1"
        )
    for _, value in curve:
        _check(where, name, value, above=above)


@dataclass(frozen=True)
class Machine:
    """One device of a tier, with the model that it trains."""

    tier: Tier
    spec: WidthSpec
    _shares: dict[float, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def memory_budget(self) -> int:
        """Bytes that training may use."""
        return int(self.tier.memory_mb * MIB) or PLENTY

    def step_s(self, width: float) -> float:
        """Return the seconds of one training step of a sub-model, nothing else going on."""
        return self.tier.slower * self._at(self.tier.step_s, width)

    def peak_bytes(self, width: float) -> int:
        """Return the most memory that training a sub-model holds."""
        if self.tier.peak_mb == 0:
            return predict_memory(TRAINING_BASELINE, model_bytes(self.spec, width), 0)
        return int(self._at(self.tier.peak_mb, width) * MIB)

    def obstacle(self, width: float) -> str:
        """Return why the machine has no room to train a width, or ""."""
        needs, budget = self.peak_bytes(width), self.memory_budget
        return out_of_memory_line(width, needs, budget) if needs > budget else ""

    def costs(self, widths: Sequence[float]) -> tuple[WidthCost, ...]:
        """Return what training steps of each width cost that there is room for."""
        return tuple(
            WidthCost(width, self.step_s(width), self.peak_bytes(width), TIMED_STEPS)
            for width in widths
            if not self.obstacle(width)
        )

    def claimed(self, widths: Sequence[float], rng: np.random.Generator) -> tuple[WidthCost, ...]:
        """Return the same as a profile has it: from a few timed steps, and not always honest."""
        seen = self.tier.claims * _spread(self.tier.noise / math.sqrt(TIMED_STEPS), rng)
        return tuple(
            WidthCost(cost.width, cost.step_s * seen, cost.peak_bytes, cost.timed_steps)
            for cost in self.costs(widths)
        )

    def training_s(
        self, width: float, training: TrainingSettings, rng: np.random.Generator
    ) -> float:
        """Return the seconds that one training takes.

        Args:
            width: training width.
            training: of the task.
            rng: of the device; two numbers are drawn.
        """
        rule = TrainingRule(**msgspec.structs.asdict(training))
        costs = self.costs(sorted({*training.widths, width}))
        cost = training_cost(costs, width, rule)
        step_s = cost.step_s if cost else self.step_s(width)
        seconds = (training.steps + SET_UP_STEPS) * step_s * _spread(self.tier.noise, rng)
        return seconds * (self.tier.busy_slower if rng.random() < self.tier.busy else 1.0)

    def _at(self, curve: Curve, width: float) -> float:
        if isinstance(curve, int | float):
            return curve * (self.tier.fixed + (1.0 - self.tier.fixed) * self._share(width))
        widths, values = zip(*curve, strict=True)
        return float(np.interp(width, widths, values))

    def _share(self, width: float) -> float:
        """Return a width's share of the parameters."""
        if width not in self._shares:
            whole = model_bytes(self.spec, 1.0)
            self._shares[width] = model_bytes(self.spec, width) / whole
        return self._shares[width]


def _spread(deviation: float, rng: np.random.Generator) -> float:
    """Return a factor whose median is 1 and whose logarithm deviates by ``deviation``."""
    return math.exp(deviation * float(rng.standard_normal()))


def tier_of(tiers: Sequence[Tier], place: int) -> Tier | None:
    """Return the tier of a device by its place, where tiers are dealt in turn; None without any."""
    turn = [tier for tier in tiers for _ in range(tier.count)]
    return turn[place % len(turn)] if turn else None
