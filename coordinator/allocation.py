"""What everybody earns by its account and the curve as they stand, in training and after. Pure."""

from dataclasses import replace

import msgspec

from coordinator.claims import Claim
from coordinator.contribution.ledger import Total
from coordinator.entitlement import entitlements
from coordinator.fleet import OWN_NETWORKS, Campaign, settings_of
from coordinator.reported_curve import NOT_MEASURED
from coordinator.rewards import Allocation, allocate, beaten
from journal import events as e


def claimed(
    state: Campaign, *, releasing: bool
) -> tuple[list[Claim], list[e.CurvePoint], str] | None:
    """Return who claims what of which ladder, with a note on the ladder; None if unmeasured.

    Where no width is worth offering, the best one is what there is to train for, so that the top
    contributor may go on to the full width. It is released only where all that speaks against it is
    a training width outside the ladder.

    Args:
        state: of the campaign.
        releasing: whether releases follow from it, or training widths only.
    """
    settings, ledger = settings_of(state), state.ledger
    ladder = [
        point
        for point in (state.scored.curve if state.scored else ())
        if point.width in settings.rewards.ladder and point.why != NOT_MEASURED
    ]
    if not ladder or not state.measured_round:
        return None
    note = ""
    fit = [point for point in ladder if beaten(point) or not releasing]
    if fit and not any(point.offered for point in ladder):
        best = max(fit, key=lambda point: point.score)
        ladder = [msgspec.structs.replace(best, offered=True)]
        note = f"no width is worth offering, so there is only the best one, {best.width:g}"
    claims = [_claim(state, name, ledger.account(name)) for name in ledger.totals]
    return claims, ladder, note


def _claim(state: Campaign, device: str, total: Total) -> Claim:
    alone = state.alone.get(device)
    if settings_of(state).rewards.basis == "assessment":
        total = _assessed(alone, state.untrained)
    return Claim(device, total, alone.score if alone else None)


def _assessed(alone: e.AloneScore | None, untrained: float) -> Total:
    """Return a contribution by stand-alone score, Aequa's surrogate (ICML 2025); 0 without one."""
    if alone is None:
        return Total()
    return Total(alone.score - untrained, tuple(block - untrained for block in alone.blocks), 1)


def _allocation(state: Campaign, *, releasing: bool) -> Allocation | None:
    """Return what everybody earns on the ledger and the curve as they stand; None if unmeasured."""
    found = claimed(state, releasing=releasing)
    if found is None:
        return None
    claims, ladder, note = found
    policy = settings_of(state).rewards
    allocation = allocate(claims, ladder, policy, state.untrained, state.progress)
    return replace(allocation, note="; ".join(filter(None, (note, allocation.note))))


def revise_entitlements(state: Campaign) -> list[e.AnyEvent]:
    """Cap the training widths by what every device is entitled to after the last scored round."""
    settings, scored = settings_of(state), state.scored
    if settings.rewards.mode != "training-time" or scored is None:
        return []
    if state.revision and state.revision.round == scored.round:
        return []
    allocation = _allocation(state, releasing=False)
    if allocation is None:
        return []
    return [
        e.EntitlementsRevised(
            round=scored.round,
            rule=allocation.rule,
            note=allocation.note,
            rewards=allocation.rewards,
            widths=entitlements(allocation.rewards, settings.widths),
        )
    ]


def allocate_rewards(state: Campaign) -> list[e.AnyEvent]:
    """Say which width every device earned, once for each release."""
    if settings_of(state).keeps_own:
        of = state.weights_round
        return [
            e.RewardsAllocated(round=of, rule="none", note=OWN_NETWORKS, rewards=()),
            e.ReleaseWithheld(round=of, reason=OWN_NETWORKS),
        ]
    if state.scored is None:
        return [
            e.RewardsAllocated(
                round=0, rule="none", note="no round was aggregated: nothing to reward", rewards=()
            )
        ]
    allocation = _allocation(state, releasing=True)
    if allocation is None:
        note = "no device has reported what trained weights score: nothing can be given"
        return [e.RewardsAllocated(round=state.weights_round, rule="none", note=note, rewards=())]
    return [
        e.RewardsAllocated(
            round=state.weights_round,
            rule=allocation.rule,
            note=allocation.note,
            rewards=allocation.rewards,
        )
    ]
