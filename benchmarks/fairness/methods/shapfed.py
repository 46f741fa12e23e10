"""ShapFed (Tastan et al., IJCAI 2024): class-wise cosines of the last layer, and mixed models.

gamma_i is the mean over classes of the cosine between a participant's last-layer change (row of
weights and bias) and that of the weighted average; negative ones count 0. The aggregate is weighted
by gamma. Participant i goes on from gamma_i * aggregate + (1 - gamma_i) * its own upload.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.fairness.fleet import (
    Fleet,
    LocalTraining,
    Rewards,
    cosine,
    minus,
    own_models,
    shares,
    weighted,
)
from slimmable.state import ModelState

MEMORY = 0.9  # mu
HEAD = "head"  # the last layer, of both networks


def rewards(fleet: Fleet) -> Rewards:
    """Train a model per participant."""
    local = LocalTraining(fleet)
    models = [fleet.initial for _ in range(len(fleet))]
    gammas = [1.0] * len(fleet)
    for round_ in range(fleet.rounds):
        uploads = [local.upload(round_, who, model) for who, model in enumerate(models)]
        steps = [minus(upload, model) for upload, model in zip(uploads, models, strict=True)]
        found = class_cosines(steps, shares(gammas))
        gammas = (
            [MEMORY * old + (1 - MEMORY) * new for old, new in zip(gammas, found, strict=True)]
            if round_
            else found
        )
        aggregate = weighted(uploads, shares(gammas))
        models = [
            weighted([aggregate, upload], [gamma, 1 - gamma])
            for upload, gamma in zip(uploads, gammas, strict=True)
        ]
    return replace(own_models(fleet, models), notes={"gamma": gammas})


def class_cosines(steps: Sequence[ModelState], weights: Sequence[float]) -> list[float]:
    """Return the mean class-wise cosine of each participant's last layer with the average's."""
    rows = [_rows(step) for step in steps]
    average = np.average(rows, axis=0, weights=weights)
    return [
        float(np.mean([max(0.0, cosine(*pair)) for pair in zip(one, average, strict=True)]))
        for one in rows
    ]


def _rows(step: ModelState) -> np.ndarray:
    """Return one row per class: weights and bias, (classes, F + 1)."""
    weight, bias = step[f"{HEAD}.weight"], step[f"{HEAD}.bias"]
    return np.concatenate([weight, bias[:, None]], axis=1).astype(np.float64)
