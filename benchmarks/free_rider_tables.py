"""The tables of what riders earn and how they are told apart. Pure."""

from collections.abc import Sequence
from statistics import mean

from benchmarks.detection import auroc, true_positive_rate
from benchmarks.free_rider_cells import Outcome, RiderOutcome
from benchmarks.results import Cell, Ratio, Table

FORGED = (
    *("zero", "plain-fraboni", "disguised-fraboni", "random", "tuned-random"),
    *("replayed-delta", "advanced-delta", "scaled-delta"),
)
SPOILED = ("label-noise", "tiny-data", "duplicated-data")


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """Return one row per partition, campaign, kind and setting of novelty; means over seeds."""
    rows: list[tuple[Cell, ...]] = []
    for (partition, campaign, kind, novelty), found in _grouped(outcomes).items():
        caught = [one.detected for one in found]
        rows.append(
            (
                partition,
                campaign,
                kind,
                novelty,
                mean(one.share for one in found),
                mean(one.width for one in found),
                mean(one.weakest for one in found),
                f"{sum(one.below for one in found)}/{len(found)}",
                100 * mean(one.payoff for one in found),
                100 * mean(one.held for one in found),
                None if None in caught else mean(one for one in caught if one is not None),
            )
        )
    columns = (
        *("partition", "riders", "kind", "novelty", "share", "width", "weakest honest"),
        *("below all honest", "payoff, points", "held, points", "detected in round"),
    )
    return Table("outcome: what each kind of rider earned", columns, tuple(rows))


def detection_table(outcomes: Sequence[Outcome]) -> Table:
    """Return AUROC and true positive rate of the score and of each counter-test."""
    tests = list(outcomes[0].suspicions)
    rows: list[tuple[Cell, ...]] = []
    pooled: dict[tuple[str, str, int], dict[str, tuple[list[float], list[float]]]] = {}
    for outcome in outcomes:
        if len(outcome.cell.kinds) > 1:
            continue
        kind = outcome.cell.kinds[0]
        into = pooled.setdefault((outcome.cell.partition, kind, outcome.novelty), {})
        for test, (riders, honest) in outcome.suspicions.items():
            ours, theirs = into.setdefault(test, ([], []))
            ours += riders.get(kind, [])
            theirs += honest
    for (partition, kind, novelty), by_test in pooled.items():
        cells: list[Cell] = []
        for test in tests:
            area, rate = auroc(*by_test[test]), true_positive_rate(*by_test[test])
            cells.append("-" if area is None or rate is None else f"{area:.2f} / {rate:.2f}")
        rows.append((partition, kind, novelty, *cells))
    columns = ("partition", "kind", "novelty", *tests)
    return Table("detection: AUROC / found at 5 % false alarms", columns, tuple(rows))


def honest_table(outcomes: Sequence[Outcome]) -> Table:
    """Return what honest devices had of it."""
    rows: list[tuple[Cell, ...]] = []
    keys = dict.fromkeys((o.cell.partition, o.novelty) for o in outcomes)
    for partition, novelty in keys:
        found = [o for o in outcomes if (o.cell.partition, o.novelty) == (partition, novelty)]
        shares = [share for o in found for share in o.shares.values()]
        single = [o for o in found if len(o.cell.kinds) == 1]
        rows.append(
            (
                partition,
                novelty,
                min(shares),
                mean(min(o.shares.values()) for o in found),
                sum(len(o.demoted) for o in found),
                len(shares),
                100 * mean(o.accuracy for o in single) if single else None,
            )
        )
    columns = (
        *("partition", "novelty", "least share", "mean least share", "demoted"),
        *("honest devices", "accuracy, %"),
    )
    return Table("honest: devices that did their work", columns, tuple(rows))


def goals(outcomes: Sequence[Outcome]) -> tuple[Ratio, ...]:
    """Return the goals at the largest setting of novelty; a sum of what must not be."""
    best = max(o.novelty for o in outcomes)
    last = [o for o in outcomes if o.novelty == best]
    riders = [rider for o in last for rider in o.riders]
    paid = [r for r in riders if r.kind in FORGED and r.width > 0]
    above = [r for r in riders if r.kind in SPOILED and r.width > r.weakest]
    skewed = [o for o in last if o.cell.partition.startswith("imbalanced")]
    found = [
        _none("forged uploads that were paid", len(paid), [r for r in riders if r.kind in FORGED]),
        _none(
            "spoiled data above an honest device",
            len(above),
            [r for r in riders if r.kind in SPOILED],
        ),
        _none(
            "honest devices demoted, quantity skew",
            sum(len(o.demoted) for o in skewed),
            [share for o in skewed for share in o.shares],
        ),
    ]
    return tuple(ratio for ratio in found if ratio.limit)


def _none(name: str, count: int, among: Sequence[object]) -> Ratio:
    return Ratio(name, float(count), "of", float(len(among)), at_most=0.0)


def _grouped(
    outcomes: Sequence[Outcome],
) -> dict[tuple[str, str, str, int], list[RiderOutcome]]:
    found: dict[tuple[str, str, str, int], list[RiderOutcome]] = {}
    for outcome in outcomes:
        campaign = "alone" if len(outcome.cell.kinds) == 1 else "all together"
        for rider in outcome.riders:
            key = (outcome.cell.partition, campaign, rider.kind, outcome.novelty)
            found.setdefault(key, []).append(rider)
    return found
