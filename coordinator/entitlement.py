"""How wide a device trains in the next round, and how long that takes it. Pure.

With ``rewards.mode = "training-time"`` (Aequa, ICML 2025, Algorithm 2; our reading) rewards bind
while training: after each scored round the allocation of that moment caps the widths of the next
rounds, so that nobody holds more of the model than it is entitled to by then.

With ``width_policy.dynamic`` (HeteroFL, Diao et al., ICLR 2021, section 4, "dynamic": the levels of
devices vary) that is the most: the width of each round is drawn.
"""

import hashlib
from collections.abc import Mapping, Sequence

from coordinator.fleet import Campaign, Device
from coordinator.local_training import ordinary_steps
from coordinator.settings import Settings
from journal.events import Reward, RoundForecast


def entitlements(rewards: Sequence[Reward], grid: Sequence[float]) -> dict[str, float]:
    """Return the widest width of the training grid that each device may hold from now on.

    It is the widest one not above the reward width. Whoever is below the cut-off keeps the
    narrowest one, so that it can earn its way back. The largest contributor, and whoever does not
    differ significantly from it, holds the full width: otherwise a width that nobody may train
    would never come back onto the ladder. Where all are below the cut-off there is no such device.

    Args:
        rewards: of the allocation on everything known so far.
        grid: the training grid.
    """
    widths = {one.device: _within(grid, one.width) for one in rewards}
    best = max(
        (one for one in rewards if one.width), key=lambda one: one.contribution, default=None
    )
    if best:
        widths |= dict.fromkeys(_tied({one.device: one for one in rewards}, best), max(grid))
    return widths


def _tied(rewards: Mapping[str, Reward], best: Reward) -> set[str]:
    """Return ``best`` and all that it is tied to; each reward names only its nearest neighbours."""
    found, waiting = {best.device}, [best]
    while waiting:
        new = set(waiting.pop().equals) - found
        found |= new
        waiting += [rewards[device] for device in new]
    return found


def training_width(state: Campaign, device: Device, settings: Settings) -> tuple[float, str]:
    """Return the width that a device trains in this round, or the next one, and why in a sentence.

    0 where it cannot train at all.
    """
    widest, why = widest_training(state, device, settings)
    if not settings.width_policy.dynamic or not widest:
        return widest, why
    known = {one.width for one in device.forecasts} or set(settings.widths)
    within = [one for one in settings.widths if one <= widest and one in known] or [widest]
    current = state.round
    number = current.number + (current.closed is not None) if current else 1
    width = within[_lot(settings.seed, number, device.device) % len(within)]
    return width, f"width {width:g} of up to {widest:g}, drawn for round {number}; {why}"


def _lot(seed: int, round_: int, device: str) -> int:
    """Return a number that a replay and an auditor find again, other than that of a cohort."""
    drawn = hashlib.sha256(f"{seed}/{round_}/{device}/width".encode()).digest()
    return int.from_bytes(drawn[:8], "big")


def widest_training(state: Campaign, device: Device, settings: Settings) -> tuple[float, str]:
    """Return the widest width that a device may train now, and why in one sentence; 0 = none."""
    cap = entitled_width(state, device.device, settings)
    if device.width <= cap:
        return device.width, device.reason
    known = device.device in state.entitled
    why = "by its contribution so far" if known else "before its contribution is known"
    return cap, f"width {cap:g} of the {device.width:g} that it could: entitled to no more {why}"


def entitled_width(state: Campaign, device: str, settings: Settings) -> float:
    """Return the widest width whose weights a device may be given now."""
    if settings.rewards.mode != "training-time":
        return max(settings.widths)
    entitled = state.entitled.get(device)
    return _within(settings.widths, entitled or settings.rewards.first_entitlement)


def forecast(device: Device, width: float, steps: int, settings: Settings) -> float:
    """Return the predicted seconds of a round at ``width`` with ``steps`` steps.

    Args:
        device: what it said about itself decides, corrected by its pace.
        width: that it will train.
        steps: of the round; the forecasts are for those of an ordinary one.
        settings: of the campaign.
    """
    # A journal from before forecasts were recorded knows the width policy's own prediction.
    known = RoundForecast(width=width, predicted_s=device.predicted_s, step_s=0.0)
    found = next((one for one in device.forecasts if one.width == width), known)
    more = steps - ordinary_steps(settings, device.profile)
    return device.pace * (found.predicted_s + more * found.step_s)


def _within(grid: Sequence[float], width: float) -> float:
    return max((one for one in grid if one <= width), default=min(grid))
