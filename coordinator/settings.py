"""What an operator may set about a campaign: read from TOML, kept in the journal."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import msgspec

from broker.messages import TrainingSettings
from slimmable.training_rule import TrainingRule, WidthRule
from slimmable.width import WidthError, WidthGrid

MEASURING_METHOD = "permutation-shapley"
COMPARING_METHOD = "cosine-to-aggregate"
DAY_S = 86400.0
OPTIONS_LIMIT = 8192  # bytes; every task repeats the options, and a task is a control message


class SettingsError(ValueError):
    """The settings contradict themselves. Change the setting that the message names."""


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyper-parameters of local training; the widths are the training grid.

    Attributes:
        steps: gradient steps of a round, the same for every device.
        epochs: where above 0, each device takes so many passes over its own samples instead; how
            many it has is its own claim.
        batch_size: samples a step.
        learning_rate, momentum, weight_decay: of SGD.
        round_decay: each aggregated round's learning rate is that of the round before times this.
        gradient_norm: longer gradients are shortened to this; 0 = none.
        rule, random_widths, draw_weights, distillation: which widths a step trains, see
            `slimmable.training_rule.TrainingRule`.
    """

    steps: int = 16
    epochs: float = 0.0
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    round_decay: float = 1.0
    gradient_norm: float = 0.0
    rule: WidthRule = WidthRule.ORDERED_DROPOUT
    random_widths: int = 2
    draw_weights: tuple[float, ...] = ()
    distillation: float = 0.0


class Rounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When rounds open, close and end.

    Attributes:
        budget: aggregated rounds at most; minimum: such rounds before a plateau may stop training.
        patience: rounds without a significant improvement that make a plateau.
        deadline_s: from the opening of a round until updates are late.
        quorum: updates without which a round does not count.
        min_devices: devices to hear from (their profile is judged) before the first round.
        gather_s: so long after the first device that can train, the first round opens with whoever
            makes the quorum.
        release_every: rounds between releases while training goes on; 0 = one release at the end.
        retry_s: pause after a round that missed its quorum; failures_limit: how many in a row.
    """

    budget: int = 12
    minimum: int = 10
    patience: int = 4
    deadline_s: float = 60.0
    quorum: int = 2
    min_devices: int = 2
    gather_s: float = 120.0
    release_every: int = 0
    retry_s: float = 30.0
    failures_limit: int = 10


class WidthPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the deadline and of the memory budget a prediction may use."""

    time_share: float = 0.8
    memory_share: float = 0.9


