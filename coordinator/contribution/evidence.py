"""What a round shows about its devices: everything that an estimator may ask for. Pure.

The game: v(S) is the value of the model w_t plus the steps of the devices in S, each step weighted
as in the aggregate of all (the weights a_i are fixed, never renormalised). A device whose step is
zero therefore scores exactly 0.

A value is given per *block*: the validation recordings are dealt into B disjoint blocks, and v(S)
is the mean of its block values. All estimators here are linear in v, so a score has block values
too, and how much they differ says how sure the score is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Coalition = frozenset[str]
Array = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]


class EvidenceError(ValueError):
    """A method asks for what the round does not show. Choose another contributions.method."""


class Evaluator(Protocol):
    """Values models on the server's validation recordings; all results per block, (B,)."""

    def value(self, coalition: Coalition) -> Array:
        """Return v(coalition): minus the class-balanced loss of w_t plus the coalition's steps."""

    def alone(self, device: str) -> Array:
        """Return the value of the device's own model: w_t plus its whole change, a_i left out."""

    def slopes(self) -> Mapping[str, Array]:
        """Return device -> how v rises at w_t along its step: the gradient times the step."""

    def bends(self) -> Mapping[str, Array]:
        """Return device -> its step times the Hessian of v at w_t times the steps of everybody."""


@dataclass(frozen=True)
class Evidence:
    """One round.

    Attributes:
        devices: who took part, in the order of their names.
        evaluator: None where the server holds no validation data.
        steps: device -> its step a_i * delta_i, flat over the full model, 0 outside its slice,
            (P,) float32.
        class_rows: device -> change of the output layer, one row per class, (classes, F) float32;
            None where the network has no such layer.
        samples: device -> number of samples, its own claim.
        rounds: device -> rounds in which its update counted, this one included.
        idle: devices whose step is zero throughout. They change no model, so whatever measures
            models gives them exactly 0 and spends nothing on them.
    """

    devices: tuple[str, ...]
    evaluator: Evaluator | None = None
    steps: Mapping[str, Matrix] = field(default_factory=dict)
    class_rows: Mapping[str, Matrix] | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    rounds: Mapping[str, int] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Scores:
    """Contributions of one round.

    Attributes:
        scores: device -> score, the mean of its blocks where there are any.
        method: name of the estimator that made them.
        evaluations: how many distinct models were evaluated on all of the validation data. A
            gradient, or a Hessian times a vector, over all of it counts as one too (of a CNN they
            take about two and seven times as long).
        before, after: v of nobody and of everybody; 0 where the method evaluates no model.
        blocks: device -> score per block, (B,); empty where the method gives no blocks.
    """

    scores: dict[str, float]
    method: str
    evaluations: int
    before: float = 0.0
    after: float = 0.0
    blocks: dict[str, tuple[float, ...]] = field(default_factory=dict)
