"""FedAvg (McMahan et al., AISTATS 2017): one model for all."""

from benchmarks.fairness.fleet import Fleet, LocalTraining, Rewards, shares, weighted
from slimmable.state import ModelState


def fedavg(fleet: Fleet) -> ModelState:
    """Return the global model: each round the mean of all uploads, weighted by claimed samples."""
    local, state = LocalTraining(fleet), fleet.initial
    weights = shares(fleet.samples)
    for round_ in range(fleet.rounds):
        uploads = [local.upload(round_, who, state) for who in range(len(fleet))]
        state = weighted(uploads, weights)
    return state


def rewards(fleet: Fleet, state: ModelState) -> Rewards:
    """Return the same model for everybody; the server publishes it once a round."""
    one_way = fleet.payload * len(fleet)
    return Rewards(
        models=(state,) * len(fleet),
        widths=(1.0,) * len(fleet),
        sent=one_way * fleet.rounds,
        received=one_way * (fleet.rounds + 1),
        published=fleet.payload * (fleet.rounds + 1),
    )
