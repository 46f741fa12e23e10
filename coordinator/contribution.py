"""What each device's update was worth in a round. Pure; the value of a coalition is an argument.

The game: v(S) is the value of the model w_t plus the steps of the devices in S, weights fixed by
the grand coalition. A device whose step is zero therefore scores exactly 0 in every estimator here.
Shapley value: Shapley 1953. Sampling permutations: Castro, Gomez and Tejada, "Polynomial
calculation of the Shapley value based on sampling", 2009; each permutation is used in both
directions (antithetic, Mitchell et al., JMLR 2022), which cancels the noise of the order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

Coalition = frozenset[str]
Value = Callable[[Coalition], float]

EXACT_LIMIT = 16  # 65,536 coalitions; beyond that nobody waits for it


@dataclass(frozen=True)
class Scores:
    """Contributions of one round.

    Attributes:
        scores: device -> score in units of the value.
        method: name of the estimator.
        coalitions: how many distinct ones were evaluated.
        before, after: value of nobody and of everybody.
    """

    scores: dict[str, float]
    method: str
    coalitions: int
    before: float
    after: float


class _Memo:
    """Evaluates each coalition once."""

    def __init__(self, value: Value) -> None:
        self._value = value
        self._known: dict[Coalition, float] = {}

    def __call__(self, coalition: Coalition) -> float:
        if coalition not in self._known:
            self._known[coalition] = self._value(coalition)
        return self._known[coalition]

    def __len__(self) -> int:
        return len(self._known)

    def new_in(self, chain: Sequence[Coalition]) -> int:
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
    known = _Memo(value)
    n = len(devices)
    scores = dict.fromkeys(devices, 0.0)
    for device in devices:
        others = [other for other in devices if other != device]
        for size in range(n):
            weight = 1.0 / (n * comb(n - 1, size))
            for members in combinations(others, size):
                without = frozenset(members)
                scores[device] += weight * (known(without | {device}) - known(without))
    before, after = known(frozenset()), known(frozenset(devices))
    return Scores(scores, "exact-shapley", len(known), before, after)


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
    known = _Memo(value)
    everybody = frozenset(devices)
    before, after = known(frozenset()), known(everybody)
    sums = dict.fromkeys(devices, 0.0)
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
    return Scores(scores, "permutation-shapley", len(known), before, after)
