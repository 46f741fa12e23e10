"""One campaign with free-riders in it: recorded once, then scored with and without novelty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.free_rider_alone import account, accuracy, alone_model
from benchmarks.recorded_rounds import Member, Plan, RecordedRound, evidence_of, record
from coordinator.aggregation.rules import steps_of
from coordinator.claims import Claim
from coordinator.contribution.counter_tests import COUNTER_TESTS, Uploads
from coordinator.contribution.flat_steps import FlatSteps, class_rows
from coordinator.contribution.ledger import Ledger, Total
from coordinator.contribution.methods import estimate
from coordinator.curve import score_curve
from coordinator.measuring import Validation, outputs_per_width
from coordinator.rewards import Allocation, allocate
from coordinator.settings import Rewards
from journal.events import Contribution, CurvePoint
from slimmable.evaluation import initial_state
from slimmable.samples import Samples
from slimmable.state import ModelState

# Of riders by kind, and of honest devices; one number a round and device.
Suspicions = tuple[dict[str, list[float]], list[float]]

# What every device is judged by: the worth of its update in a round, and of all so far.
SCORE, ACCOUNT = "score", "account"


@dataclass(frozen=True)
class Judge:
    """What measures a campaign.

    Attributes:
        validation: the server's.
        test: judges the releases, and nothing else.
        method: of contributions; coalitions: its budget.
        policy: the reward rule.
        decay: what a round's score counts for, one round later.
    """

    validation: Validation
    test: Samples
    method: str
    coalitions: int
    policy: Rewards
    decay: float


@dataclass(frozen=True)
class Cell:
    """One campaign.

    Attributes:
        partition, seed: of the data.
        kinds: of the riders in it.
    """

    partition: str
    seed: int
    kinds: tuple[str, ...]

    @property
    def name(self) -> str:
        """The kind, or that all were there at once."""
        return self.kinds[0] if len(self.kinds) == 1 else "all together"


@dataclass(frozen=True)
class RiderOutcome:
    """What became of one rider.

    Attributes:
        share: its contribution, in average contributions.
        width: of its release, 0 = none.
        weakest: the narrowest release of an honest device.
        below: whether its contribution is below that of every honest device.
        payoff: accuracy of its release minus what it has alone, 0 without a release.
        held: the same of the model that it held in training.
        detected: the round since which it would have got no release; None = never.
    """

    kind: str
    share: float
    width: float
    weakest: float
    below: bool
    payoff: float
    held: float
    detected: int | None


@dataclass(frozen=True)
class Outcome:
    """A campaign, scored with one setting of novelty.

    Attributes:
        suspicions: by test.
        shares: honest device -> its contribution, in average contributions.
        demoted: honest devices without a release.
        accuracy: of the full model on the test data.
    """

    cell: Cell
    novelty: int
    riders: tuple[RiderOutcome, ...]
    suspicions: dict[str, Suspicions]
    shares: dict[str, float]
    demoted: tuple[str, ...]
    accuracy: float


def run_cell(
    cell: Cell, plan: Plan, own: Sequence[Samples], judge: Judge, novelties: Sequence[int]
) -> list[Outcome]:
    """Run a campaign and return one outcome per setting of novelty.

    Args:
        cell: which.
        plan: how.
        own: samples of each honest device, and in the last place what riders have.
        judge: measures.
        novelties: values of ``contributions.novelty``.
    """
    honest = [Member(f"honest-{at}", samples) for at, samples in enumerate(own[:-1])]
    riders = [Member(f"rider-{kind}", own[-1], kind) for kind in cell.kinds]
    recording = record(plan, [*honest, *sorted(riders, key=lambda member: member.device)])
    kinds = {rider.device: rider.rider for rider in riders}
    after = [*(closed.base for closed in recording.rounds[1:]), recording.final]
    accuracies = _Accuracies(plan, recording.final, judge.test)
    tests = _counter_tests(plan, recording.rounds, kinds)
    own_models = {rider.device: alone_model(plan, rider) for rider in riders}
    alone = {device: accuracy(plan, state, 1.0, judge.test) for device, state in own_models.items()}
    assessed = {}
    if judge.policy.basis == "assessment":
        own_models |= {member.device: alone_model(plan, member) for member in honest}
        assessed = {d: account(plan, one, judge.validation) for d, one in own_models.items()}
    data = judge.validation.samples
    played = _Played(
        recording.rounds,
        _curve(plan, recording.final, judge, cell.seed),
        accuracy(plan, initial_state(plan.model, plan.seed), 1.0, data),
        [accuracy(plan, state, 1.0, data) for state in after],
        assessed,
    )
    found = []
    for novelty in novelties:
        given, judged = _judged(played, plan, judge, kinds, novelty)
        last = {reward.device: reward for reward in given[-1].rewards}
        found.append(
            Outcome(
                cell,
                novelty,
                _rider_outcomes(given, kinds, [one.device for one in honest], accuracies, alone),
                {**judged, **tests},
                {member.device: last[member.device].share for member in honest},
                tuple(m.device for m in honest if not last[m.device].width),
                accuracies[1.0],
            )
        )
    return found


def _rider_outcomes(
    given: Sequence[Allocation],
    kinds: Mapping[str, str],
    honest: Sequence[str],
    accuracies: Mapping[float, float],
    alone: Mapping[str, float],
) -> tuple[RiderOutcome, ...]:
    """Return what became of each rider, of the allocations after every round."""
    widths = [{reward.device: reward.width for reward in one.rewards} for one in given]
    last = {reward.device: reward for reward in given[-1].rewards}
    weakest = min((last[device] for device in honest), key=lambda one: one.share)
    return tuple(
        RiderOutcome(
            kind,
            last[device].share,
            last[device].width,
            weakest.width,
            last[device].share < weakest.share,
            accuracies[last[device].width] - alone[device] if last[device].width else 0.0,
            accuracies[1.0] - alone[device],
            _detected([one[device] for one in widths]),
        )
        for device, kind in kinds.items()
    )


@dataclass(frozen=True)
class _Played:
    """What a campaign leaves to be judged.

    Attributes:
        curve: over width, after the last round.
        untrained, scores: of the initial weights, and at full width after each round.
        assessed: device -> account and score by assessment; empty where the ledger counts.
    """

    rounds: Sequence[RecordedRound]
    curve: Sequence[CurvePoint]
    untrained: float
    scores: Sequence[float]
    assessed: Mapping[str, tuple[Total, float]]


def _judged(
    played: _Played, plan: Plan, judge: Judge, kinds: Mapping[str, str], novelty: int
) -> tuple[list[Allocation], dict[str, Suspicions]]:
    """Return what everybody would have got after each round, and worth as a suspicion.

    The curve is that of the last round throughout: it has no say in who gets nothing.
    """
    ledger, given = Ledger(decay=judge.decay), []
    progress: list[tuple[float, float]] = []
    suspicions: dict[str, Suspicions] = {SCORE: ({}, []), ACCOUNT: ({}, [])}
    for closed, reached in zip(played.rounds, played.scores, strict=True):
        evidence, _ = evidence_of(plan, closed, judge.validation, novelty=novelty)
        rng = np.random.default_rng((plan.seed, closed.number))
        scores = estimate(judge.method, evidence, judge.coalitions, rng)
        ledger = ledger.entered(closed.number, _entries(scores.scores, scores.blocks))
        totals = {device: total.score for device, total in ledger.totals.items()}
        for test, worth in ((SCORE, scores.scores), (ACCOUNT, totals)):
            size = sum(map(abs, worth.values())) or 1.0
            _noted(suspicions[test], {d: -value / size for d, value in worth.items()}, kinds)
        made = sum(scores.scores.values()) + (progress[-1][0] if progress else 0.0)
        progress.append((made, reached))
        claims = [
            Claim(device, *played.assessed[device]) if played.assessed else Claim(device, total)
            for device, total in ledger.totals.items()
        ]
        given.append(
            allocate(claims, played.curve, judge.policy, played.untrained, tuple(progress))
        )
    return given, suspicions


def _curve(plan: Plan, state: ModelState, judge: Judge, seed: int) -> tuple[CurvePoint, ...]:
    data = judge.validation.samples
    said = outputs_per_width(plan.model, state, judge.policy.ladder, judge.validation)
    scores = {width: plan.model.task.sample_scores(said[width], data.y) for width in said}
    return score_curve(scores, data.recording, np.random.default_rng(seed))


class _Accuracies(dict[float, float]):
    """Width -> accuracy of the sub-model, measured when it is asked for."""

    def __init__(self, plan: Plan, state: ModelState, test: Samples) -> None:
        super().__init__()
        self._measure = partial(accuracy, plan, state, test=test)

    def __missing__(self, width: float) -> float:
        self[width] = self._measure(width)
        return self[width]


def _entries(
    scores: Mapping[str, float], blocks: Mapping[str, tuple[float, ...]]
) -> list[Contribution]:
    return [
        Contribution(device=device, score=value, update="", blocks=blocks.get(device, ()))
        for device, value in scores.items()
    ]


def _detected(widths: Sequence[float]) -> int | None:
    """Return the round since which a device gets nothing any more."""
    if widths[-1]:
        return None
    released = [number for number, width in enumerate(widths, start=1) if width]
    return 1 + max(released, default=0)


def _counter_tests(
    plan: Plan, rounds: Sequence[RecordedRound], kinds: Mapping[str, str]
) -> dict[str, Suspicions]:
    """Return what each counter-test suspects, round by round."""
    spec, task = plan.model.spec, plan.model.task
    found: dict[str, Suspicions] = {name: ({}, []) for name in COUNTER_TESTS}
    previous: dict[str, np.ndarray] = {}
    for closed in rounds:
        # Each update by itself: its step is then the whole change, unweighted.
        steps = [steps_of(closed.base, spec, [update])[0] for update in closed.updates]
        deltas = dict(FlatSteps(spec, steps))
        past = {}
        if closed.known:
            last = np.concatenate([closed.known[0][name].ravel() for name in spec.parameters])
            past = dict.fromkeys(deltas, last)
        uploads = Uploads(deltas, past, previous, class_rows(spec, task, steps) or {})
        if closed.known:  # the first round has nothing to compare with
            for name, test in COUNTER_TESTS.items():
                _noted(found[name], test(uploads), kinds)
        previous = deltas
    return found


def _noted(
    into: Suspicions,
    suspicions: Mapping[str, float],
    kinds: Mapping[str, str],
) -> None:
    riders, honest = into
    for device, suspicion in suspicions.items():
        if device in kinds:
            riders.setdefault(kinds[device], []).append(suspicion)
        else:
            honest.append(suspicion)