class Contributions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How contributions are measured.

    Attributes:
        method: a name of `coordinator.contribution.methods`. The default measures coalitions, which
            devices cannot: with evaluator = "devices" it stands for "cosine-to-aggregate".
        coalitions: models evaluated a round at most, where the method can be held to it.
        widths: of the training grid at which each of them is measured, at most: the narrowest, the
            widest that was trained and some between; 0 = all.
        evaluator: "server" measures on its own validation recordings; "devices" evaluate each width
            that they are permitted on recordings they hold back, and report.
        trim: with evaluator = "devices", share of the reports that is cut off at either end.
        decay: what a round's score counts for, one round later; 1 = old rounds count fully.
        novelty: so many earlier steps of the model count as known: what of an update only repeats
            them earns nothing. 0 = off.
        alone_steps: gradient steps that each device first trains alone, so that its own model can
            be measured and rewards can be held above it; 0 = nobody trains alone.
    """

    method: str = MEASURING_METHOD
    coalitions: int = 32
    widths: int = 0
    evaluator: Literal["server", "devices"] = "server"
    trim: float = 0.2
    decay: float = 1.0
    novelty: int = 1
    alone_steps: int = 0

    def __post_init__(self) -> None:
        """Replace a default that the evaluator cannot serve."""
        if self.evaluator == "devices" and self.method == MEASURING_METHOD:
            msgspec.structs.force_setattr(self, "method", COMPARING_METHOD)


class Rewards(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How contributions become widths; see `coordinator.rewards`.

    Attributes:
        mode: "post-training": devices hold their training width while training; "training-time":
            in no round more than they are entitled to by then.
        basis: what earns: "ledger", what the updates of all rounds were worth; "assessment", what
            the model that a device trained alone scored above the untrained one.
        rule: "equal-gain", "affine", "nash-welfare", "sharing-coefficient" or "tiers".
        ladder: the reward widths; finer than the training grid.
        cutoff: below this fraction of the average contribution a device receives no release.
        proof: below this fraction a contribution must be significantly above 0 to earn one.
        significance: level of the tests; contributions that do not differ at it get one width.
        aversion: of equal-gain, how much unequal gains weigh against high ones (lambda).
        sharing: of sharing-coefficient, kappa: 0 in proportion, 1 the same for all.
        tiers: of the rule "tiers", pairs of (least share of the average contribution, width).
        first_entitlement: training-time: widest training width of round 1; 0 = the narrowest.
        min_trainers: a width leaves the ladder where fewer devices trained one at least as wide.
        inference_only_width: what the operator grants to devices that cannot train; 0 = nothing.
        caps: device -> widest width that the operator lets it run, whatever it has earned.
    """

    mode: Literal["post-training", "training-time"] = "post-training"
    basis: Literal["ledger", "assessment"] = "ledger"
    rule: Literal["equal-gain", "affine", "nash-welfare", "sharing-coefficient", "tiers"] = (
        "equal-gain"
    )
    ladder: tuple[float, ...] = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    cutoff: float = 0.02
    proof: float = 0.25
    significance: float = 0.05
    aversion: float = 5.0
    sharing: float = 0.0
    tiers: tuple[tuple[float, float], ...] = ()
    first_entitlement: float = 0.0
    min_trainers: int = 1
    inference_only_width: float = 0.0
    caps: dict[str, float] = {}


