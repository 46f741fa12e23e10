"""Measures that look at each device by itself, or at the game near w_t only. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.contribution.evidence import Array, Evaluator, EvidenceError, Scores
from coordinator.contribution.game import Game


def stand_alone(devices: Sequence[str], evaluator: Evaluator) -> Scores:
    """Score each device by its own model: v(w_t + delta_i) - v(w_t), the weight a_i left out.

    The surrogate of Aequa (ICML 2025): what a device reaches without the others. It is the Shapley
    value, up to one factor common to all, where v is linear in the steps and all weights a_i are
    equal. Else it pays twice for what two devices know alike and nothing for what only helps
    together.

    Raises:
        EvidenceError: nobody's or everybody's model has no finite value.
    """
    game = Game(devices, evaluator.value)
    found = {device: game.whole(evaluator.alone(device)) - game.nobody for device in devices}
    return game.scores(found, "stand-alone", passes=len(devices))


def leave_one_out(devices: Sequence[str], evaluator: Evaluator) -> Scores:
    """Score each device by v(everybody) - v(everybody else) (Cook, 1977: deletion diagnostics).

    Two devices that know the same are each worth nothing.

    Raises:
        EvidenceError: nobody's or everybody's model has no finite value.
    """
    game = Game(devices, evaluator.value)
    everybody = frozenset(devices)
    found = {device: game.everybody - game(everybody - {device}) for device in devices}
    return game.scores(found, "leave-one-out")


def first_order_loss(devices: Sequence[str], evaluator: Evaluator) -> Scores:
    """Score each device by the gradient of v at w_t times its step.

    Wang, Mittal, Song and Jia, "Data Shapley in One Training Run", ICLR 2025, arXiv 2406.11011,
    first order: the Shapley value where v is linear. Isotropic noise costs a device nothing.

    Raises:
        EvidenceError: the gradient, or nobody's or everybody's value, is not finite.
    """
    game = Game(devices, evaluator.value)
    return game.scores(_finite(evaluator.slopes(), devices), "first-order-loss", passes=1)


def second_order_loss(devices: Sequence[str], evaluator: Evaluator) -> Scores:
    """Score each device by g d_i + d_i H (sum of all d_j) / 2, gradient and Hessian of v at w_t.

    The same paper, second order: the Shapley value where v is quadratic.

    Raises:
        EvidenceError: a derivative, or nobody's or everybody's value, is not finite.
    """
    game = Game(devices, evaluator.value)
    slopes, bends = _finite(evaluator.slopes(), devices), _finite(evaluator.bends(), devices)
    found = {device: slopes[device] + 0.5 * bends[device] for device in devices}
    return game.scores(found, "second-order-loss", passes=2)


def _finite(found: Mapping[str, Array], devices: Sequence[str]) -> dict[str, Array]:
    checked = {device: np.atleast_1d(found[device]) for device in devices}
    broken = [device for device, along in checked.items() if not np.isfinite(along).all()]
    if broken:
        raise EvidenceError(
            f"the loss has no finite derivative along the step of {broken[0]}: set"
            " contributions.method to one that evaluates models, such as 'permutation-shapley'"
        )
    return checked
