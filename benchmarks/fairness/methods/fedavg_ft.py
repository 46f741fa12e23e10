"""FedAvg, then one more epoch on each participant's own data, at the rate of the last round."""

from dataclasses import replace

import numpy as np

from benchmarks.fairness.fleet import Fleet, Rewards
from benchmarks.fairness.methods import fedavg
from slimmable.state import ModelState
from slimmable.training import train


def rewards(fleet: Fleet, state: ModelState) -> Rewards:
    """Return each participant's fine-tuned model; a rider has nothing to tune with."""
    models = []
    for who in range(len(fleet)):
        if fleet.rides(who):
            models.append(state)
            continue
        own = fleet.parts.own[who]
        rng = np.random.default_rng((fleet.seed, 3, who))
        rule = fleet.rule(who, fleet.rounds - 1)
        models.append(train(fleet.model, state, 1.0, own, rule, rng)[0])
    return replace(fedavg.rewards(fleet, state), models=tuple(models))
