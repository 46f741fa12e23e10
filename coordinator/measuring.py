"""Measure sub-models honestly on the server's validation recordings. Imports torch.

The recordings (never windows: they overlap) are split in two. Batch-norm statistics are calibrated
on one half and the other half measures, then the other way round (cross-fitting), so that every
recording measures and none measures what it calibrated.

Each width on each half is a piece of work of its own. The pieces may run side by side, in threads;
every one is computed by a single thread with a network of its own, so the results are the same to
the last bit however many there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from slimmable.evaluation import calibrate, load_network, network_outputs
from slimmable.model import SlimmableModel
from slimmable.samples import Samples, split_recordings
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState
from slimmable.task import Task, TaskKind
from slimmable.torch_device import on_torch_device, torch_device


@dataclass(frozen=True)
class Fold:
    """Inputs to calibrate on, and samples that measure."""

    calibration: Array
    measurement: Samples

    @cached_property
    def inputs(self) -> Array | torch.Tensor:
        """Inputs of the measurement. A GPU keeps them, for every coalition is measured on them."""
        x = self.measurement.x
        return x if torch_device().type == "cpu" else on_torch_device(x)


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
Networks = tuple[nn.Module, ...]
T = TypeVar("T")
_threads: ContextVar[Executor | None] = ContextVar("threads", default=None)


@contextmanager
def in_threads(number: int) -> Iterator[None]:
    """Let whatever is measured inside the block use so many cores; they change the time alone.

    Args:
        number: of threads, each with one torch thread; below 2, everything runs where it is called.
    """
    if number < 2:
        yield
        return
    with ThreadPoolExecutor(number, "measuring", torch.set_num_threads, (1,)) as threads:
        before = _threads.set(threads)
        try:
            yield
        finally:
            _threads.reset(before)


def side_by_side(pieces: Sequence[Callable[[], T]]) -> list[T]:
    """Return what the pieces of work return, in their order; see `in_threads`."""
    threads = _threads.get()
    if threads is None:
        return [piece() for piece in pieces]
    return [begun.result() for begun in [threads.submit(piece) for piece in pieces]]


def fold_statistics(
    model: SlimmableModel, width: float, state: Mapping[str, Array], validation: Validation
) -> Statistics:
    """Return the calibrated statistics of a full state at ``width``, one set per fold."""
    cut = slice_state(state, model.spec, width)
    pieces = [partial(calibrate, model, width, cut, fold.calibration) for fold in validation.folds]
    return tuple(side_by_side(pieces))


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
    pieces = [partial(_calibrated_outputs, model, width, cut, fold) for fold in validation.folds]
    return np.concatenate(side_by_side(pieces))


def measured_outputs(
    model: SlimmableModel,
    state: Mapping[str, Array],
    statistics: Mapping[float, Statistics],
    validation: Validation,
    networks: Mapping[float, Networks] | None = None,
) -> dict[float, Array]:
    """Return what each sub-model says about every validation sample, in their order.

    Args:
        model: the model.
        state: full state dict.
        statistics: of each width that is measured, per fold, from `fold_statistics`.
        validation: the data.
        networks: of each width, one per fold, to be refilled; fresh ones where None.
    """
    pieces: dict[float, list[Callable[[], Array]]] = {}
    for width, calibrated in statistics.items():
        cut = slice_state(state, model.spec, width)
        refilled = networks[width] if networks else (None,) * len(calibrated)
        pieces[width] = [
            partial(_filled_outputs, model, width, {**cut, **own}, fold, network)
            for own, fold, network in zip(calibrated, validation.folds, refilled, strict=True)
        ]
    return _joined(pieces)


def outputs_per_width(
    model: SlimmableModel,
    state: Mapping[str, Array],
    widths: Sequence[float],
    validation: Validation,
) -> dict[float, Array]:
    """Return calibrated, cross-fitted outputs of a full state at each width."""
    cuts = {width: slice_state(state, model.spec, width) for width in widths}
    return _joined(
        {
            width: [
                partial(_calibrated_outputs, model, width, cut, fold) for fold in validation.folds
            ]
            for width, cut in cuts.items()
        }
    )


def _joined(pieces: Mapping[float, Sequence[Callable[[], Array]]]) -> dict[float, Array]:
    """Return each width's outputs on all folds, in the order of ``pieces``."""
    # The widest take longest: begun first, they are not what everything waits for at the end.
    order = [(width, piece) for width in sorted(pieces, reverse=True) for piece in pieces[width]]
    found: dict[float, list[Array]] = {width: [] for width in pieces}
    for (width, _), said in zip(order, side_by_side([piece for _, piece in order]), strict=True):
        found[width].append(said)
    return {width: np.concatenate(parts) for width, parts in found.items()}


def _calibrated_outputs(
    model: SlimmableModel, width: float, cut: Mapping[str, Array], fold: Fold
) -> Array:
    calibrated = calibrate(model, width, cut, fold.calibration)
    return _filled_outputs(model, width, {**cut, **calibrated}, fold, None)


def _filled_outputs(
    model: SlimmableModel,
    width: float,
    filled: Mapping[str, Array],
    fold: Fold,
    network: nn.Module | None,
) -> Array:
    if network is None:
        network = load_network(model, width, filled).to(torch_device())
    else:
        tensors = {name: torch.from_numpy(array) for name, array in filled.items()}
        network.load_state_dict(tensors, strict=False)
    return network_outputs(network, fold.inputs)


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


def block_shares(samples: Samples, task: Task) -> Array:
    """Return (B, N) weights that turn N numbers into one a block; the mean of the rows is theirs.

    The blocks are those of `block_weights`, but all samples weigh the same.
    """
    member = block_weights(samples, task) > 0
    shares: Array = member * (len(member) / member.shape[1])
    return shares
