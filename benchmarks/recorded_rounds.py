"""Campaigns that are recorded once, so that the same rounds can be scored in several ways.

A plain loop over the code that trains, aggregates and scores in a fleet; nothing else of a fleet
(broker, deadlines, width policy) can change a weight here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordinator.aggregation.rules import steps_of
from coordinator.aggregation.steps import combine
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.contribution.evidence import Evidence
from coordinator.contribution.flat_steps import FlatSteps, class_rows, idle
from coordinator.contribution.novelty import novel_steps
from coordinator.evaluator import RoundEvaluator
from coordinator.measuring import Validation
from slimfleet.simulation.riders import RIDERS, Received, Rider, Seen
from slimmable.evaluation import initial_state
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.state import Array, ModelState
from slimmable.training import DivergenceError, train
from slimmable.training_rule import TrainingRule

REMEMBERED = 2  # earlier changes of the model that scoring may call known


@dataclass(frozen=True)
class Member:
    """One device.

    Attributes:
        samples: its own; a kind that spoils its data does so before it trains.
        rider: key of `RIDERS`, "" = honest.
    """

    device: str
    samples: Samples
    rider: str = ""


@dataclass(frozen=True)
class Plan:
    """How a campaign is run.

    Attributes:
        rule: of local training at full width.
        rounds: how many.
        by_samples: devices train one pass over their samples and count by their claims; else all
            take the rule's steps and count alike.
        seed: of the first weights and of all draws.
        round_decay: each round's learning rate is that of the round before times this.
    """

    model: SlimmableModel
    rule: TrainingRule
    rounds: int
    by_samples: bool
    seed: int
    round_decay: float = 1.0


@dataclass(frozen=True)
class RecordedRound:
    """What a server has in hand when a round closes.

    Attributes:
        number: from 1.
        base: full state that the round started from.
        updates: in the order of the devices' names.
        claims: device -> samples that it says it has.
        known: earlier changes of the model, the latest first.
    """

    number: int
    base: ModelState
    updates: tuple[DeviceUpdate, ...]
    claims: dict[str, int]
    known: tuple[ModelState, ...]


@dataclass(frozen=True)
class Recording:
    """A whole campaign; ``final`` is the state after the last round."""

    rounds: tuple[RecordedRound, ...]
    final: ModelState


def record(plan: Plan, members: Sequence[Member]) -> Recording:
    """Run a campaign; members must stand in the order of their names."""
    spec = plan.model.spec
    state = initial_state(plan.model, plan.seed)
    classes = len(plan.model.task.classes)
    riders = {m.device: RIDERS.get(m.rider, Rider("honest")) for m in members}
    own = {
        m.device: riders[m.device].samples(m.samples, classes, _rng(plan, 0, at))
        for at, m in enumerate(members)
    }
    claims = {m.device: riders[m.device].claim(len(own[m.device])) for m in members}
    received: list[Received] = []
    known: tuple[ModelState, ...] = ()
    rounds = []
    for number in range(1, plan.rounds + 1):
        received.append(Received(1.0, state))
        updates = []
        for at, member in enumerate(members):
            device, rng = member.device, _rng(plan, number, at)
            forge = riders[device].forge
            if forge is not None:
                uploaded = forge(Seen(spec, number, tuple(received), rng))
            else:
                uploaded = trained(plan, state, own[device], rng, number)
            weight = float(claims[device]) if plan.by_samples else 1.0
            updates.append(DeviceUpdate(device, 1.0, uploaded, weight))
        rounds.append(RecordedRound(number, state, tuple(updates), claims, known))
        new = combine(state, spec, steps_of(state, spec, updates))
        change = {name: new[name] - state[name] for name in spec.tensors}
        known, state = (change, *known)[:REMEMBERED], new
    return Recording(tuple(rounds), state)


def trained(
    plan: Plan,
    state: Mapping[str, Array],
    samples: Samples,
    rng: np.random.Generator,
    number: int,
) -> ModelState:
    """Return what a device makes of a state in a round, or the state where it diverges."""
    rule = plan.rule
    steps = math.ceil(len(samples) / rule.batch_size) if plan.by_samples else rule.steps
    rate = rule.learning_rate * plan.round_decay ** (number - 1)
    rule = replace(rule, steps=steps, learning_rate=rate)
    try:
        return train(plan.model, state, 1.0, samples, rule, rng)[0]
    except DivergenceError:
        return dict(state)


def evidence_of(
    plan: Plan, closed: RecordedRound, validation: Validation, *, novelty: int
) -> tuple[Evidence, dict[str, float]]:
    """Return what a recorded round shows, and device -> share of its update that was no news.

    Args:
        plan: of the campaign.
        closed: the round.
        validation: the server's data.
        novelty: so many earlier changes of the model count as known.
    """
    model, spec = plan.model, plan.model.spec
    given = steps_of(closed.base, spec, closed.updates)
    split = novel_steps(spec, given, closed.known[:novelty])
    base, steps = combine(closed.base, spec, split.foreseen), split.steps
    weights = {update.device: update.weight for update in closed.updates}
    evidence = Evidence(
        devices=tuple(step.device for step in steps),
        evaluator=RoundEvaluator(model, base, steps, plan.rule.widths, validation, weights),
        steps=FlatSteps(spec, steps),
        class_rows=class_rows(spec, model.task, steps),
        samples=closed.claims,
        rounds=dict.fromkeys(closed.claims, closed.number),
        idle=idle(steps),
    )
    return evidence, split.shares


def _rng(plan: Plan, round_: int, member: int) -> np.random.Generator:
    return np.random.default_rng((plan.seed, round_, member))
