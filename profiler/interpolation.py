"""What a width costs that was not measured, from the widths beside it. Pure."""

from collections.abc import Collection, Sequence
from math import ceil, log

from profiler.profile import WidthCost

# Step time over width, as a power: 0.98 to 1.68 on four networks (batch 32, one thread). Used as
# long as one width alone was measured; high, so that a wider one rather costs less than forecast.
STEEPEST = 1.7


def forecast_step(measured: Sequence[WidthCost], width: float) -> float:
    """Return the expected seconds of a step at a width wider than all measured ones.

    Args:
        measured: ascending, at least one.
        width: wider than the last of them.
    """
    last = measured[-1]
    power = _power(measured[-2], last) if len(measured) > 1 else STEEPEST
    return float(last.step_s * (width / last.width) ** max(0.0, power))


def completed(measured: Sequence[WidthCost], widths: Collection[float]) -> tuple[WidthCost, ...]:
    """Return the measured costs and, in between, interpolated ones; ascending by width.

    Time follows a power of the width between two neighbours: on three of four networks this was
    nearer to the measured time than a straight line. Memory follows the straight line, which is
    never too low: parameters grow with the square of the width and activations with the width.

    Args:
        measured: in any order.
        widths: what is wanted; a width outside of the measured range is left out.
    """
    known = {cost.width: cost for cost in measured}
    found = dict(known)
    for width in set(widths) - known.keys():
        below = max((w for w in known if w < width), default=None)
        above = min((w for w in known if w > width), default=None)
        if below is not None and above is not None:
            found[width] = _between(known[below], known[above], width)
    return tuple(found[width] for width in sorted(found))


def _between(low: WidthCost, high: WidthCost, width: float) -> WidthCost:
    share = (width - low.width) / (high.width - low.width)
    return WidthCost(
        width=width,
        step_s=low.step_s * (width / low.width) ** _power(low, high),
        peak_bytes=low.peak_bytes + ceil(share * (high.peak_bytes - low.peak_bytes)),
        timed_steps=0,
        interpolated=True,
    )


def _power(low: WidthCost, high: WidthCost) -> float:
    if low.step_s <= 0 or high.step_s <= 0:
        return 0.0
    return log(high.step_s / low.step_s) / log(high.width / low.width)
