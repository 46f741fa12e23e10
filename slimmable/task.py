"""What a model is asked to do: how outputs are scored, decoded and summarised. numpy only.

The training losses live in `slimmable.training` (torch); the functions here judge outputs, so a
device without torch and the coordinator use the same ones. Scores are higher-is-better with 1.0
perfect; contributions and rewards are computed from them.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np

# What numpy.typing.NDArray[Any] stands for: a device starts without that module.
Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

HISTOGRAM_BINS = 10


class TaskError(ValueError):
    """Outputs do not fit the task. Check which network and which data they came from."""


class TaskKind(StrEnum):
    """The tasks that ship."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    RECONSTRUCTION = "reconstruction"


class Decoded(msgspec.Struct, frozen=True):
    """Outputs in the words of the plant.

    Attributes:
        label: (N,) class index; for regression and reconstruction always 0.
        value: (N, ...) class probabilities, predicted values, or reconstruction error per sample.
        confidence: (N,) in [0, 1]: the highest class probability; the share of the input's
            variance that a reconstruction explains; 1 for regression, which does not know.
    """

    label: Array
    value: Array
    confidence: Array


class Reference(msgspec.Struct, frozen=True):
    """Histograms of what a model says on known data, to compare a device's own outputs with.

    Attributes:
        classes: counts per class (one entry for tasks without classes).
        confidence: counts per tenth of confidence, `HISTOGRAM_BINS` entries.
    """

    classes: tuple[int, ...]
    confidence: tuple[int, ...]


class Task(msgspec.Struct, frozen=True):
    """The task of a model.

    Attributes:
        kind: what the outputs mean.
        classes: class names for classification, else empty.
    """

    kind: TaskKind
    classes: tuple[str, ...] = ()

    def check_targets(self, targets: Array) -> None:
        """Refuse targets that this task cannot learn from.

        Raises:
            SamplesError: labels are not (N,) integers, or name a class that the model lacks.
        """
        from slimmable.samples import SamplesError  # inference starts without it

        if self.kind is not TaskKind.CLASSIFICATION:
            if targets.dtype.kind != "f":
                raise SamplesError(
                    f"targets are {targets.dtype}, {self.kind} needs floating point values"
                )
            return
        if targets.dtype.kind not in "iu" or targets.ndim != 1:
            raise SamplesError(
                f"labels are {targets.dtype} of shape {targets.shape}, classification needs one"
                " integer per sample"
            )
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= len(self.classes):
            raise SamplesError(
                f"labels run from {low} to {high}, the model's {len(self.classes)} classes are"
                f" 0 to {len(self.classes) - 1}; use its order of classes: {list(self.classes)}"
            )

    def losses(self, outputs: Array, targets: Array) -> Array:
        """Return the loss per sample, shape (N,): cross-entropy, or mean squared error.

        Raises:
            TaskError: outputs and targets are not equally many values.
        """
        if self.kind is TaskKind.CLASSIFICATION:
            log_p = _log_softmax(outputs)
            chosen: Array = log_p[np.arange(len(targets)), targets.astype(np.intp)]
            return -chosen
        difference = _flat(outputs) - _same_size(outputs, _flat(targets))
        squared: Array = np.mean(difference**2, axis=1)
        return squared

    def balanced_loss(self, outputs: Array, targets: Array) -> float:
        """Return the mean over classes of the mean loss of each class that is present.

        Balanced, so that who holds a rare class is credited for it. Without classes: the mean.
        """
        losses = self.losses(outputs, targets)
        if self.kind is not TaskKind.CLASSIFICATION:
            return float(losses.mean())
        return float(np.mean([losses[targets == label].mean() for label in np.unique(targets)]))

    def score(self, outputs: Array, targets: Array) -> float:
        """Return accuracy, or the explained share of variance (1 - MSE / variance, at most 1).

        The variance is that of each value about its own mean, so that a network which says the
        mean of the targets scores 0 however many values it predicts.
        """
        return float(self.sample_scores(outputs, targets).mean())

    def sample_scores(self, outputs: Array, targets: Array) -> Array:
        """Return one score per sample whose mean is `score`, shape (N,) float64."""
        if self.kind is TaskKind.CLASSIFICATION:
            hits: Array = outputs.argmax(axis=1) == targets
            return hits.astype(np.float64)
        losses = self.losses(outputs, targets)
        variance = float(_flat(targets).var(axis=0).mean())
        if variance == 0:  # nothing to explain: right or wrong
            scores: Array = losses == 0
            return scores.astype(np.float64)
        return np.asarray(1.0 - losses / variance)

    def decode(self, outputs: Array, inputs: Array | None = None) -> Decoded:
        """Turn raw outputs into labels, values and confidences.

        Args:
            outputs: (N, ...) what the network returned.
            inputs: (N, ...) what it was given; needed for reconstruction.

        Raises:
            TaskError: a reconstruction without its inputs.
        """
        if self.kind is TaskKind.CLASSIFICATION:
            probability = np.exp(_log_softmax(outputs))
            label = probability.argmax(axis=1)
            # A broken network says NaN: that is no confidence at all.
            return Decoded(label, probability, np.nan_to_num(probability.max(axis=1)))
        label = np.zeros(len(outputs), dtype=np.int64)
        if self.kind is TaskKind.REGRESSION:
            return Decoded(label, outputs, np.ones(len(outputs)))
        if inputs is None:
            raise TaskError("a reconstruction is judged against its inputs; hand them over")
        error = self.losses(outputs, inputs)
        # An error equal to the input's own variance explains nothing: confidence 0.
        variance = np.maximum(_flat(inputs).var(axis=1), 1e-12)
        return Decoded(label, error, np.nan_to_num(np.clip(1.0 - error / variance, 0.0, 1.0)))

    def reference(self, decoded: Decoded) -> Reference:
        """Return the class and confidence histograms of decoded outputs."""
        classes = np.bincount(decoded.label.astype(np.intp), minlength=max(1, len(self.classes)))
        tenth = np.clip((decoded.confidence * HISTOGRAM_BINS).astype(int), 0, HISTOGRAM_BINS - 1)
        return Reference(
            tuple(int(count) for count in classes),
            tuple(int(count) for count in np.bincount(tenth, minlength=HISTOGRAM_BINS)),
        )


def classification(classes: Sequence[str]) -> Task:
    """Return the task of telling ``classes`` apart.

    Raises:
        TaskError: fewer than two classes, or one named twice.
    """
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise TaskError(f"classes {list(classes)}: give at least two distinct names")
    return Task(TaskKind.CLASSIFICATION, tuple(classes))


def regression() -> Task:
    """Return the task of predicting values."""
    return Task(TaskKind.REGRESSION)


def reconstruction() -> Task:
    """Return the task of giving the input back: what comes back badly is an anomaly."""
    return Task(TaskKind.RECONSTRUCTION)


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1).astype(np.float64)


def _same_size(outputs: Array, targets: Array) -> Array:
    if outputs.size != targets.size:  # would broadcast to a wrong answer
        raise TaskError(f"outputs of shape {outputs.shape} for targets of shape {targets.shape}")
    return targets


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
