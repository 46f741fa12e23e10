"""What an ensemble of networks says about samples that nobody labelled. numpy only, pure.

Two rules:

* the mean of all outputs (Lin et al., "Ensemble Distillation for Robust Model Fusion in Federated
  Learning" (FedDF), NeurIPS 2020, equation 1: logits are averaged, not probabilities);
* the weighted consensus (Cho et al., "Heterogeneous Ensemble Knowledge Transfer for Training Large
  Models in Federated Learning" (Fed-ET), IJCAI 2022, section 3.2): about each sample, a member
  counts by the variance of its logits over the classes, for who is sure of a class sets it apart
  from the others. Those who would have chosen another class than the consensus are kept as a second
  voice. Our reading: the variance is over classes, and it is compared with another implementation
  of the rule, not with the authors' own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from slimmable.state import Array


class NobodyError(ValueError):
    """There is nobody in an ensemble."""


@dataclass(frozen=True)
class Lesson:
    """What a student is told about N samples.

    Attributes:
        outputs: (N, ...) of the ensemble: logits of a classification, values of other tasks.
        dissent: (N, C) logits of those who disagree, 0 where nobody does; None where the rule
            listens to no second voice.
        dissenting: (N,) of booleans: whether anybody disagrees.
    """

    outputs: Array
    dissent: Array | None = None
    dissenting: Array | None = None


def mean_lesson(said: Iterable[Array]) -> Lesson:
    """Return the mean of what the members say, all alike; one of them is held at a time.

    Args:
        said: by each member, (N, ...).

    Raises:
        NobodyError: there is no member.
    """
    total, count = np.zeros(()), 0
    for one in said:
        total = total + one.astype(np.float64)
        count += 1
    if not count:
        raise NobodyError("an ensemble needs at least one member")
    return Lesson((total / count).astype(np.float32))


def consensus_lesson(said: Sequence[Array]) -> Lesson:
    """Return the weighted consensus and what those who disagree with it say.

    Args:
        said: by each member, (N, C) logits.

    Raises:
        NobodyError: there is no member.
    """
    if not said:
        raise NobodyError("an ensemble needs at least one member")
    sure = [one.var(axis=1, dtype=np.float64) for one in said]
    everybody = [np.ones(len(one), bool) for one in said]
    outputs = _weighted(said, sure, everybody)
    choice = outputs.argmax(axis=1)
    others = [one.argmax(axis=1) != choice for one in said]
    return Lesson(
        outputs.astype(np.float32),
        _weighted(said, sure, others).astype(np.float32),
        np.any(others, axis=0),
    )


def _weighted(said: Sequence[Array], sure: Sequence[Array], heard: Sequence[Array]) -> Array:
    """Return the mean of those who are heard, by how sure they are, (N, C); 0 where none is."""
    total, voices, plain = np.zeros(said[0].shape), np.zeros(len(said[0])), np.zeros(len(said[0]))
    for weight, who in zip(sure, heard, strict=True):
        voices += weight * who
        plain += who
    for one, weight, who in zip(said, sure, heard, strict=True):
        # Where all are equally unsure of everything, they weigh the same.
        shares = np.where(voices > 0, weight, 1.0) * who
        shares /= np.where(voices > 0, voices, np.maximum(plain, 1.0))
        total += shares[:, None] * one
    return total
