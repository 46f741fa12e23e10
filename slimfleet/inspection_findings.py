"""What a user should know about how a network scales, and what to do about it. Pure."""

from collections.abc import Iterable, Sequence

from slimfleet.inspection import Finding, ScalingAxes, is_held_back
from slimmable.derivation.spec_terms import AxisReport
from slimmable.spec import WidthSpec

# Halving the width should leave a quarter of the parameters. Well above, most axes stay.
PROBED_WIDTH, SHARE_LIMIT = 0.5, 0.6
NAMED = 3  # examples in a line
# Part of a reason -> what its user can do.
HINTS = {
    "unknown operator": "write it with operators of docs/operators.md, or let these stay",
    "not covered": "write it with operators of docs/operators.md, or let these stay",
    "factor of the same product": "one factor scales; --factor chooses between outer and inner",
    "reshaped": "keep channels whole in a reshape, as view(batch, channels, -1) does",
    "selected": "take whole tensors apart with chunk or split, or let these stay",
    "indexed": "take whole tensors apart with chunk or split, or let these stay",
    "does not use": "remove the tensor, or use it",
    "its size": "compute the number in forward from x.shape, or let these stay",
}
OTHER_HINT = "what else there is scales; docs/width-spec.md explains such reasons"


def findings(
    report: Sequence[AxisReport], spec: WidthSpec, axes: Sequence[ScalingAxes]
) -> tuple[Finding, ...]:
    """Return what a user should know, the most costly first.

    Args:
        report: one entry per dimension.
        spec: of the same network.
        axes: those that scale.
    """
    return (*_share(spec), *_held_back(report), *_not_distinct(axes), *_remarks(report))


def _share(spec: WidthSpec) -> list[Finding]:
    full, kept = spec.parameter_count(1.0), spec.parameter_count(PROBED_WIDTH)
    if not any(axis.scales for axis in spec.axes):
        return [Finding("nothing in this network scales", "all widths are the full network")]
    if kept <= SHARE_LIMIT * full:
        return []
    stay = sorted(spec.parameters, key=lambda name: (-_values(spec, name, PROBED_WIDTH), name))
    largest = ", ".join(
        f"{name} ({_values(spec, name, PROBED_WIDTH) / kept:.0%})" for name in stay[:NAMED]
    )
    return [
        Finding(
            f"most of this network does not scale: width {PROBED_WIDTH:g} keeps"
            f" {kept / full:.0%} of its parameters, where {PROBED_WIDTH**2:.0%} is usual",
            f"look at the largest tensors at that width: {largest}",
        )
    ]


def causes(report: Iterable[AxisReport]) -> dict[tuple[str, str], int]:
    """Return the number of each (reason, place) that holds dimensions back, from 1."""
    found = dict.fromkeys((one.reason, one.place) for one in report if is_held_back(one))
    return {cause: number for number, cause in enumerate(found, start=1)}


def _held_back(report: Sequence[AxisReport]) -> list[Finding]:
    lines = []
    for (reason, place), number in causes(report).items():
        found = [one for one in report if (one.reason, one.place) == (reason, place)]
        hint = next((text for part, text in HINTS.items() if part in reason), OTHER_HINT)
        where = f"{place}: " if place else ""
        stay = "stays" if len(found) == 1 else "stay"
        text = f"{where}{reason}; {_examples(found)} {stay} at full width"
        lines.append(Finding(text, hint, number))
    return lines


def _not_distinct(axes: Iterable[ScalingAxes]) -> list[Finding]:
    return [
        Finding(
            f"{one.count} ax{'is' if one.count == 1 else 'es'} of length {one.size} keep"
            f"{'s' if one.count == 1 else ''} {', '.join(map(str, one.lengths))}: not a length of"
            " its own for each width",
            "offer fewer widths, or give such layers more channels",
        )
        for one in axes
        if len(set(one.lengths)) < len(one.lengths)
    ]


def _remarks(report: Iterable[AxisReport]) -> list[Finding]:
    """Say what to know about dimensions that do scale; the axes tell which lengths coincide."""
    remarks: dict[str, list[AxisReport]] = {}
    for dimension in report:
        for remark in dimension.reason.split("; ") if dimension.scales else ():
            if remark and not remark.startswith("only "):
                remarks.setdefault(remark, []).append(dimension)
    return [
        Finding(f"{_examples(found)} scale: {remark}", "compare the accuracy of narrow widths")
        for remark, found in remarks.items()
    ]


def _examples(dimensions: Sequence[AxisReport]) -> str:
    names = [f"{one.tensor}[{one.dim}]" for one in dimensions[:NAMED]]
    more = len(dimensions) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _values(spec: WidthSpec, name: str, width: float) -> int:
    count = 1
    for length in spec.shape(name, width):
        count *= length
    return count
