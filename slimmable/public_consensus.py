"""Training towards what other devices say about public samples. Imports torch.

FedMD (Li and Wang, "FedMD: Heterogenous Federated Learning via Model Distillation", 2019) has two
phases: a device first *digests* the consensus on the public samples, then *revisits* its own data.
This is the first. As in its public code, the distance is the mean absolute difference of the scores
before any softmax. Its gradient is bounded: scores that are far off pull no harder than those that
are a little off. And no temperature is to be chosen.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from slimmable.knowledge import COUNT, MEAN
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.state import Array, ModelState
from slimmable.training import train
from slimmable.training_rule import TrainingRule


def digest_consensus(
    model: SlimmableModel,
    state: Mapping[str, Array],
    x: Array,
    consensus: Mapping[str, Array],
    rule: TrainingRule,
    weight: float,
    rng: np.random.Generator,
    after_step: Callable[[int], None] = lambda _: None,
) -> ModelState:
    """Train a network at full width to say of public samples what the devices say on average.

    Args:
        model: the network.
        state: its full state dict.
        x: (N, ...) public inputs.
        consensus: knowledge of N rows, see `slimmable.knowledge`. Samples that nobody told anything
            about are left out; where there is no other, the state stays as it is.
        rule: how to train, as on the device's own data; it says how many steps.
        weight: the distance is multiplied by it.
        rng: draws batches and the seed of dropout layers.
        after_step: called with the number of finished steps.

    Raises:
        DivergenceError: the loss or a weight became NaN or infinite.
    """
    known = consensus[COUNT] > 0
    if not known.any():
        return dict(state)
    told = Samples(x[known], consensus[MEAN][known], np.arange(int(known.sum())))

    def distance(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return weight * nn.functional.l1_loss(said, wanted)

    # There are no labels here that could be masked.
    rule = replace(rule, masked_loss=False)
    return train(model, state, 1.0, told, rule, rng, after_step, objective=distance)[0]
