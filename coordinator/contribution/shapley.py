"""Shapley values of a round, exact and from permutations. Pure.

The game stands in `coordinator.contribution.evidence`. Shapley value: Shapley 1953. Sampling
permutations: Castro, Gomez and Tejada, "Polynomial calculation of the Shapley value based on
sampling", 2009; each permutation is used in both directions (antithetic, Mitchell et al., JMLR
2022), which cancels the noise of the order.
"""

from collections.abc import Sequence
from math import comb

import numpy as np

from coordinator.contribution.evidence import Scores
from coordinator.contribution.game import Game, Value, semivalues

EXACT_LIMIT = 16  # 65,536 coalitions; beyond that nobody waits for it


def exact_shapley(devices: Sequence[str], value: Value) -> Scores:
    """Return Shapley values over all 2^N coalitions.

    Raises:
        ValueError: more than `EXACT_LIMIT` devices; use `permutation_shapley`.
        EvidenceError: nobody's or everybody's model has no finite value.
    """
    if len(devices) > EXACT_LIMIT:
        raise ValueError(
            f"exact-shapley of {len(devices)} devices needs 2^{len(devices)} evaluations;"
            " use permutation-shapley"
        )
    game = Game(devices, value)
    n = len(devices)
    weights = [1.0 / (n * comb(n - 1, size)) for size in range(n)]
    return game.scores(semivalues(game, weights), "exact-shapley")


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

    Raises:
        EvidenceError: nobody's or everybody's model has no finite value.
    """
    if len(devices) <= EXACT_LIMIT and 2 ** len(devices) <= budget:
        return exact_shapley(devices, value)
    game = Game(devices, value)
    sums = {device: np.zeros_like(game.nobody) for device in devices}
    walks = 0
    # Permutations of few devices repeat coalitions: the repeat limit ends the search then.
    for _ in range(max(1, budget)):
        order = [devices[i] for i in rng.permutation(len(devices))]
        for walk in (order, order[::-1]):
            chain = [frozenset(walk[: length + 1]) for length in range(len(walk))]
            if walks and len(game) + game.new_in(chain) > budget:
                break
            inside = game.nobody
            for device, coalition in zip(walk, chain, strict=True):
                sums[device] += game(coalition) - inside
                inside = game(coalition)
            walks += 1
        else:
            continue
        break
    scores = {device: total / walks for device, total in sums.items()}
    return game.scores(scores, "permutation-shapley")
