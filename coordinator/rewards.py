"""From contributions to reward widths: the equal-gain rule on measured scores. Pure.

The rule (after Aequa, ICML 2025; our reading): every honest device gains the same. A device's
contribution is first expressed as a score c_i (what its share of the progress is worth, between
the untrained and the trained model); its reward is r_i = c_i + t with one t for all, clipped to
what the widths span, so that the best contributor gets the best model. Then the widest width whose
fitted score does not exceed r_i: rounding down, so nobody is over-rewarded against a better
contributor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from journal.events import CurvePoint, Reward

EQUAL_GAIN = "equal-gain"
AFFINE = "affine"
FLOOR = "floor"
# Of the contributions' absolute sum: what is left below it is the rounding of terms that cancel.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Allocation:
    """Rewards of all devices and the rule that made them."""

    rule: str
    note: str
    rewards: tuple[Reward, ...]


def isotonic(scores: Sequence[float]) -> list[float]:
    """Return the closest non-decreasing sequence in the least-squares sense.

    Pool adjacent violators (Ayer et al., "An empirical distribution function for sampling with
    incomplete information", 1955), equal weights.
    """
    blocks: list[tuple[float, int]] = []
    for score in scores:
        mean, count = score, 1
        while blocks and blocks[-1][0] >= mean:
            before, size = blocks.pop()
            mean = (before * size + mean * count) / (size + count)
            count += size
        blocks.append((mean, count))
    return [mean for mean, count in blocks for _ in range(count)]


def score_values(
    contributions: Mapping[str, float], untrained: float, trained: float
) -> dict[str, float]:
    """Express contributions in score units.

    c_i = a_0 + (a_T - a_0) * N * Phi_i / sum(Phi): a device that gave nothing is worth the
    untrained model's score a_0, and equal devices are worth the trained model's a_T. If the sum is
    not above 0, nobody advanced the model and all get a_0. The contributions are measured on the
    loss: where it fell and the score did not rise, more of it is not worth less, so all get a_0.
    """
    total = _total(contributions)
    if total <= 0:
        return dict.fromkeys(contributions, untrained)
    count, progress = len(contributions), max(0.0, trained - untrained)
    return {
        device: untrained + progress * (count * score / total)
        for device, score in contributions.items()
    }


def allocate(
    contributions: Mapping[str, float],
    curve: Sequence[CurvePoint],
    untrained: float,
    cutoff: float,
) -> Allocation:
    """Return each device's reward width.

    Args:
        contributions: device -> accumulated score, every device that was ever invited.
        curve: measured score over the reward ladder.
        untrained: score of the initial model (a_0).
        cutoff: share of the average contribution below which a device receives no release.

    Raises:
        ValueError: no width is offered.
    """
    if not any(point.offered for point in curve):
        raise ValueError("no width was measured: rewards need a score for at least one")
    ladder = sorted((p for p in curve if p.offered), key=lambda p: p.width)
    trained = ladder[-1].fitted
    values = score_values(contributions, untrained, trained)
    shares = _shares(contributions)
    honest = [device for device in contributions if shares[device] >= cutoff]
    low, high = ladder[0].fitted, ladder[-1].fitted
    if _total(contributions) > 0:
        rule, note, targets = _targets({device: values[device] for device in honest}, low, high)
    else:
        rule, note = FLOOR, "nobody advanced the model: whoever is above the cut-off gets the floor"
        targets = dict.fromkeys(honest, low)
    rewards = []
    for device in sorted(contributions):
        if device in targets:
            point = _widest_within(ladder, targets[device])
            reason = (
                f"width {point.width:g}: {shares[device]:.2f} times the average contribution earns"
                f" a score of {targets[device]:.3f}, and width {point.width:g} scores"
                f" {point.fitted:.3f}"
            )
            target, width, score = targets[device], point.width, point.fitted
        else:
            reason = (
                f"no release: {shares[device]:.2f} times the average contribution is below the"
                f" cut-off of {cutoff:g}"
            )
            target, width, score = 0.0, 0.0, 0.0
        rewards.append(
            Reward(
                device=device,
                contribution=contributions[device],
                share=shares[device],
                value=values[device],
                target=target,
                width=width,
                score=score,
                reason=reason,
            )
        )
    return Allocation(rule, note, tuple(rewards))


def _shares(contributions: Mapping[str, float]) -> dict[str, float]:
    total = _total(contributions)
    if total <= 0:
        return dict.fromkeys(contributions, 0.0)
    return {device: len(contributions) * s / total for device, s in contributions.items()}


def _total(contributions: Mapping[str, float]) -> float:
    total = sum(contributions.values())
    return total if total > ROUNDING * sum(map(abs, contributions.values())) else 0.0


def _targets(
    values: Mapping[str, float], low: float, high: float
) -> tuple[str, str, dict[str, float]]:
    if not values:
        return EQUAL_GAIN, "no device is above the cut-off", {}
    top, bottom = max(values.values()), min(values.values())
    if top - bottom <= high - low:
        shift = high - top
        clipped = {d: min(high, max(low, value + shift)) for d, value in values.items()}
        return EQUAL_GAIN, "", clipped
    note = (
        f"honest contributions spread over {top - bottom:.3f}, the widths only over"
        f" {high - low:.3f}: mapped affinely above the cut-off, ranks kept"
    )
    scale = (high - low) / (top - bottom)
    return AFFINE, note, {d: low + (value - bottom) * scale for d, value in values.items()}


def _widest_within(ladder: Sequence[CurvePoint], target: float) -> CurvePoint:
    # The tolerance absorbs the rounding of low + (value - bottom) * scale at the top.
    affordable = [point for point in ladder if point.fitted <= target + 1e-9]
    return affordable[-1] if affordable else ladder[0]
