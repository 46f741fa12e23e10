"""Aequa (ICML 2025) as Slimfleet has it: one slimmable network, the width is the reward.

The campaign is played by `slimfleet.simulation`: the coordinator and the agents of a real fleet, a
broker in memory and a clock that jumps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from benchmarks.fairness.fleet import (
    EPOCHS,
    GRADIENT_NORM,
    MOMENTUM,
    ROUND_DECAY,
    Fleet,
    Rewards,
)
from coordinator.claims import Claim
from coordinator.contribution.ledger import Ledger, Total
from coordinator.rewards import allocate
from coordinator.settings import Contributions, Rounds, Settings, Training
from coordinator.settings import Rewards as RewardSettings
from journal.events import (
    AnyEvent,
    Contribution,
    CurvePoint,
    RoundOpened,
    RoundScored,
    UpdateAccepted,
)
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimfleet.simulation.errors import SimulationError
from slimmable.cost import payload_bytes
from slimmable.spec import WidthSpec
from slimmable.state import ModelState
from slimmable.training import DivergenceError
from slimmable.training_rule import WidthRule

# A width that is not trained itself is worse than a narrower one that is: what is trained is what
# is offered, more densely where accuracy changes faster.
GRID = tuple(n / 32 for n in (*range(1, 17), 18, 20, 24, 28, 32))
# The narrowest and the full width in every step, and one drawn from those between: ordered dropout
# would train the full width in one step of twenty-one.
RULE, BETWEEN = WidthRule.SANDWICH, 1
COALITIONS = 12  # models that are measured for the contributions of a round
MEASURED_WIDTHS = 3  # of each
CONTRIBUTIONS = Contributions(coalitions=COALITIONS, widths=MEASURED_WIDTHS)


@dataclass(frozen=True)
class Variant:
    """One way to allocate what one training brought.

    Attributes:
        contribution: "alone" (stand-alone accuracy, the paper's surrogate) or "ledger" (the
            product's default, summed over the rounds).
        assessed: whether the allocation knows what each participant scores alone.
        ties: whether participants that do not differ significantly get one width.
        rule: of `coordinator.reward_rules`.
    """

    contribution: str
    assessed: bool
    ties: bool = True
    rule: str = "equal-gain"


VARIANTS = {
    "aequa": Variant("alone", assessed=True),
    "aequa, no ties": Variant("alone", assessed=True, ties=False),
    "aequa, affine": Variant("alone", assessed=True, ties=False, rule="affine"),
    "aequa, ledger": Variant("ledger", assessed=True),
    "aequa, shares": Variant("ledger", assessed=False),
}
TRAINING_TIME = "aequa, in training"
TOO_FAST = "lower the learning rate"  # what a device reports of a training that diverged


class Alone(msgspec.Struct, frozen=True):
    """What a participant's own model scored on the server's validation data; blocks: (B,)."""

    score: float
    blocks: tuple[float, ...]


class Standing(msgspec.Struct, frozen=True):
    """All that rewards follow from once training is over; it goes into the result file.

    Attributes:
        untrained: score of the initial weights.
        curve: measured over width after the last round.
        rounds: the contributions of each scored round, without the digests of the updates.
        progress: see `coordinator.learning_curve`.
        sent, received, published: bytes until then.
    """

    untrained: float
    curve: tuple[CurvePoint, ...]
    rounds: tuple[tuple[Contribution, ...], ...]
    progress: tuple[tuple[float, float], ...]
    sent: int
    received: int
    published: int


@dataclass(frozen=True)
class Trained:
    """A campaign whose training is over.

    Attributes:
        standing: of all participants; weights: full width, of the last round.
        seconds: CPU time of measuring and contributions, which no other method here has.
        method: how contributions were measured.
    """

    standing: Standing
    weights: ModelState
    seconds: float
    method: str


def settings_of(fleet: Fleet, mode: str) -> Settings:
    """Return the campaign's settings; what is not named here is the product's default."""
    return Settings(
        fleet="fairness",
        model=fleet.task.model,
        options=dict(fleet.task.options),
        widths=GRID,
        seed=fleet.seed,
        weighting="samples",  # FedAvg's rule, as the FedAvg that it is held against
        training=Training(
            epochs=EPOCHS,
            batch_size=fleet.task.batch_size,
            learning_rate=fleet.rate,
            momentum=MOMENTUM,
            weight_decay=0.0,
            round_decay=ROUND_DECAY,
            gradient_norm=GRADIENT_NORM,
            rule=RULE,
            random_widths=BETWEEN,
        ),
        rounds=Rounds(
            budget=fleet.rounds,
            minimum=fleet.rounds,
            quorum=1,
            min_devices=len(fleet),
            deadline_s=1e6,
        ),
        contributions=CONTRIBUTIONS,
        rewards=RewardSettings(
            mode=mode,  # type: ignore[arg-type]
            ladder=GRID,
            first_entitlement=GRID[len(GRID) // 2],
        ),
    )


def train(fleet: Fleet, mode: str, folder: Path) -> Trained:
    """Play one campaign until rewards are due.

    Args:
        fleet: the participants.
        mode: of rewards, "post-training" or "training-time".
        folder: takes journal and data; it must be empty.

    Raises:
        DivergenceError: every training became infinite.
        SimulationError: the campaign cannot be played for another reason.
    """
    own = fleet.parts.own
    devices = [SimulatedDevice(name_of(who), samples) for who, samples in enumerate(own)]
    if fleet.rider:
        # Its samples are only counted: what it sends is forged.
        devices.append(SimulatedDevice(name_of(len(own)), own[0], rider=fleet.rider))
    try:
        found = simulate(settings_of(fleet, mode), devices, fleet.parts.validation, folder)
    except SimulationError as error:
        if TOO_FAST in str(error):
            raise DivergenceError(str(error)) from error
        raise
    events = [msgspec.json.decode(record.payload, type=AnyEvent) for record in found.records]
    opened = [event for event in events if isinstance(event, RoundOpened)]
    widths = [[task.width for task in event.tasks] for event in opened]
    size = {
        width: payload_bytes(fleet.model.spec, width) for width in {w for ws in widths for w in ws}
    }
    scored = [event for event in events if isinstance(event, RoundScored)]
    standing = Standing(
        untrained=found.state.untrained,
        curve=scored[-1].curve,
        rounds=tuple(
            tuple(msgspec.structs.replace(one, update="") for one in event.contributions)
            for event in scored
        ),
        progress=found.state.progress,
        sent=sum(event.size for event in events if isinstance(event, UpdateAccepted)),
        received=sum(size[width] for one in widths for width in one),
        published=sum(size[width] for one in widths for width in {*one}),
    )
    seconds = sum(event.seconds for event in scored)
    return Trained(standing, found.final, seconds, scored[-1].method)


def post_training(
    standing: Standing, alone: Sequence[Alone], spec: WidthSpec, weights: ModelState
) -> dict[str, Rewards]:
    """Return what each variant allocates after one and the same training.

    Args:
        standing: after that training.
        alone: of each participant.
        spec: of the network.
        weights: what the training ended with.
    """
    return {
        name: _rewards(standing, alone, variant, spec, weights)
        for name, variant in VARIANTS.items()
    }


def in_training(trained: Trained, alone: Sequence[Alone], spec: WidthSpec) -> Rewards:
    """Return what is allocated after a training that was itself rewarded in every round."""
    variant = VARIANTS["aequa, ledger"]
    return _rewards(trained.standing, alone, variant, spec, trained.weights)


def _claims(standing: Standing, variant: Variant, alone: Sequence[Alone]) -> list[Claim]:
    ledger = Ledger(decay=CONTRIBUTIONS.decay)
    for number, contributions in enumerate(standing.rounds, start=1):
        ledger = ledger.entered(number, contributions)
    claims = []
    for who, own in enumerate(alone):
        device = name_of(who)
        total = ledger.totals[device]
        if variant.contribution == "alone":
            above = tuple(block - standing.untrained for block in own.blocks)
            total = Total(own.score - standing.untrained, above, 1)
        if not variant.ties:
            total = replace(total, blocks=())
        claims.append(Claim(device, total, own.score if variant.assessed else None))
    return claims


def _rewards(
    standing: Standing,
    alone: Sequence[Alone],
    variant: Variant,
    spec: WidthSpec,
    weights: ModelState,
) -> Rewards:
    policy = RewardSettings(ladder=GRID, rule=variant.rule)  # type: ignore[arg-type]
    claims = _claims(standing, variant, alone)
    allocation = allocate(claims, standing.curve, policy, standing.untrained, standing.progress)
    widths = tuple(reward.width for reward in allocation.rewards)  # in the order of the ids
    size = {width: payload_bytes(spec, width) for width in {*widths} - {0.0}}
    return Rewards(
        models=tuple(weights if width else None for width in widths),
        widths=widths,
        sent=standing.sent,
        received=standing.received + sum(size[width] for width in widths if width),
        published=standing.published + sum(size.values()),
        notes={
            "rule": allocation.rule,
            "note": allocation.note,
            "target": [reward.target for reward in allocation.rewards],
            "share": [reward.share for reward in allocation.rewards],
            "equals": [len(reward.equals) for reward in allocation.rewards],
            "reason": [reward.reason for reward in allocation.rewards],
        },
    )


def name_of(who: int) -> str:
    """Return a participant's device id; ids are in the order of the participants."""
    return f"device-{who:02}"
