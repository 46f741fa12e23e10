"""Data Banzhaf: what a device adds to a coalition drawn at random. Pure.

Wang and Jia, "Data Banzhaf: A Robust Data Valuation Framework for Machine Learning", AISTATS 2023,
arXiv 2205.15466: the mean over all coalitions S of the others of v(S + i) - v(S). Of all semivalues
its ranking stands the most noise in v. The scores do not sum to what the round gained.
"""

from collections.abc import Sequence

import numpy as np

from coordinator.contribution.evidence import Array, Coalition, Scores
from coordinator.contribution.game import Game, Value, semivalues


def data_banzhaf(
    devices: Sequence[str], value: Value, budget: int, rng: np.random.Generator
) -> Scores:
    """Estimate Banzhaf values by maximum sample reuse (MSR, section 4 of the paper).

    The mean v of the drawn coalitions that hold a device, minus the mean of those that do not:
    every coalition serves every device. Each is drawn together with its complement, so that every
    device stands inside as often as outside. Exact where the budget pays for all coalitions; else
    a device that changes nothing scores 0 only on average (`Evidence.idle` sets it apart).

    Args:
        devices: who took part.
        value: of a coalition.
        budget: distinct coalitions to evaluate at most (at least 4 are).
        rng: draws coalitions.

    Raises:
        EvidenceError: nobody's or everybody's model has no finite value.
    """
    game = Game(devices, value)
    if 2 ** len(devices) <= budget:
        found = semivalues(game, [0.5 ** (len(devices) - 1)] * len(devices))
    else:
        found = dict(zip(devices, _sampled(game, budget, rng), strict=True))
    return game.scores(found, "data-banzhaf")


def _sampled(game: Game, budget: int, rng: np.random.Generator) -> Array:
    """Return (N, B), over pairs of a coalition and its complement."""
    found = np.zeros((len(game.devices), *game.nobody.shape))
    pairs = max(1, (budget - len(game)) // 2)
    for _ in range(pairs):
        bits = rng.random(len(game.devices)) < 0.5
        apart = game(_chosen(game, bits)) - game(_chosen(game, ~bits))
        found += np.multiply.outer(np.where(bits, 1.0, -1.0), apart)
    return found / pairs


def _chosen(game: Game, bits: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Coalition:
    return frozenset(device for device, bit in zip(game.devices, bits, strict=True) if bit)
