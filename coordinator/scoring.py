"""The job that aggregates a round, measures every width and scores every device."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.aggregation.readers import ChangeReader, WholeChanges
from coordinator.aggregation.rules import admitted, put_together
from coordinator.aggregation.server_optimiser import Move, move
from coordinator.aggregation.steps import Step
from coordinator.bench import Bench, RoundResult, ScoreJob
from coordinator.bench_loading import load_bench_model, load_validation
from coordinator.comparison import difference
from coordinator.contribution.entries import entries
from coordinator.contribution.evidence import Evidence
from coordinator.contribution.flat_steps import FlatSteps, class_rows, idle
from coordinator.contribution.methods import METHODS, estimate
from coordinator.contribution.novelty import split_steps
from coordinator.controlling import Controlled, control
from coordinator.curve import TrainedWidths, score_curve
from coordinator.distilling import distil
from coordinator.evaluator import RoundEvaluator
from coordinator.knowledge_round import pool_knowledge
from coordinator.measuring import Validation, outputs_per_width, sample_values
from coordinator.step_room import StepRoom
from coordinator.untrained import untrained
from coordinator.update_file import stored_change
from journal.blobs import BlobFolder
from journal.events import CurvePoint, Distilled
from slimmable.evaluation import calibrate
from slimmable.model import SlimmableModel
from slimmable.slicing import coverage
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState, decode_state, encode_state
from slimmable.width import spread_out


def score_round(bench: Bench, job: ScoreJob) -> RoundResult:
    """Aggregate the updates, measure every width, and score every device.

    What the server teaches the aggregate is nobody's contribution: devices are scored before it,
    and the curve is measured after it.

    Without validation data nothing is measured: the result has no curve and no values.
    """
    if bench.exchange != "weights":
        return pool_knowledge(bench, job)
    started = time.process_time()
    model, blobs = load_bench_model(bench), BlobFolder(bench.blobs, owner=False)
    validation = load_validation(bench)
    base = decode_state(blobs.get(job.base))
    changes = [stored_change(blobs, model.spec, one, job.private) for one in job.updates]
    room = StepRoom(bench.blobs) if _needs_steps(job) else None
    made = put_together(base, model.spec, changes, job.aggregation, room)
    memory = decode_state(blobs.get(job.optimiser)) if job.optimiser else {}
    places = {change.place for change in changes}
    moved = move(job.aggregation.server, base, model.spec, made.change, places, memory)
    state = moved.state(made.change)
    broken = [name for name in model.spec.parameters if not np.isfinite(state[name]).all()]
    if broken:
        raise ValueError(f"the aggregate of round {job.round} is not finite in {broken[0]!r}")
    rng = np.random.default_rng((bench.seed, job.round))
    controlled = control(model.spec, blobs, base, changes, made.steps, job)
    credit = _credit(model, blobs, job, base, controlled, moved)
    evidence = _evidence(model, credit, bench, job, validation)
    scores = estimate(job.method, evidence, job.coalitions, rng)
    state, distilled = _distilled(bench, job, model, base, changes, state)
    curve: tuple[CurvePoint, ...] = ()
    better = False
    if validation:
        before = _values_of(bench, job.best, validation)
        curve, better, values = _measured(model, state, before, bench, job, validation, rng)
        state = _calibrated_at_full(model, state, validation)
        digest = blobs.put(encode_state(state))
        _remember({(bench.blobs, job.best): before, (bench.blobs, digest): values})
    else:
        digest = blobs.put(encode_state(state))
    return RoundResult(
        digest=digest,
        curve=curve,
        contributions=entries(job.updates, scores, credit.shares),
        method=scores.method,
        value_before=scores.before,
        value_after=scores.after,
        coalitions=scores.evaluations,
        seconds=time.process_time() - started,
        better=better,
        optimiser=blobs.put(encode_state(moved.memory)) if moved.memory else "",
        distilled=distilled,
        variates=controlled.variates,
    )


def _distilled(
    bench: Bench,
    job: ScoreJob,
    model: SlimmableModel,
    base: ModelState,
    changes: Sequence[ChangeReader],
    state: ModelState,
) -> tuple[ModelState, Distilled | None]:
    """Return the aggregate after it was taught, where the settings want that."""
    if bench.distillation.rule == "none":
        return state, None
    ordered = admitted(base, model.spec, changes, job.aggregation)
    return distil(bench, job.round, model, base, WholeChanges(base, model.spec, ordered), state)


def _needs_steps(job: ScoreJob) -> bool:
    """Return whether anybody asks what each device changed: it takes room that the sum does not."""
    method = METHODS.get(job.method)
    asked = method is None or method.needs_steps
    return asked or bool(job.known or job.known_to_late) or job.control is not None


@dataclass(frozen=True)
class _Credit:
    """What the devices are credited for.

    Attributes:
        base: full state that belongs to nobody: what the round started from, what the server's
            optimiser added of earlier rounds, and what it foresaw.
        steps: what is new in each device's step, at the size at which it counts; empty where nobody
            asks.
        shares: device -> share of its step that was foreseen.
    """

    base: ModelState
    steps: tuple[Step, ...]
    shares: Mapping[str, float] = field(default_factory=dict)


def _credit(
    model: SlimmableModel,
    blobs: BlobFolder,
    job: ScoreJob,
    base: ModelState,
    controlled: Controlled,
    moved: Move,
) -> _Credit:
    """Split the steps by what the model's own last changes, and the server's orders, foretold.

    Whoever repeats such a change repeats it as it was seen: the steps are split before the server's
    optimiser scales them. What is new overwrites the step: there is no room for both.
    """
    spec, steps = model.spec, controlled.own
    if not steps:
        return _Credit(moved.base, ())
    digests = (*job.known, *job.known_to_late)
    states = [base, *(decode_state(blobs.get(digest)) for digest in digests)]
    known = [
        {name: after[name] - before[name] for name in spec.parameters}
        for after, before in itertools.pairwise(states)
    ]
    # A round that corrects gradients has no late updates, so that ``back`` leaves nothing out.
    back = {one.player: len(job.known) + one.staleness for one in job.updates}
    sent = controlled.sent if known else {}  # contributions.novelty = 0 looks at nothing
    known += controlled.known if known else []
    nobodys = {name: np.array(array, copy=True) for name, array in moved.base.items()}
    for step in controlled.rest:
        _add(nobodys, spec, step, moved.scaled(spec, step.place, step.change))
    shares: dict[str, float] = {}
    late = back if job.known_to_late else None
    for part in split_steps(spec, steps, known, sent, late):
        step = part.step
        shares[step.device] = part.share
        if known:
            _add(nobodys, spec, step, moved.scaled(spec, step.place, part.foreseen))
        for name, array in moved.scaled(spec, step.place, part.novel).items():
            np.copyto(step.change[name], array)
    return _Credit(nobodys, tuple(steps), shares)


def _add(state: ModelState, spec: WidthSpec, step: Step, change: Mapping[str, Array]) -> None:
    for name, array in change.items():
        state[name][coverage(spec, name, *step.place)] += array


def _evidence(
    model: SlimmableModel,
    credit: _Credit,
    bench: Bench,
    job: ScoreJob,
    validation: Validation | None,
) -> Evidence:
    """Gather what contributions are estimated from; only what is new in a step counts."""
    claims: dict[str, Any] = {
        "devices": tuple(sorted(update.player for update in job.updates)),
        "samples": {update.player: update.samples for update in job.updates},
        "rounds": {update.player: update.rounds for update in job.updates},
    }
    steps = credit.steps
    if not steps:
        return Evidence(**claims)
    weights = {update.player: update.weight for update in job.updates}
    # What a step does to a width that nobody trained is chance, and would drown what it was for.
    widest = max(1.0 if update.window.moves else update.width for update in job.updates)
    trained = spread_out([width for width in bench.grid if width <= widest], job.widths)
    return Evidence(
        **claims,
        evaluator=(
            RoundEvaluator(model, credit.base, steps, trained, validation, weights)
            if validation
            else None
        ),
        steps=FlatSteps(model.spec, steps),
        class_rows=class_rows(model.spec, model.task, steps),
        idle=idle(steps),
    )


def _measured(
    model: SlimmableModel,
    state: ModelState,
    before: Array,
    bench: Bench,
    job: ScoreJob,
    validation: Validation,
    rng: np.random.Generator,
) -> tuple[tuple[CurvePoint, ...], bool, Array]:
    """Return score over width, whether that is significantly better, and the sample values.

    Args:
        model: the model.
        state: what is measured.
        before: (N,) sample values of the best weights so far.
        bench: widths.
        job: the round.
        validation: the data.
        rng: of the intervals.
    """
    data = validation.samples
    said = outputs_per_width(model, state, sorted({*bench.grid, *bench.ladder}), validation)
    values = sample_values(model, said, bench.grid, data)
    gain = difference(values, before, data.recording, rng)
    scores = {width: model.task.sample_scores(said[width], data.y) for width in said}
    trained = TrainedWidths(
        (*(update.reach or update.width for update in job.updates), *job.absent_widths),
        min(bench.grid),
        job.min_trainers,
    )
    curve = score_curve(scores, data.recording, rng, trained, untrained(bench).scores)
    return curve, gain.low > 0, values


def _calibrated_at_full(
    model: SlimmableModel, state: ModelState, validation: Validation
) -> ModelState:
    """Return the state with the statistics of its full width, for whoever loads it as it is."""
    return {**state, **calibrate(model, 1.0, state, validation.samples.x)}


_values: dict[tuple[Path, str], Array] = {}


def _values_of(bench: Bench, digest: str, validation: Validation) -> Array:
    """Return the sample values (N,) of stored weights, measured where they are not remembered.

    The best weights so far are most often those of the round before, which were just measured, or
    the initial ones.
    """
    known = _values.get((bench.blobs, digest))
    if known is not None:
        return known
    if digest == untrained(bench).digest:
        return untrained(bench).values
    model = load_bench_model(bench)
    state = decode_state(BlobFolder(bench.blobs, owner=False).get(digest))
    said = outputs_per_width(model, state, bench.grid, validation)
    return sample_values(model, said, bench.grid, validation.samples)


def _remember(values: dict[tuple[Path, str], Array]) -> None:
    """Remember these sample values, and no others."""
    _values.clear()
    _values.update(values)
