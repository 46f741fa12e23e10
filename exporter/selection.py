"""Which form of each width is written, and which width a device should take. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.budget import Budget, format_bytes, format_seconds
from exporter.errors import ExportError
from exporter.variant_choice import AUTO, FP32, VariantMeasure, choose_variant

OVER_BUDGET = "over budget: "


class BudgetUnmetError(ExportError):
    """No width keeps the device's budget. Raise the budget, or train a narrower network."""


@dataclass(frozen=True)
class Selection:
    """What to write of one width.

    Attributes:
        name: the chosen form, or "" where none keeps the budget.
        preferred: the one that would be chosen without a budget.
        reason: in one sentence.
        rejected: the other forms, each with why.
    """

    name: str
    preferred: str
    reason: str
    rejected: tuple[tuple[str, str], ...]


def select_form(
    forms: Sequence[VariantMeasure],
    medians: Mapping[str, float],
    budget: Budget,
    *,
    max_score_loss: float,
    mode: str,
) -> Selection:
    """Choose the form of one width that a device with this budget should run.

    The form that is best without a budget stands if it keeps it. Otherwise "auto" takes the fastest
    one that keeps the budget and loses no more than allowed, even where it is slower than float32.

    Args:
        forms: of the width, float32 among them.
        medians: form -> the latency that the budget limits.
        budget: of the device.
        max_score_loss: that "auto" may cost.
        mode: see `choose_variant`.

    Raises:
        QuantisationError: the form that ``mode`` demands could not be made.
    """
    choice = choose_variant(forms, max_score_loss=max_score_loss, mode=mode)
    over = {m.name: budget.complaint(medians[m.name], m.size) for m in forms if not m.failed}
    rejected = dict(choice.rejected)
    rejected |= {name: f"{OVER_BUDGET}{why}" for name, why in over.items() if why}
    if not over[choice.name]:
        return Selection(choice.name, choice.name, choice.reason, _sorted(rejected))
    spare = [m for m in forms if not over.get(m.name, "failed") and _is_good(m, max_score_loss)]
    if mode != AUTO or not spare:
        rejected.pop(choice.name)
        reason = f"{choice.name}: {OVER_BUDGET}{over[choice.name]}"
        return Selection("", choice.name, reason, _sorted(rejected))
    taken = min(spare, key=lambda one: (medians[one.name], one.size, one.name))
    rejected.pop(taken.name, None)
    reason = f"{taken.name}: keeps the budget"
    return Selection(taken.name, choice.name, reason, _sorted(rejected))


def closest(
    offers: Mapping[float, Sequence[VariantMeasure]],
    medians: Mapping[tuple[float, str], float],
    budget: Budget,
    *,
    max_score_loss: float,
) -> str:
    """Name the width and form that come closest to a budget which none keeps.

    Args:
        offers: width -> its forms.
        medians: (width, form) -> the latency that the budget limits.
        budget: of the device.
        max_score_loss: forms that lose more are left out.
    """
    least, said = math.inf, "nothing"
    for width, forms in offers.items():
        for form in forms:
            if form.failed or not _is_good(form, max_score_loss):
                continue
            latency = medians[width, form.name]
            excess = budget.excess(latency, form.size)
            if excess < least:
                least = excess
                figures = f"{format_seconds(latency)}, {format_bytes(form.size)}"
                said = f"width {width:g} as {form.name} with {figures}"
    return said


def _is_good(form: VariantMeasure, max_score_loss: float) -> bool:
    if form.name == FP32:
        return True
    return form.score_loss is not None and form.score_loss <= max_score_loss


def _sorted(rejected: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(rejected.items()))
