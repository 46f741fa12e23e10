"""CGSV (Xu et al., Gradient-driven rewards, NeurIPS 2021): downloads in proportion to a cosine.

Each upload is scaled to the length Gamma, so its learning rate says little: Gamma is what is tuned.
The paper ran 200 rounds with alpha 0.95; in ten rounds the reputations stay near their start.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.fairness.fleet import (
    Fleet,
    LocalTraining,
    Rewards,
    cosine,
    flat,
    minus,
    own_models,
    plus,
    shares,
    weighted,
)
from slimmable.state import ModelState

LENGTHS = (0.5, 1.5, 4.0)  # of an upload, Gamma: to choose from
MEMORY = 0.95  # alpha
ALTRUISM = 1.0  # beta: the higher, the more equal the rewards
LEAST = 1e-3


def rewards(fleet: Fleet, length: float) -> Rewards:
    """Train a model per participant.

    Args:
        fleet: the participants.
        length: Gamma, of each normalised upload.
    """
    local = LocalTraining(fleet)
    models = [fleet.initial for _ in range(len(fleet))]
    reputation = shares(fleet.samples)  # the first round weighs by data
    for round_ in range(fleet.rounds):
        steps = [
            _normalised(minus(local.upload(round_, who, model), model), length)
            for who, model in enumerate(models)
        ]
        together = weighted(steps, reputation)
        whole = flat(together)
        alike = [cosine(flat(step), whole) for step in steps]
        reputation = _updated(reputation, alike)
        quotas = np.tanh(ALTRUISM * np.asarray(reputation))
        quotas /= quotas.max()
        models = [
            plus(model, largest(together, float(quota)))
            for model, quota in zip(models, quotas, strict=True)
        ]
    return replace(own_models(fleet, models), notes={"reputation": reputation})


def largest(step: ModelState, share: float) -> ModelState:
    """Return a step with only its largest entries, the same share of each layer; the rest is 0."""
    kept = {}
    for name, change in step.items():
        size = np.abs(change).ravel()
        count = round(share * size.size)
        mask = np.zeros(size.size, dtype=np.bool_)
        if count:
            mask[np.argpartition(size, size.size - count)[size.size - count :]] = True
        kept[name] = np.where(mask.reshape(change.shape), change, np.float32(0))
    return kept


def _normalised(step: ModelState, length: float) -> ModelState:
    norm = float(np.linalg.norm(flat(step)))
    scale = np.float32(length / norm if norm else 0.0)
    return {name: scale * change for name, change in step.items()}


def _updated(reputation: Sequence[float], alike: Sequence[float]) -> list[float]:
    moved = [MEMORY * r + (1 - MEMORY) * phi for r, phi in zip(reputation, alike, strict=True)]
    return shares([max(LEAST, value) for value in moved])
