"""The game of one round: each coalition is evaluated once, and models that break are defined. Pure.

A model whose value is NaN or infinite (steps so long that its outputs overflow) must not spoil the
scores of the others, so it counts as `BROKEN` worse than the round without it.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from coordinator.contribution.evidence import Array, Coalition, EvidenceError, Scores

Value = Callable[[Coalition], float | Array]

BROKEN = 100.0  # nats: a network that gives the true class a probability of 4e-44


class Game:
    """Evaluates each coalition once; its length is the number of evaluations.

    Attributes:
        nobody, everybody: values per block, (B,).
    """

    def __init__(self, devices: Sequence[str], value: Value) -> None:
        """Evaluate nobody and everybody.

        Raises:
            EvidenceError: one of the two is not finite: the round itself broke.
        """
        self.devices = tuple(devices)
        self._value = value
        self._known: dict[Coalition, Array] = {}
        for coalition in (frozenset[str](), frozenset(devices)):
            found = np.atleast_1d(np.float64(value(coalition)))
            if not np.isfinite(found).all():
                raise EvidenceError(
                    f"the model with the steps of {'everybody' if coalition else 'nobody'} has no"
                    " finite value on the validation data: check the data for NaN, or lower the"
                    " learning rate"
                )
            self._known[coalition] = found
            if not devices:
                break
        self.nobody = self._known[frozenset()]
        self.everybody = self._known[frozenset(devices)]
        self._worst = np.minimum(self.nobody, self.everybody) - BROKEN

    def __call__(self, coalition: Coalition) -> Array:
        """Return v(coalition) per block, (B,)."""
        if coalition not in self._known:
            self._known[coalition] = self.whole(np.atleast_1d(np.float64(self._value(coalition))))
        return self._known[coalition]

    def __len__(self) -> int:
        return len(self._known)

    def whole(self, value: Array) -> Array:
        """Return a value per block with those replaced that are not finite."""
        return np.where(np.isfinite(value), value, self._worst)

    def new_in(self, chain: Sequence[Coalition]) -> int:
        """Return how many of these were not evaluated yet."""
        return len({coalition for coalition in chain if coalition not in self._known})

    def scores(self, found: Mapping[str, Array], method: str, passes: int = 0) -> Scores:
        """Return what was found, with the values of nobody and of everybody.

        Args:
            found: device -> score per block, (B,).
            method: name of the estimator.
            passes: what it evaluated outside of the game.
        """
        many = len(self.nobody) > 1
        return Scores(
            scores={device: float(found[device].mean()) for device in self.devices},
            method=method,
            evaluations=len(self) + passes,
            before=float(self.nobody.mean()),
            after=float(self.everybody.mean()),
            blocks={d: tuple(found[d].tolist()) for d in self.devices} if many else {},
        )


def semivalues(game: Game, weights: Sequence[float]) -> dict[str, Array]:
    """Return device -> the weighted sum of what it adds to each coalition of the others, (B,).

    Dubey, Neyman and Weber, "Value theory without efficiency", 1981. Whoever adds nothing to any
    coalition gets exactly 0.

    Args:
        game: all of its 2^N coalitions are evaluated.
        weights: of a coalition of 0, 1, ... N - 1 others.
    """
    found = {device: np.zeros_like(game.nobody) for device in game.devices}
    for device in game.devices:
        others = [other for other in game.devices if other != device]
        for size, weight in enumerate(weights):
            for members in combinations(others, size):
                without = frozenset(members)
                found[device] += weight * (game(without | {device}) - game(without))
    return found
