"""What the server makes of a round's change: it may remember the changes before. numpy only, pure.

The change of a round is taken for a gradient (Reddi et al., "Adaptive Federated Optimization", ICLR
2021, algorithm 2). With momentum m and, per coordinate, the size v of the changes so far:

* fedavg: the model moves by the change times ``rate``;
* fedavgm (Hsu et al., "Measuring the Effects of Non-Identical Data Distribution", 2019):
  m = momentum m + change, the model moves by rate m;
* fedadam and fedyogi: m = momentum m + (1 - momentum) change, v follows the squared changes, and
  the model moves by rate m / (sqrt(v) + adaptivity).

What is due to the rounds before is no device's merit: it moves the base that steps are taken from.
What is left is a factor for each coordinate, which the whole round fixes, so that the move is still
the sum of one step a device. What no device of the round holds neither moves nor is forgotten.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.aggregation.steps import add
from coordinator.settings import ServerOptimiser
from slimmable.slicing import coverage, slice_array
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState
from slimmable.window import Place

FIRST, SECOND = "first/", "second/"  # before a parameter's name: m and v


@dataclass(frozen=True)
class Move:
    """One move of the model.

    Attributes:
        base: full state that the steps are taken from; it holds what earlier rounds brought.
        factors: parameter name -> what each coordinate of a step is multiplied by; None = 1.
        memory: what the next round needs; empty where the optimiser remembers nothing.
    """

    base: ModelState
    factors: Mapping[str, Array] | None
    memory: ModelState

    def state(self, change: Mapping[str, Array]) -> ModelState:
        """Return the full state after the change of the round."""
        factors = self.factors
        if factors is None:
            return add(self.base, change)
        return add(self.base, {name: array * factors[name] for name, array in change.items()})

    def scaled(
        self, spec: WidthSpec, place: Place, change: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """Return the change of a step at the size at which it counts.

        Args:
            spec: of the model.
            place: of the step.
            change: parameter name -> array in the slice's shape.
        """
        factors = self.factors
        if factors is None:
            return change
        return {
            name: array * slice_array(factors[name], spec.indices(name, *place))
            for name, array in change.items()
        }


def move(
    optimiser: ServerOptimiser,
    base: Mapping[str, Array],
    spec: WidthSpec,
    change: Mapping[str, Array],
    places: Iterable[Place],
    memory: Mapping[str, Array],
) -> Move:
    """Return the move that an optimiser makes of a round.

    Args:
        optimiser: with its numbers.
        base: full state that the round started from.
        spec: of the model.
        change: of the round, parameter name -> array in the full shape.
        places: of all slices that were trained in it.
        memory: of the move before; empty at first.
    """
    if optimiser.name == "fedavg" and optimiser.rate == 1.0:
        return Move(dict(base), None, {})
    places = set(places)
    moved = {name: np.array(array, copy=True) for name, array in base.items()}
    factors: dict[str, Array] = {}
    kept: ModelState = {}
    for name in spec.parameters:
        held = _held(spec, name, places)
        first, second = (
            memory.get(prefix + name, fresh)
            for prefix, fresh in (
                (FIRST, np.zeros_like(base[name])),
                (SECOND, np.full_like(base[name], optimiser.adaptivity**2)),
            )
        )
        second = np.where(held, _spread(optimiser, second, change[name]), second)
        rate = _rate(optimiser, second)
        own = 1.0 - optimiser.momentum if optimiser.adaptive else 1.0
        if optimiser.name != "fedavg":
            before = optimiser.momentum * first
            moved[name] += np.where(held, rate * before, 0.0).astype(np.float32)
            first = np.where(held, before + own * change[name], first)
            kept[FIRST + name] = first.astype(np.float32)
        if optimiser.adaptive:
            kept[SECOND + name] = second.astype(np.float32)
        factors[name] = (own * rate).astype(np.float32)
    return Move(moved, factors, kept)


def _held(spec: WidthSpec, name: str, places: set[Place]) -> Array:
    held = np.zeros(spec.shape(name, 1.0), bool)
    for place in places:
        held[coverage(spec, name, *place)] = True
    return held


def _spread(optimiser: ServerOptimiser, second: Array, change: Array) -> Array:
    """Return v after a change."""
    squares = np.square(change)
    fresh = 1.0 - optimiser.second_momentum
    if optimiser.name == "fedyogi":
        found: Array = second - fresh * squares * np.sign(second - squares)
        return found
    return optimiser.second_momentum * second + fresh * squares


def _rate(optimiser: ServerOptimiser, second: Array) -> Array:
    if not optimiser.adaptive:
        return np.full_like(second, optimiser.rate)
    found: Array = optimiser.rate / (np.sqrt(second) + optimiser.adaptivity)
    return found
