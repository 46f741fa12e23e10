"""Measure sub-models honestly on the server's validation recordings. Imports torch.

The recordings (never windows: they overlap) are split in two. Batch-norm statistics are calibrated
on one half and the other half measures, then the other way round (cross-fitting), so that every
recording measures and none measures what it calibrated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from slimmable.evaluation import calibrate, load_network, network_outputs
from slimmable.model import SlimmableModel
from slimmable.samples import Samples, split_recordings
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState
from slimmable.task import Task, TaskKind


@dataclass(frozen=True)
class Fold:
    """Inputs to calibrate on, and samples that measure."""

    calibration: Array
    measurement: Samples


@dataclass(frozen=True)
class Validation:
    """The validation data of a campaign.

    Attributes:
        samples: all of them, in the order in which the folds measure.
        folds: each half measures once.
    """

    samples: Samples
    folds: tuple[Fold, Fold]

    @classmethod
    def of(cls, samples: Samples) -> "Validation":
        """Split the recordings; see `slimmable.samples.split_recordings` for what may be raised."""
        first, second = split_recordings(samples)
        ordered = Samples(
            np.concatenate([first.x, second.x]),
            np.concatenate([first.y, second.y]),
            np.concatenate([first.recording, second.recording]),
        )
        return cls(ordered, (Fold(second.x, first), Fold(first.x, second)))


Statistics = tuple[ModelState, ...]


def fold_statistics(
    model: SlimmableModel, width: float, state: Mapping[str, Array], validation: Validation
) -> Statistics:
    """Return the calibrated statistics of a full state at ``width``, one set per fold."""
    cut = slice_state(state, model.spec, width)
    return tuple(calibrate(model, width, cut, fold.calibration) for fold in validation.folds)


def outputs_of_slice(
    model: SlimmableModel, width: float, cut: Mapping[str, Array], validation: Validation
) -> Array:
    """Return what a sub-model that stands by itself says about every validation sample.

    Args:
        model: the model.
        width: of the sub-model.
        cut: its state dict, no wider than that.
        validation: the data.
    """
    parts = []
    for fold in validation.folds:
        network = load_network(
            model, width, {**cut, **calibrate(model, width, cut, fold.calibration)}
        )
        parts.append(network_outputs(network, fold.measurement.x))
    return np.concatenate(parts)


def measured_outputs(
    model: SlimmableModel,
    width: float,
    state: Mapping[str, Array],
    statistics: Statistics,
    validation: Validation,
    network: nn.Module | None = None,
) -> Array:
    """Return what the sub-model says about every validation sample, in their order.

    Args:
        model: the model.
        width: which sub-model.
        state: full state dict.
        statistics: per fold, from `fold_statistics`.
        validation: the data.
        network: of this width, to be refilled; a fresh one where None.
    """
    cut = slice_state(state, model.spec, width)
    parts = []
    for fold, calibrated in zip(validation.folds, statistics, strict=True):
        filled = {**cut, **calibrated}
        if network is None:
            network = load_network(model, width, filled)
        else:
            network.load_state_dict(
                {name: torch.from_numpy(array) for name, array in filled.items()}, strict=False
            )
        parts.append(network_outputs(network, fold.measurement.x))
    return np.concatenate(parts)


def outputs_per_width(
    model: SlimmableModel,
    state: Mapping[str, Array],
    widths: Sequence[float],
    validation: Validation,
) -> dict[float, Array]:
    """Return calibrated, cross-fitted outputs of a full state at each width."""
    return {
        width: measured_outputs(
            model, width, state, fold_statistics(model, width, state, validation), validation
        )
        for width in widths
    }


def sample_values(
    model: SlimmableModel, said: Mapping[float, Array], grid: Sequence[float], data: Samples
) -> Array:
    """Return minus the loss of each sample, averaged over the training grid, shape (N,).

    A plateau is judged by losses: with few recordings a score saturates long before they do.
    """
    losses = [model.task.losses(said[width], data.y) for width in grid]
    values: Array = -np.mean(np.asarray(losses, dtype=np.float64), axis=0)
    return values


BLOCKS = 16
"""So many blocks tell how sure a score is; with fewer recordings there are fewer."""


def block_weights(samples: Samples, task: Task, blocks: int = BLOCKS) -> Array:
    """Return (B, N) weights that turn the losses of N samples into B block values.

    The recordings are dealt into blocks in the order of their class, so that the blocks resemble
    each other; no recording stands in two. The mean of the rows weighs each class that is present
    the same (`slimmable.task.Task.balanced_loss`).
    """
    recordings, first, inverse = np.unique(
        samples.recording, return_index=True, return_inverse=True
    )
    of_class = samples.y.reshape(len(samples), -1)[:, 0]
    if task.kind is not TaskKind.CLASSIFICATION:
        of_class = np.zeros(len(samples))
    labels, label, counts = np.unique(of_class, return_inverse=True, return_counts=True)
    rank = np.empty(len(recordings), dtype=np.int64)
    rank[np.lexsort((recordings, of_class[first]))] = np.arange(len(recordings))
    count = min(blocks, len(recordings))
    block = rank[inverse] % count
    weights = np.zeros((count, len(samples)))
    weights[block, np.arange(len(samples))] = count / (len(labels) * counts[label])
    return weights
