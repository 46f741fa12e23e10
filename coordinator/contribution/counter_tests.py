"""Named tests that tell free-riders by what they upload, for reports on detection. Pure, numpy.

No reward depends on them: each looks for one habit, and a rider that knows the test gives the habit
up. What a device is paid follows from what its update was worth (`coordinator.contribution.novelty`
and the estimators). They are measured beside the score, so that it can be seen what they would add.

Each returns a suspicion per device, the higher the more suspicious, as distance from the round's
own devices: a robust z-value, (value - median) / (1.4826 * median absolute deviation). Most devices
of a round must therefore be honest.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float32]

TO_DEVIATION = 1.4826  # the median absolute deviation of a normal variable, to its deviation
LEAST_DEVIATION = 1e-3  # of cosines, entropies and log lengths: closer values are called equal
NO_LENGTH = math.log(1e-12)  # stands for the log length of an unchanged upload


@dataclass(frozen=True)
class Uploads:
    """What a round shows without any data; vectors lie in the coordinates of the device's slice.

    Attributes:
        deltas: device -> upload minus the weights it received, unweighted, (P,).
        past: device -> the model's last change in the same slice, (P,); empty in the first round.
        previous: device -> its own delta of the round before, (P,), where it has one of that width.
        class_rows: device -> change of the output layer, one row per class, (classes, F); empty
            where the network has no such layer.
    """

    deltas: Mapping[str, Vector]
    past: Mapping[str, Vector] = field(default_factory=dict)
    previous: Mapping[str, Vector] = field(default_factory=dict)
    class_rows: Mapping[str, Matrix] = field(default_factory=dict)


CounterTest = Callable[[Uploads], dict[str, float]]


def replay_correlation(uploads: Uploads) -> dict[str, float]:
    """Suspect deltas that point where the model went last (a replayed delta does exactly so)."""
    past = uploads.past
    return _above(
        {d: _cosine(delta, past[d]) for d, delta in uploads.deltas.items() if d in past}, uploads
    )


def self_similarity(uploads: Uploads) -> dict[str, float]:
    """Suspect deltas that point where the device's own went in the round before."""
    before = uploads.previous
    return _above(
        {d: _cosine(delta, before[d]) for d, delta in uploads.deltas.items() if d in before},
        uploads,
    )


def class_pattern_entropy(uploads: Uploads) -> dict[str, float]:
    """Suspect output layers that changed more evenly, or less, over the classes than others did.

    The entropy of each class row's share of the squared length: noise and random labels move all
    rows alike.
    """
    return _apart({d: _entropy(rows) for d, rows in uploads.class_rows.items()}, uploads)


def norm_outlier(uploads: Uploads) -> dict[str, float]:
    """Suspect deltas that are much longer or shorter than the others, on a logarithmic scale."""
    lengths = {d: float(np.linalg.norm(delta)) for d, delta in uploads.deltas.items()}
    return _apart(
        {d: math.log(size) if size > 0 else NO_LENGTH for d, size in lengths.items()}, uploads
    )


COUNTER_TESTS: dict[str, CounterTest] = {
    "replay-correlation": replay_correlation,
    "self-similarity": self_similarity,
    "class-pattern-entropy": class_pattern_entropy,
    "norm-outlier": norm_outlier,
}


def _above(values: Mapping[str, float], uploads: Uploads) -> dict[str, float]:
    """Return robust z-values; 0 for devices without a value."""
    if not values:
        return dict.fromkeys(uploads.deltas, 0.0)
    found = np.fromiter(values.values(), np.float64)
    middle = float(np.median(found))
    deviation = max(LEAST_DEVIATION, TO_DEVIATION * float(np.median(np.abs(found - middle))))
    return {
        device: (values[device] - middle) / deviation if device in values else 0.0
        for device in uploads.deltas
    }


def _apart(values: Mapping[str, float], uploads: Uploads) -> dict[str, float]:
    return {device: abs(value) for device, value in _above(values, uploads).items()}


def _cosine(one: Vector, other: Vector) -> float:
    """Return the cosine, 0 where one of the two is zero: an unchanged upload points nowhere."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0


def _entropy(rows: Matrix) -> float:
    """Return the entropy of the rows' shares of the squared length, 0 to 1; 0 of no change."""
    squares = np.square(rows, dtype=np.float64).sum(axis=1)
    total = float(squares.sum())
    if total <= 0 or len(squares) < 2:
        return 0.0
    shares = squares[squares > 0] / total
    return float(-(shares * np.log(shares)).sum() / math.log(len(squares)))
