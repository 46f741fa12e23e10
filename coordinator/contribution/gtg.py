"""GTG-Shapley: Shapley values of a round from guided and truncated permutations. Pure.

Liu, Chen, Yu, Liu and Cui, "GTG-Shapley: Efficient and Accurate Participant Contribution Evaluation
in Federated Learning", ACM TIST 2022, arXiv 2109.02053. Three savings: a round that changed nothing
is not examined (between rounds), a permutation is left once its prefix is worth what everybody is
worth (within a round), and in turn each device leads a permutation, so that every device is
measured against the empty coalition equally often (guided).
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from coordinator.contribution.evidence import Array, Scores
from coordinator.contribution.game import Game, Value

BETWEEN = 1e-3  # nats by which a round must change the loss to be examined
WITHIN = 0.01  # of what the round gained: a prefix that is so close is not continued
LEAST = 30  # permutations before the means may count as settled
WINDOW = 10  # so many running means must agree ...
SETTLED = 0.05  # ... to this share of their size
MOST = 1000  # permutations, where they repeat coalitions and cost nothing


def gtg_shapley(
    devices: Sequence[str], value: Value, budget: int, rng: np.random.Generator
) -> Scores:
    """Estimate Shapley values by GTG-Shapley.

    A truncated permutation gives 0 to whoever stands behind the cut, so the scores sum to what the
    round gained up to `WITHIN` of it. A marginal belongs to the device at its place in the
    permutation. At least one permutation is walked, whatever the budget.

    Args:
        devices: who took part.
        value: of a coalition.
        budget: distinct coalitions to evaluate at most.
        rng: draws permutations.

    Raises:
        EvidenceError: nobody's or everybody's model has no finite value.
    """
    game = Game(devices, value)
    gained = abs(float((game.everybody - game.nobody).mean()))
    if gained <= BETWEEN or not devices:
        return game.scores({d: np.zeros_like(game.nobody) for d in devices}, "gtg-shapley")
    total = np.zeros((len(devices), *game.nobody.shape))  # (N, B), over the walks
    recent: deque[Array] = deque(maxlen=WINDOW)  # running means, (N,)
    leaders: list[int] = []
    walks = 0
    while leaders or (walks < MOST and not (walks >= LEAST and _settled(recent))):
        leaders = leaders or rng.permutation(len(devices)).tolist()
        leader = leaders.pop()
        rest = [place for place in range(len(devices)) if place != leader]
        order = [leader, *rng.permutation(rest).tolist()]
        found = _walk(game, order, WITHIN * gained, budget if walks else None)
        if found is None:
            break
        walks += 1
        total += found
        recent.append(total.mean(axis=1) / walks)
    return game.scores(dict(zip(devices, total / walks, strict=True)), "gtg-shapley")


def _walk(game: Game, order: Sequence[int], close: float, budget: int | None) -> Array | None:
    """Return the marginals of one permutation, (N, B); None where the budget ends before it."""
    marginals = np.zeros((len(order), *game.nobody.shape))
    inside, before = frozenset[str](), game.nobody
    for place in order:
        if abs(float((game.everybody - before).mean())) < close:
            break
        inside |= {game.devices[place]}
        if budget is not None and len(game) + game.new_in([inside]) > budget:
            return None
        after = game(inside)
        marginals[place] = after - before
        before = after
    return marginals


def _settled(recent: Sequence[Array]) -> bool:
    last = recent[-1]
    return all(
        float(np.mean(np.abs(mean - last) / (np.abs(last) + 1e-12))) <= SETTLED for mean in recent
    )