class Presence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lease of a device.

    Attributes:
        heartbeat_s: how often devices say that they are alive.
        late_after, offline_after: in heartbeats without a sign of life.
        grace_s: how long a last will (a hint) is given before the device counts as offline.
    """

    heartbeat_s: float = 30.0
    late_after: float = 2.0
    offline_after: float = 3.5
    grace_s: float = 10.0


class Releases(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of trained weights.

    Attributes:
        valid_days: signed documents expire after this.
        delivery_s: how long devices have to confirm before the campaign is called finished.
        attempts: tries of a failing export before the release is withheld.
    """

    valid_days: float = 90.0
    delivery_s: float = 600.0
    attempts: int = 3


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides how a campaign goes.

    Attributes:
        fleet: name of the fleet; part of every topic.
        model, options: which network, see `slimmable.model.load_model`.
        widths: the training grid.
        weighting: of updates in the aggregate. "uniform" because the number of samples is only
            the device's own claim; "samples" is FedAvg's rule.
        secure_aggregation: not offered together with contributions; see `check`.
        block_size: bytes per block, never above the broker's limit.
        telemetry_days: how long telemetry is kept; events are kept for ever.
    """

    fleet: str
    model: str
    options: dict[str, Any] = {}
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    seed: int = 0
    weighting: Literal["uniform", "samples"] = "uniform"
    secure_aggregation: bool = False
    block_size: int = 262144
    telemetry_days: float = 30.0
    training: Training = Training()
    rounds: Rounds = Rounds()
    width_policy: WidthPolicy = WidthPolicy()
    contributions: Contributions = Contributions()
    rewards: Rewards = Rewards()
    presence: Presence = Presence()
    releases: Releases = Releases()

    def check(self) -> "Settings":
        """Return self if the settings make sense together.

        Raises:
            SettingsError: they contradict each other; the message names the setting.
        """
        if self.secure_aggregation:
            raise SettingsError(
                "secure_aggregation hides the single updates that contributions and rewards need:"
                " the two are exclusive; set secure_aggregation = false"
            )
        for name, number in _numbers(msgspec.to_builtins(self)):
            if not math.isfinite(number):
                raise SettingsError(f"{name} = {number} must be a finite number")
        for name, widths in (("widths", self.widths), ("rewards.ladder", self.rewards.ladder)):
            try:
                WidthGrid(widths)
            except WidthError as error:
                raise SettingsError(f"{name}: {error}") from error
        positive = {
            "rounds.budget": self.rounds.budget,
            "rounds.quorum": self.rounds.quorum,
            "rounds.min_devices": self.rounds.min_devices,
            "rounds.deadline_s": self.rounds.deadline_s,
            "training.steps": self.training.steps,
            "training.batch_size": self.training.batch_size,
            "training.learning_rate": self.training.learning_rate,
            "training.round_decay": self.training.round_decay,
            "presence.heartbeat_s": self.presence.heartbeat_s,
            "contributions.coalitions": self.contributions.coalitions,
            "telemetry_days": self.telemetry_days,
            "rewards.min_trainers": self.rewards.min_trainers,
            "rewards.significance": self.rewards.significance,
            "rewards.aversion": self.rewards.aversion,
            "contributions.decay": self.contributions.decay,
            "rounds.patience": self.rounds.patience,
            "rounds.failures_limit": self.rounds.failures_limit,
            "width_policy.time_share": self.width_policy.time_share,
            "width_policy.memory_share": self.width_policy.memory_share,
            "presence.late_after": self.presence.late_after,
            "releases.valid_days": self.releases.valid_days,
            "releases.attempts": self.releases.attempts,
        }
        for name, value in positive.items():
            if value <= 0:
                raise SettingsError(f"{name} = {value} must be above 0")
        self._check_bounds()
        self.training_rule()
        return self

    def _check_bounds(self) -> None:
        not_negative = {
            "seed": self.seed,
            "training.epochs": self.training.epochs,
            "training.momentum": self.training.momentum,
            "training.weight_decay": self.training.weight_decay,
            "rounds.minimum": self.rounds.minimum,
            "rounds.gather_s": self.rounds.gather_s,
            "rounds.release_every": self.rounds.release_every,
            "rounds.retry_s": self.rounds.retry_s,
            "rewards.cutoff": self.rewards.cutoff,
            "rewards.proof": self.rewards.proof,
            "rewards.sharing": self.rewards.sharing,
            "contributions.trim": self.contributions.trim,
            "contributions.novelty": self.contributions.novelty,
            "contributions.widths": self.contributions.widths,
            "contributions.alone_steps": self.contributions.alone_steps,
            "presence.grace_s": self.presence.grace_s,
            "releases.delivery_s": self.releases.delivery_s,
        }
        for name, number in not_negative.items():
            if number < 0:
                raise SettingsError(f"{name} = {number} must not be below 0")
        if self.training.momentum >= 1:
            raise SettingsError(f"training.momentum = {self.training.momentum} must be below 1")
        if self.training.round_decay > 1:
            raise SettingsError(
                f"training.round_decay = {self.training.round_decay} must be at most 1"
            )
        for name, share in (
            ("time_share", self.width_policy.time_share),
            ("memory_share", self.width_policy.memory_share),
        ):
            if share > 1:
                raise SettingsError(f"width_policy.{name} = {share} must be at most 1")
        self._check_evaluator()
        self._check_rewards()
        if self.presence.offline_after < self.presence.late_after:
            raise SettingsError(
                f"presence.offline_after = {self.presence.offline_after} must not be below"
                f" presence.late_after = {self.presence.late_after}"
            )
        if not 1024 <= self.block_size <= 262144:
            raise SettingsError(f"block_size = {self.block_size} must be in 1024..262144")
        size = len(msgspec.msgpack.encode(self.options))
        if size > OPTIONS_LIMIT:
            raise SettingsError(
                f"options are {size} bytes, at most {OPTIONS_LIMIT} travel in a task:"
                " let the model's function know the rest"
            )

    def _check_evaluator(self) -> None:
        chosen = self.contributions
        if chosen.trim >= 0.5:
            raise SettingsError(
                f"contributions.trim = {chosen.trim} must be below 0.5: it is cut off at both ends"
            )
        if chosen.evaluator == "devices" and chosen.alone_steps:
            raise SettingsError(
                "contributions.alone_steps needs validation data on the server, which evaluator ="
                ' "devices" does without: set alone_steps = 0'
            )

    def _check_rewards(self) -> None:
        rewards, ladder = self.rewards, self.rewards.ladder
        for name, share in (
            ("contributions.decay", self.contributions.decay),
            ("rewards.sharing", rewards.sharing),
        ):
            if share > 1:
                raise SettingsError(f"{name} = {share} must be at most 1")
        if rewards.basis == "assessment" and not self.contributions.alone_steps:
            raise SettingsError(
                'rewards.basis = "assessment" needs an assessment: set contributions.alone_steps to'
                " about training.steps times rounds.budget"
            )
        if rewards.significance >= 1:
            raise SettingsError(f"rewards.significance = {rewards.significance} must be below 1")
        if rewards.inference_only_width not in (0.0, *ladder):
            raise SettingsError("rewards.inference_only_width must be 0 or a width of the ladder")
        if rewards.first_entitlement not in (0.0, *self.widths):
            raise SettingsError(
                f"rewards.first_entitlement = {rewards.first_entitlement} must be 0 or one of the"
                f" widths {self.widths}"
            )
        for device, cap in rewards.caps.items():
            if not 0 <= cap <= 1:
                raise SettingsError(f"rewards.caps: {cap} for {device} must be a width, 0 to 1")
        self._check_tiers()

    def _check_tiers(self) -> None:
        tiers, ladder = self.rewards.tiers, self.rewards.ladder
        if (self.rewards.rule == "tiers") != bool(tiers):
            raise SettingsError(
                f'rewards.tiers has {len(tiers)} tiers with rewards.rule = "{self.rewards.rule}":'
                ' the rule "tiers" needs at least one, such as [0.5, 0.25], and no other has any'
            )
        for least, width in tiers:
            if least < 0 or width not in ladder:
                raise SettingsError(
                    f"rewards.tiers: [{least}, {width}] must be a share of at least 0 and a width"
                    f" of rewards.ladder {ladder}"
                )
        for (least, width), (more, wider) in pairwise(tiers):
            if more <= least or wider < width:
                raise SettingsError(
                    f"rewards.tiers: [{more}, {wider}] after [{least}, {width}] must have a larger"
                    " share, and a width that is not narrower"
                )

    def training_rule(self) -> TrainingRule:
        """Return the rule of local training.

        Raises:
            SettingsError: no training can go by it.
        """
        try:
            return TrainingRule(widths=self.widths, **self._of_one_training())
        except ValueError as error:
            raise SettingsError(f"training: {error}") from error

    def training_settings(self) -> TrainingSettings:
        """Return the hyper-parameters of the first round as they travel in a task."""
        return TrainingSettings(widths=self.widths, **self._of_one_training())

    def _of_one_training(self) -> dict[str, Any]:
        """Return what of the hyper-parameters one training goes by.

        How long each device trains, and how the rate falls from round to round, is decided in
        `coordinator.local_training`.
        """
        known = msgspec.structs.asdict(self.training)
        return {name: one for name, one in known.items() if name not in ("epochs", "round_decay")}


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number in plain data with its dotted name."""
    if isinstance(value, int | float):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part, name)


def changed_settings(old: Settings, new: Settings) -> list[str]:
    """Return one line per setting that differs, for example "rounds.budget: 12 -> 14"."""
    return _changes(msgspec.to_builtins(old), msgspec.to_builtins(new), "")


def _changes(old: Any, new: Any, where: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted({*old, *new}):
            inner = f"{where}.{name}" if where else str(name)
            found += _changes(old.get(name), new.get(name), inner)
        return found
    return [] if old == new else [f"{where}: {old} -> {new}"]
