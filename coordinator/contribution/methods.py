"""Every measure of a contribution behind one function, each under the name of its paper. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coordinator.contribution.evidence import Evidence, Scores
from coordinator.contribution.shapley import EXACT_LIMIT, exact_shapley, permutation_shapley

Estimate = Callable[[Evidence, int, np.random.Generator], Scores]


class EvidenceError(ValueError):
    """A method asks for what the round does not show. Choose another contributions.method."""


@dataclass(frozen=True)
class Method:
    """One measure.

    Attributes:
        paper: where it comes from.
        estimate: of the evidence, the evaluations that may be spent, and a generator.
        needs_validation: whether the server must hold validation data.
    """

    paper: str
    estimate: Estimate
    needs_validation: bool


def estimate(method: str, evidence: Evidence, budget: int, rng: np.random.Generator) -> Scores:
    """Return the contributions of a round by the named method.

    Args:
        method: a key of `METHODS`.
        evidence: of the round.
        budget: models to evaluate at most, where the method can be held to it.
        rng: draws coalitions.

    Raises:
        EvidenceError: there is no such method, or it needs what the round does not show.
    """
    found = METHODS.get(method)
    if found is None:
        raise EvidenceError(
            f"no method {method!r} of contributions: use one of {', '.join(METHODS)}"
        )
    if found.needs_validation and evidence.evaluator is None:
        raise EvidenceError(
            f"{method} needs validation data on the server: supply it, or set contributions.method"
            " to one that does without, such as 'cosine-to-aggregate'"
        )
    return found.estimate(evidence, budget, rng)


def _exact(evidence: Evidence, budget: int, rng: np.random.Generator) -> Scores:
    assert evidence.evaluator is not None
    if len(evidence.devices) > EXACT_LIMIT:
        return _permutations(evidence, budget, rng)
    return exact_shapley(evidence.devices, evidence.evaluator.value)


def _permutations(evidence: Evidence, budget: int, rng: np.random.Generator) -> Scores:
    assert evidence.evaluator is not None
    return permutation_shapley(evidence.devices, evidence.evaluator.value, budget, rng)


METHODS: dict[str, Method] = {
    "exact-shapley": Method("Shapley 1953, one game a round", _exact, needs_validation=True),
    "permutation-shapley": Method(
        "Castro, Gomez and Tejada 2009, antithetic", _permutations, needs_validation=True
    ),
}
