"""What a round and a release are worth by the devices' reports, for the coordinator. Pure."""

from dataclasses import replace

from coordinator.bench import RoundResult
from coordinator.fleet import Campaign, reports_of
from coordinator.reported_curve import NOT_MEASURED, reported_curve, reported_gain, reported_value


def with_reports(state: Campaign, found: RoundResult) -> tuple[RoundResult, str]:
    """Return the result of a round with the scores that devices reported on its base.

    The worker aggregated and computed contributions, and measured nothing. Where no device reported
    in this round, the curve of the weights measured last stays; it is empty before the first.

    The first weights that are measured are the best so far. A value compares what all devices said
    then with what all say now, ``better`` only those that spoke both times.

    Returns:
        The result, and the digest of the weights that its curve describes.
    """
    assert state.round is not None
    assert state.settings is not None
    trim, last = state.settings.contributions.trim, state.scored
    reports = reports_of(state.round)
    if not reports:
        value = last.value_after if last else 0.0
        curve = last.curve if last else ()
        kept = replace(found, curve=curve, value_before=value, value_after=value, better=False)
        return kept, state.measured
    value = reported_value(reports, trim)
    best = state.reports.get(state.best)
    gain = reported_gain(reports, best, trim, lambda one: -one.loss) if best else None
    rewards = state.settings.rewards
    own = state.settings.exchange != "weights"  # then there is no network that has other widths
    widths = state.settings.widths if own else (*state.settings.widths, *rewards.ladder)
    reported = replace(
        found,
        curve=reported_curve(reports, trim, widths, rewards.min_trainers, state.untrained_reports),
        value_before=last.value_after if state.measured and last else value,
        value_after=value,
        better=gain is None or gain.low > 0,
    )
    return reported, state.round.opened.base


def reported_scores(state: Campaign) -> tuple[dict[float, float], str]:
    """Return what devices report of the weights measured last, per width, and how it came about."""
    curve = state.scored.curve if state.scored else ()
    count = len(state.reports.get(state.measured, ()))
    source = f"recordings of {count} devices, as they report it, trimmed mean"
    return {point.width: point.score for point in curve if point.why != NOT_MEASURED}, source


def worse_than_in_use(state: Campaign) -> str:
    """Return why devices would lose by the weights measured last, or ""."""
    new, old = (state.reports.get(name) for name in (state.measured, state.released_weights))
    if state.settings is None or not new or not old or new is old:
        return ""
    trim = state.settings.contributions.trim
    gain = reported_gain(new, old, trim, lambda one: one.score)
    if gain.high >= 0:
        return ""
    return (
        f"round {state.measured_round} scores {-gain.mean:.3f} lower than the release in use, by"
        f" what devices report (95 % interval {gain.low:.3f} to {gain.high:.3f}): withheld"
    )
