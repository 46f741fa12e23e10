"""Measures that compare a step with the aggregate and need no validation data. Pure.

Neither is linear in a value, so neither has blocks: nothing says how sure such a score is.
"""

import numpy as np

from coordinator.contribution.evidence import Array, Evidence, EvidenceError, Matrix, Scores


def cosine_to_aggregate(evidence: Evidence) -> Scores:
    """Score each device by the cosine of its step with the mean of all normalised steps.

    CGSV: Xu, Lyu, Ma, Miao, Foo and Low, "Gradient Driven Rewards to Guarantee Fairness in
    Collaborative Machine Learning", NeurIPS 2021, section 3. Every step has the same length in the
    mean, so neither a claimed number of samples nor a long step counts for more. The reputation
    over rounds is the ledger's. The cosine with a zero step is not defined and counts as 0.

    Raises:
        EvidenceError: a device's step is missing.
    """
    lacking = [device for device in evidence.devices if device not in evidence.steps]
    if lacking:
        raise EvidenceError(f"cosine-to-aggregate needs the step of {lacking[0]}: hand in all")
    lengths = {device: _length(evidence.steps[device]) for device in evidence.devices}
    moved = [device for device in evidence.devices if lengths[device] > 0]
    mean: Array = np.zeros(evidence.steps[moved[0]].shape if moved else 0)
    for device in moved:
        mean += evidence.steps[device] / (lengths[device] * len(moved))
    norm = _length(mean)
    found = dict.fromkeys(evidence.devices, 0.0)
    if norm > 0:
        for device in moved:
            found[device] = float(np.dot(evidence.steps[device], mean)) / (lengths[device] * norm)
    return Scores(found, "cosine-to-aggregate", evaluations=0)


def class_rows(evidence: Evidence) -> Scores:
    """Score each device by how its change of each class's output row agrees with everybody's.

    CSSV of ShapFed: Tastan, Fares, Aremu, Horvath and Nandakumar, "Redefining Contributions:
    Shapley-Driven Federated Learning", IJCAI 2024, arXiv 2406.00569. Per class the cosine of the
    device's row (weights and bias) with the sum over devices, a negative one counting as 0; the
    mean over classes. Whoever trains only the output layer passes this measure.

    Raises:
        EvidenceError: the network has no output layer with a row per class.
    """
    rows = evidence.class_rows
    if rows is None:
        raise EvidenceError(
            "class-rows needs an output layer with one row per class, and the width spec shows"
            " none: set contributions.method to 'cosine-to-aggregate'"
        )
    if not evidence.devices:
        return Scores({}, "class-rows", evaluations=0)
    total: Array = np.zeros(rows[evidence.devices[0]].shape)
    for device in evidence.devices:
        total += rows[device]
    found = {
        device: float(np.maximum(_row_cosines(rows[device], total), 0.0).mean())
        for device in evidence.devices
    }
    return Scores(found, "class-rows", evaluations=0)


def _row_cosines(rows: Matrix, total: Array) -> Array:
    """Return the cosine of each pair of rows, (classes,); 0 where one of the two is zero."""
    mine = rows.astype(np.float64)
    lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(total, axis=1)
    products: Array = (mine * total).sum(axis=1)
    cosines = np.zeros_like(products)
    np.divide(products, lengths, out=cosines, where=lengths > 0)
    return cosines


def _length(step: Matrix | Array) -> float:
    return float(np.linalg.norm(step.astype(np.float64, copy=False)))
