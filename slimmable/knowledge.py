"""What devices with unlike networks can tell each other: rows of numbers, with counts. Pure.

Knowledge is a state dict of two tensors: ``mean``, (R, D) float32, and ``count``, (R,) int64. A row
is a class, and its numbers are a mean over the samples of that class: of the features (prototypes,
FedProto: Tan et al., AAAI 2022) or of the scores (FedDistill: Jeong et al.,
"Communication-Efficient On-Device Machine Learning", 2018). Whoever has no sample of a class says
nothing of it: its count is 0, and so are its numbers.

Or a row is one public sample, which all have, and its numbers are the scores of it (FedMD: Li and
Wang, "FedMD: Heterogenous Federated Learning via Model Distillation", 2019).
"""

from collections.abc import Mapping

import numpy as np

from slimmable.state import Array, ModelState

MEAN, COUNT = "mean", "count"
INPUTS = "x"  # tensor of the public inputs, which travel by themselves
LARGEST = 1e6  # squares and sums of these stay far inside float32


class KnowledgeError(ValueError):
    """Tensors are no knowledge of the wanted form. The message says what differs."""


class KnowledgeNumbersError(KnowledgeError):
    """The form is right, and its numbers cannot be averaged: NaN, infinity, or beyond `LARGEST`."""


def nothing_known(rows: int, size: int) -> ModelState:
    """Return knowledge of no row: (``rows``, ``size``) zeros."""
    return {MEAN: np.zeros((rows, size), np.float32), COUNT: np.zeros(rows, np.int64)}


def class_means(values: Array, labels: Array, classes: int) -> ModelState:
    """Return the mean of the values of each class.

    Args:
        values: (N, D) of N samples.
        labels: (N,) their classes, 0 to ``classes`` - 1.
        classes: how many there are.
    """
    found = nothing_known(classes, values.shape[1])
    for label in np.unique(labels):
        chosen = values[labels == label]
        found[MEAN][label] = chosen.mean(axis=0, dtype=np.float64)
        found[COUNT][label] = len(chosen)
    return found


def sample_scores(scores: Array) -> ModelState:
    """Return the scores (N, C) of public samples as knowledge; each counts once."""
    return {MEAN: scores.astype(np.float32), COUNT: np.ones(len(scores), np.int64)}


def check_knowledge(found: Mapping[str, Array], like: Mapping[str, Array]) -> None:
    """Refuse what is no knowledge in the form of ``like``.

    Raises:
        KnowledgeError: other tensors, shapes or types; NaN, infinity or values beyond `LARGEST`; a
            count below 0, or numbers in a row that counts nothing.
    """
    if set(found) != {MEAN, COUNT}:
        raise KnowledgeError(f"tensors {sorted(found)[:3]}, expected {MEAN!r} and {COUNT!r}")
    for name, kind in ((MEAN, np.float32), (COUNT, np.int64)):
        if found[name].shape != like[name].shape or found[name].dtype != kind:
            raise KnowledgeError(
                f"{name!r} is {found[name].dtype} {found[name].shape}, expected"
                f" {np.dtype(kind)} {like[name].shape}"
            )
    if not np.isfinite(found[MEAN]).all():
        raise KnowledgeNumbersError(f"{MEAN!r} holds NaN or infinity")
    if found[MEAN].size and np.abs(found[MEAN]).max() > LARGEST:
        raise KnowledgeNumbersError(f"{MEAN!r} holds values above {LARGEST:g}")
    if (found[COUNT] < 0).any():
        raise KnowledgeError(f"{COUNT!r} holds a number below 0")
    if found[MEAN][found[COUNT] == 0].any():
        raise KnowledgeError(f"{MEAN!r} holds numbers in a row that counts nothing")
