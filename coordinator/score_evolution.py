"""What the score of a closed round changes: weights, curve, contributions, what each has alone.

As in `coordinator.evolution`, nothing here decides. Pure.
"""

import math
from typing import Any

from coordinator.changes import replace
from coordinator.fleet import Campaign, Phase, Round, reports_of
from coordinator.settings import Settings
from journal import events as e


def _scored(state: Campaign, event: e.RoundScored, at: float) -> Campaign:
    current, settings = state.round, state.settings
    assert current is not None
    assert settings is not None
    blameless = (*current.opened.not_drawn, *current.opened.excused)
    return replace(
        state,
        round=replace(current, scored=True),
        between_s=max(0.0, at - state.since),
        weights=event.digest,
        optimiser=event.optimiser,
        **_variates(state, event),
        earlier=(state.weights, *state.earlier)[: _looks_back(state, settings)],
        weights_round=event.round,
        trained_rounds=state.trained_rounds + 1,
        **_measured(state, current, event),
        progress=(*state.progress, *_progress(state, event)),
        without_gain=0 if event.better else state.without_gain + 1,
        scored=event,
        ledger=state.ledger.entered(event.round, event.contributions, blameless),
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def _alone_measured(state: Campaign, event: e.AloneMeasured, at: float) -> Campaign:
    current = state.round
    assert current is not None
    return replace(
        state,
        round=replace(current, scored=True),
        assessed=True,
        alone={**state.alone, **{score.device: score for score in event.scores}},
        phase=Phase.GATHERING,
        since=at,
        work_failures=0,
    )


def _variates(state: Campaign, event: e.RoundScored) -> dict[str, Any]:
    """Return what changes about control variates."""
    if event.variates is None:
        return {}
    own = {**state.own_variates, **event.variates.devices}
    return {"variates": event.variates.fleet, "own_variates": own}


def _looks_back(state: Campaign, settings: Settings) -> int:
    """Return how many weights before the newest ones are known in the next round.

    Whoever sends a late update may repeat what the model has done since the weights that it had.
    """
    novelty = settings.contributions.novelty
    trained = [one.trained_rounds for one in state.owed.values()]
    trained += [one.trained_rounds for one in state.late]
    moves = state.trained_rounds + 1 - min(trained) if trained else 0
    return novelty + moves if novelty else 0


def _progress(state: Campaign, event: e.RoundScored) -> list[tuple[float, float]]:
    """Return how far the network has come with a round; nothing where it was not measured."""
    before = state.progress[-1][0] if state.progress else 0.0
    made = math.fsum(one.score for one in event.contributions)
    found = (before + made, event.curve[-1].score if event.curve else math.nan)
    return [found] if all(map(math.isfinite, found)) else []


def _measured(state: Campaign, current: Round, event: e.RoundScored) -> dict[str, Any]:
    """Return what changes about the weights that were measured."""
    assert state.settings is not None
    if state.settings.contributions.evaluator == "server":
        best = event.digest if event.better else state.best
        return {"measured": event.digest, "measured_round": event.round, "best": best}
    reports, base = reports_of(current), current.opened.base
    if not reports:
        return {}  # what was measured before is still the newest
    best = base if event.better else state.best
    others = {best, state.released_weights}
    kept = {name: found for name, found in state.reports.items() if name in others}
    changes: dict[str, Any] = {
        "measured": base,
        "measured_round": state.weights_round,
        "best": best,
        "reports": {**kept, base: reports},
    }
    if state.weights_round == 0:
        changes |= {"untrained": event.curve[-1].score, "untrained_reports": reports}
    return changes


SCORE_HANDLERS: dict[type, Any] = {
    e.RoundScored: _scored,
    e.AloneMeasured: _alone_measured,
}
