"""What each device of a campaign with riders reaches without the fleet."""

import numpy as np

from benchmarks.recorded_rounds import Member, Plan, trained
from coordinator.contribution.ledger import Total
from coordinator.measuring import Validation, block_shares, outputs_per_width
from slimfleet.simulation.riders import RIDERS, Rider
from slimmable.evaluation import initial_state, outputs
from slimmable.samples import Samples
from slimmable.slicing import slice_state
from slimmable.state import ModelState


def alone_model(plan: Plan, member: Member) -> ModelState:
    """Return what a device makes of the initial weights; a forger trains nothing."""
    kind = RIDERS.get(member.rider, Rider("honest"))
    state = initial_state(plan.model, plan.seed)
    if kind.forge is not None:
        return state
    rng = np.random.default_rng((plan.seed, 99))
    data = kind.samples(member.samples, len(plan.model.task.classes), rng)
    for number in range(1, plan.rounds + 1):
        state = trained(plan, state, data, rng, number)
    return state


def account(plan: Plan, state: ModelState, validation: Validation) -> tuple[Total, float]:
    """Return a device's account and score by what its own model scores on the server's data."""
    model, data = plan.model, validation.samples
    scores, before = (
        model.task.sample_scores(outputs_per_width(model, one, (1.0,), validation)[1.0], data.y)
        for one in (state, initial_state(model, plan.seed))
    )
    blocks = block_shares(data, model.task) @ scores - before.mean()
    return Total(float(blocks.mean()), tuple(blocks.tolist()), 1), float(scores.mean())


def accuracy(plan: Plan, state: ModelState, width: float, test: Samples) -> float:
    """Return the accuracy of a sub-model of a full state; the network keeps no statistics."""
    said = outputs(plan.model, width, slice_state(state, plan.model.spec, width), test.x)
    return plan.model.task.score(said, test.y)
