"""IAFL (Wu et al., Incentive-aware federated learning, ICLR 2024): whose updates one receives.

Each round participant i moves its own model by the plain mean of its own and of
ceil(gamma_i^(1 - kappa) * (N - 1)) other updates, drawn at random; gamma_i is its stand-alone
accuracy over the best one. With probability q it is reset to the best participant's model.
"""

import math
from dataclasses import replace

import numpy as np

from benchmarks.fairness.fleet import (
    Fleet,
    LocalTraining,
    Rewards,
    minus,
    own_models,
    plus,
    weighted,
)

EQUALITY = 0.0  # kappa
RESET = 0.0  # q


def rewards(fleet: Fleet) -> Rewards:
    """Train a model per participant."""
    local = LocalTraining(fleet)
    draw = np.random.default_rng((fleet.seed, 4))
    best = max(fleet.alone)
    rates = [min(alone / best, 1.0) ** (1 - EQUALITY) for alone in fleet.alone]
    counts = [math.ceil(rate * (len(fleet) - 1)) for rate in rates]
    reference = int(np.argmax(rates))
    models = [fleet.initial for _ in range(len(fleet))]
    for round_ in range(fleet.rounds):
        steps = [minus(local.upload(round_, who, model), model) for who, model in enumerate(models)]
        moved = []
        for who, model in enumerate(models):
            others = [other for other in range(len(fleet)) if other != who]
            chosen = draw.choice(others, size=counts[who], replace=False)
            heard = [steps[who], *(steps[other] for other in chosen)]
            moved.append(plus(model, weighted(heard, [1 / len(heard)] * len(heard))))
        resets = draw.random(len(fleet)) < RESET
        models = [
            moved[reference] if reset else model for model, reset in zip(moved, resets, strict=True)
        ]
    return replace(own_models(fleet, models), notes={"updates": counts})
