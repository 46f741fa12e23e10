"""Samples that a network trains on or is measured with, and how to split them honestly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class SamplesError(ValueError):
    """Data cannot be used as samples. Mend the file that the message names."""


@dataclass(frozen=True)
class Samples:
    """Inputs, targets, and the recording each sample was cut from.

    Attributes:
        x: (N, ...) float32 inputs.
        y: (N,) int64 labels, or (N, ...) float32 values; for reconstruction the inputs again.
        recording: (N,) int64; windows of one recording overlap, so they are never split apart.
    """

    x: Array
    y: Array
    recording: Array

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if not len(self.x) == len(self.y) == len(self.recording):
            raise SamplesError(
                f"{len(self.x)} inputs, {len(self.y)} targets and {len(self.recording)}"
                " recording ids: the three must be equally many"
            )
        if len(self.x) == 0:
            raise SamplesError("no samples: the data is empty")
        if self.x.dtype != np.float32:
            raise SamplesError(f"inputs are {self.x.dtype}, networks take float32: convert them")
        for name, array in (("inputs", self.x), ("targets", self.y)):
            if array.dtype.kind not in "iufb" or not np.isfinite(array).all():
                raise SamplesError(f"{name} hold NaN, infinity or no numbers; clean the data first")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)

    def take(self, chosen: Array) -> "Samples":
        """Return the samples at an index or boolean array."""
        return Samples(self.x[chosen], self.y[chosen], self.recording[chosen])

    def in_recordings(self, recordings: Sequence[int] | Array) -> "Samples":
        """Return the samples of these recordings."""
        return self.take(np.isin(self.recording, np.asarray(recordings)))


def split_recordings(samples: Samples) -> tuple[Samples, Samples]:
    """Split by recordings into two halves, alternating within each class.

    Returns:
        (calibration, measurement): where one class has several recordings both halves hold it;
        no recording stands in both.

    Raises:
        SamplesError: there is only one recording.
    """
    recordings = np.unique(samples.recording)
    if len(recordings) == 1:
        raise SamplesError("one recording cannot be split; supply at least two")
    first = {int(r): samples.y[samples.recording == r].flat[0] for r in recordings}
    ordered = sorted((int(r) for r in recordings), key=lambda r: (first[r], r))
    return samples.in_recordings(ordered[0::2]), samples.in_recordings(ordered[1::2])


def hold_out(samples: Samples, share: float) -> tuple[Samples, Samples]:
    """Split by recordings into what trains and a share that is kept back, spread over the classes.

    The recordings are ordered by class and every so-many-th is kept back, so that the split is the
    same each time. The only recording of a class trains.

    Args:
        samples: all there are.
        share: of the recordings that is kept back, between 0 and 1.

    Returns:
        (training, validation); no recording stands in both.

    Raises:
        SamplesError: the share is outside (0, 1), or there are too few recordings for it.
    """
    if not 0 < share < 1:
        raise SamplesError(f"share {share} to keep back must be above 0 and below 1")
    recordings, starts = np.unique(samples.recording, return_index=True)
    firsts = samples.y.reshape(len(samples), -1)[starts, 0]
    order = np.lexsort((recordings, firsts))
    steps = np.floor(np.arange(len(order) + 1) * share + 1e-9)
    kept = np.diff(steps) > 0
    if samples.y.dtype.kind in "iu":
        labels, counts = np.unique(firsts, return_counts=True)
        kept &= ~np.isin(firsts[order], labels[counts == 1])
    if not kept.any():
        raise SamplesError(
            f"{len(recordings)} recordings are too few to keep back a share of {share:g}; keep back"
            " more of them, or supply validation data of its own"
        )
    back = np.isin(samples.recording, recordings[order[kept]])
    return samples.take(~back), samples.take(back)


def windows(signal: Array, length: int, stride: int) -> Array:
    """Cut a (T, channels) signal into (N, channels, length) windows ``stride`` steps apart.

    Raises:
        SamplesError: the signal is shorter than one window, or a length is below 1.
    """
    if length < 1 or stride < 1:
        raise SamplesError(f"window of {length} steps, stride {stride}: both must be at least 1")
    count = (len(signal) - length) // stride + 1
    if count < 1:
        raise SamplesError(f"a recording of {len(signal)} steps is shorter than a window {length}")
    starts = np.arange(count) * stride
    cut = signal[starts[:, None] + np.arange(length)[None, :]]
    return np.ascontiguousarray(cut.transpose(0, 2, 1), dtype=np.float32)
