"""Every measure of a contribution behind one function, each under the name of its paper. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordinator.contribution.banzhaf import data_banzhaf
from coordinator.contribution.claims import data_size, participation
from coordinator.contribution.cosines import class_rows, cosine_to_aggregate
from coordinator.contribution.direct import (
    first_order_loss,
    leave_one_out,
    second_order_loss,
    stand_alone,
)
from coordinator.contribution.evidence import Evaluator, Evidence, EvidenceError, Scores
from coordinator.contribution.game import Value
from coordinator.contribution.gtg import gtg_shapley
from coordinator.contribution.shapley import EXACT_LIMIT, exact_shapley, permutation_shapley

__all__ = ["METHODS", "EvidenceError", "Method", "estimate"]

Estimate = Callable[[Evidence, int, np.random.Generator], Scores]


@dataclass(frozen=True)
class Method:
    """One measure.

    Attributes:
        paper: where it comes from.
        estimate: of the evidence, the evaluations that may be spent, and a generator.
        needs_validation: whether the server must hold validation data.
        needs_steps: whether it asks what each device changed.
    """

    paper: str
    estimate: Estimate
    needs_validation: bool
    needs_steps: bool = True


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
    if not found.needs_validation:
        return found.estimate(evidence, budget, rng)
    if evidence.evaluator is None:
        raise EvidenceError(
            f"{method} needs validation data on the server: supply it, or set contributions.method"
            " to one that does without, such as 'cosine-to-aggregate'"
        )
    moved = tuple(device for device in evidence.devices if device not in evidence.idle)
    # Where nobody moved, all are measured, so that the round has its blocks.
    among = replace(evidence, devices=moved or evidence.devices)
    scores = found.estimate(among, budget, rng)
    return _with_idle(scores, evidence.devices)


def _with_idle(scores: Scores, devices: Sequence[str]) -> Scores:
    """Return the scores with a 0 for whoever is not among them, in the order of ``devices``."""
    size = max((len(blocks) for blocks in scores.blocks.values()), default=0)
    return replace(
        scores,
        scores={device: scores.scores.get(device, 0.0) for device in devices},
        blocks={d: scores.blocks.get(d, (0.0,) * size) for d in devices} if size else {},
    )


Sampler = Callable[[Sequence[str], Value, int, np.random.Generator], Scores]
Measure = Callable[[Sequence[str], Evaluator], Scores]


def _exact(devices: Sequence[str], value: Value, budget: int, rng: np.random.Generator) -> Scores:
    if len(devices) > EXACT_LIMIT:
        return permutation_shapley(devices, value, budget, rng)
    return exact_shapley(devices, value)


def _sampler(paper: str, sampler: Sampler) -> Method:
    def estimated(evidence: Evidence, budget: int, rng: np.random.Generator) -> Scores:
        assert evidence.evaluator is not None
        return sampler(evidence.devices, evidence.evaluator.value, budget, rng)

    return Method(paper, estimated, needs_validation=True)


def _measure(paper: str, measure: Measure) -> Method:
    def measured(evidence: Evidence, _: int, __: np.random.Generator) -> Scores:
        assert evidence.evaluator is not None
        return measure(evidence.devices, evidence.evaluator)

    return Method(paper, measured, needs_validation=True)


def _without_data(
    paper: str, compare: Callable[[Evidence], Scores], *, needs_steps: bool = True
) -> Method:
    def compared(evidence: Evidence, _: int, __: np.random.Generator) -> Scores:
        return compare(evidence)

    return Method(paper, compared, needs_validation=False, needs_steps=needs_steps)


IAFL = "IAFL: Wu et al., ICLR 2024"
METHODS: dict[str, Method] = {
    "stand-alone": _measure("the surrogate of Aequa, ICML 2025", stand_alone),
    "data-size": _without_data(IAFL, data_size, needs_steps=False),
    "participation": _without_data(IAFL, participation, needs_steps=False),
    "cosine-to-aggregate": _without_data("CGSV: Xu et al., NeurIPS 2021", cosine_to_aggregate),
    "class-rows": _without_data("CSSV of ShapFed: Tastan et al., IJCAI 2024", class_rows),
    "leave-one-out": _measure("deletion diagnostics: Cook, 1977", leave_one_out),
    "exact-shapley": _sampler("Shapley 1953, one game a round", _exact),
    "permutation-shapley": _sampler(
        "Castro, Gomez and Tejada 2009, antithetic", permutation_shapley
    ),
    "gtg-shapley": _sampler("GTG-Shapley: Liu et al., ACM TIST 2022", gtg_shapley),
    "data-banzhaf": _sampler("Data Banzhaf: Wang and Jia, AISTATS 2023, MSR", data_banzhaf),
    "first-order-loss": _measure(
        "In-Run Data Shapley: Wang et al., ICLR 2025, first order", first_order_loss
    ),
    "second-order-loss": _measure(
        "In-Run Data Shapley: Wang et al., ICLR 2025, second order", second_order_loss
    ),
}
