"""Shapley values of a round, exact and from permutations. Pure.

The game stands in `coordinator.contribution.evidence`. Shapley value: Shapley 1953. Sampling
permutations: Castro, Gomez and Tejada, "Polynomial calculation of the Shapley value based on
sampling", 2009; each permutation is used in both directions (antithetic, Mitchell et al., JMLR
2022), which cancels the noise of the order.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np

from coordinator.contribution.evidence import Array, Coalition, Scores

Value = Callable[[Coalition], float | Array]

EXACT_LIMIT = 16  # 65,536 coalitions; beyond that nobody waits for it


class Game:
    """Evaluates each coalition once; its length is the number of evaluations."""

    def __init__(self, value: Value) -> None:
        self._value = value
        self._known: dict[Coalition, Array] = {}

    def __call__(self, coalition: Coalition) -> Array:
        """Return v(coalition) per block, (B,)."""
        if coalition not in self._known:
            self._known[coalition] = np.atleast_1d(np.float64(self._value(coalition)))
        return self._known[coalition]

    def __len__(self) -> int:
        return len(self._known)

    def scores(self, devices: Sequence[str], found: Mapping[str, Array], method: str) -> Scores:
        """Return what was found, with the values of nobody and of everybody."""
        before, after = self(frozenset()), self(frozenset(devices))
        return Scores(
            scores={device: float(found[device].mean()) for device in devices},
            method=method,
            evaluations=len(self),
            before=float(before.mean()),
            after=float(after.mean()),
            blocks={device: tuple(found[device].tolist()) for device in devices}
            if len(before) > 1
            else {},
        )

    def new_in(self, chain: Sequence[Coalition]) -> int:
        """Return how many of these were not evaluated yet."""
        return len({coalition for coalition in chain if coalition not in self._known})


def exact_shapley(devices: Sequence[str], value: Value) -> Scores:
    """Return Shapley values over all 2^N coalitions.

    Raises:
        ValueError: more than `EXACT_LIMIT` devices; use `permutation_shapley`.
    """
    if len(devices) > EXACT_LIMIT:
        raise ValueError(
            f"exact-shapley of {len(devices)} devices needs 2^{len(devices)} evaluations;"
            " use permutation-shapley"
        )
    known = Game(value)
    n = len(devices)
    nobody = np.zeros_like(known(frozenset()))
    scores = {device: nobody.copy() for device in devices}
    for device in devices:
        others = [other for other in devices if other != device]
        for size in range(n):
            weight = 1.0 / (n * comb(n - 1, size))
            for members in combinations(others, size):
                without = frozenset(members)
                scores[device] += weight * (known(without | {device}) - known(without))
    return known.scores(devices, scores, "exact-shapley")


def permutation_shapley(
    devices: Sequence[str], value: Value, budget: int, rng: np.random.Generator
) -> Scores:
    """Estimate Shapley values from permutations, each walked forwards and backwards.

    The scores always sum to v(everybody) - v(nobody). Where the budget does not pay for one
    whole permutation, one is walked all the same: fewer would leave devices without a score.
    Where it pays for every coalition, there is nothing to estimate: the result is exact, and
    named so.

    Args:
        devices: who took part.
        value: of a coalition.
        budget: distinct coalitions to evaluate at most (at least N + 1 are).
        rng: draws permutations.
    """
    if len(devices) <= EXACT_LIMIT and 2 ** len(devices) <= budget:
        return exact_shapley(devices, value)
    known = Game(value)
    before = known(frozenset())
    known(frozenset(devices))
    sums = {device: np.zeros_like(before) for device in devices}
    walks = 0
    # Permutations of few devices repeat coalitions: the repeat limit ends the search then.
    for _ in range(max(1, budget)):
        order = [devices[i] for i in rng.permutation(len(devices))]
        for walk in (order, order[::-1]):
            chain = [frozenset(walk[: length + 1]) for length in range(len(walk))]
            if walks and len(known) + known.new_in(chain) > budget:
                break
            inside = before
            for device, coalition in zip(walk, chain, strict=True):
                sums[device] += known(coalition) - inside
                inside = known(coalition)
            walks += 1
        else:
            continue
        break
    scores = {device: total / walks for device, total in sums.items()}
    return known.scores(devices, scores, "permutation-shapley")
