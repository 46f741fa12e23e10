"""Which models are worth having: the Pareto front of score against latency and size. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One model as the front sees it.

    Attributes:
        score: higher is better; None where it was not measured.
        latency_s, size_bytes: lower is better.
    """

    score: float | None
    latency_s: float
    size_bytes: float


def dominates(one: Candidate, other: Candidate) -> bool:
    """Whether ``one`` is nowhere worse than ``other`` and somewhere better.

    A score that was not measured can be compared with nothing.
    """
    if one.score is None or other.score is None:
        return False
    ours = (one.score, -one.latency_s, -one.size_bytes)
    theirs = (other.score, -other.latency_s, -other.size_bytes)
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def pareto_front(candidates: Sequence[Candidate]) -> tuple[bool, ...]:
    """Tell of each candidate whether no other one dominates it.

    Candidates without a score are never on the front; equal ones are on it together.
    """
    return tuple(
        candidate.score is not None and not any(dominates(one, candidate) for one in candidates)
        for candidate in candidates
    )
