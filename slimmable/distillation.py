"""In-place distillation: narrow slices learn from what the widest one says. Imports torch.

Yu and Huang, US-Nets, ICCV 2019, section 3.3: the widest slice learns from the targets, and the
narrower ones of the same step from its outputs, which no gradient flows back into.
"""

import torch
from torch import nn

from slimmable.task import Task, TaskKind


def distance(task: Task, outputs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return how far a slice's outputs lie from its teacher's, averaged over the batch.

    Args:
        task: classification compares probabilities (cross-entropy with soft targets), the others
            values (mean squared error).
        outputs: (N, ...) of the slice.
        teacher: (N, ...) of the widest slice for the same inputs; taken as constant.
    """
    said = teacher.detach()
    if task.kind is TaskKind.CLASSIFICATION:
        return nn.functional.cross_entropy(outputs, said.softmax(dim=1))
    return nn.functional.mse_loss(outputs, said)
