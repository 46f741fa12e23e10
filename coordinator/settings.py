"""What an operator may set about a campaign: read from TOML, kept in the journal."""

import math
from typing import Any, Literal

import msgspec

from broker.messages import TrainingSettings
from coordinator.selection import Policy
from coordinator.settings_checks import SettingsError as SettingsError  # noqa: PLC0414
from coordinator.settings_checks import check_settings
from slimmable.training_rule import TrainingRule, WidthRule
from slimmable.window import WindowKind

MEASURING_METHOD = "permutation-shapley"
COMPARING_METHOD = "cosine-to-aggregate"
DAY_S = 86400.0
# Of the hyper-parameters: what no device is told.
OF_THE_SERVER = ("epochs", "round_decay", "window", "control")
Encoding = Literal["float32", "float16", "bfloat16", "int8", "top-k", "adaptive"]


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the server signs a checkpoint of its journal; no part of a campaign.

    Attributes:
        events: after so many further events; minutes: or after so long, if there is any.
        pause_s: but never sooner than this after the last one, so that a large fleet's devices have
            not too many to keep. Only rewards and a start of the server do not wait.
    """

    events: int = 1000
    minutes: float = 10.0
    pause_s: float = 30.0

    def check(self) -> "AuditSettings":
        """Return these settings if they make sense.

        Raises:
            SettingsError: they do not; says which.
        """
        if self.events < 1:
            raise SettingsError(f"audit.events = {self.events} must be at least 1")
        if not 0 < self.minutes < math.inf:
            raise SettingsError(f"audit.minutes = {self.minutes} must be above 0")
        if not 0 <= self.pause_s < math.inf:
            raise SettingsError(f"audit.pause_s = {self.pause_s} must not be below 0")
        return self


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
        proximal: how strongly a device's weights are drawn back to those it received (FedProx).
        masked_loss: whether classes that a device does not have are left out of its loss.
        control: "scaffold": each gradient is corrected by what the server knows of the device's
            and of everybody's, see `coordinator.aggregation.control_variates`; or "none".
        private: patterns of tensors that every device keeps to itself, such as "fc.*" for the head
            (FedRep) or "features.*" for the extractor (LG-FedAvg); see `slimmable.private_parts`.
        private_steps: so many of the steps come first and train only what is private, the others
            only the rest; 0 = all is trained together. A device with fewer steps takes the same
            share of them.
        rule, random_widths, draw_weights, widest_share, distillation: which widths a step trains,
            see `slimmable.training_rule.TrainingRule`.
        scaler: whether what a slice's layers give is divided by its width while training.
        window: which channels the slices of a round hold: "prefix", "rolling" or "random", see
            `slimmable.window`.
    """

    steps: int = 16
    epochs: float = 0.0
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    round_decay: float = 1.0
    gradient_norm: float = 0.0
    proximal: float = 0.0
    masked_loss: bool = False
    control: Literal["none", "scaffold"] = "none"
    private: tuple[str, ...] = ()
    private_steps: int = 0
    rule: WidthRule = WidthRule.ORDERED_DROPOUT
    random_widths: int = 2
    draw_weights: tuple[float, ...] = ()
    widest_share: float = 0.0
    distillation: float = 0.0
    scaler: bool = False
    window: WindowKind = WindowKind.PREFIX


class Rounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When rounds open, close and end.

    Attributes:
        budget: aggregated rounds at most; minimum: such rounds before a plateau may stop training.
        patience: rounds without a significant improvement that make a plateau.
        deadline_s: from the opening of a round until updates are late; the longest one where it is
            chosen.
        deadline: "fixed", or "chosen" before each round for the best expected progress a second,
            see `coordinator.deadline`.
        quorum: updates without which a round does not count.
        min_devices: devices to hear from (their profile is judged) before the first round.
        gather_s: so long after the first device that can train, the first round opens with whoever
            makes the quorum.
        release_every: rounds between releases while training goes on; 0 = one release at the end.
        retry_s: pause after a round that missed its quorum; failures_limit: how many in a row.
        cohort: updates that a round wants; 0 = of everybody who can take part.
        selection: who is drawn where more can: "rotation", "random" or "usefulness", see
            `coordinator.selection`.
        over_selection: so many times the cohort is drawn, and the round closes with its first
            ``cohort`` updates; at least 1.
        only: a label such as "site:hall-2": no other devices take part; "" = all may.
        balance: name of a label such as "site": a cohort holds as many of each value as of any
            other, as far as there are so many.
        mode: "synchronous"; "buffered": a round closes with its first ``buffer`` updates, late ones
            included, and the others train on (FedBuff, Nguyen et al., AISTATS 2022).
        late: what becomes of an update that comes after its round: "drop", or "use" it in the next
            aggregate, as in `coordinator.lateness`. Buffered rounds always use it.
        staleness: a of the weight (1 + s)^-a of a change that was trained on weights from s
            aggregates ago; 0 = it counts fully.
        staleness_limit: s above which it does not count at all.
        buffer: updates that close a buffered round.
    """

    budget: int = 12
    minimum: int = 10
    patience: int = 4
    deadline_s: float = 60.0
    deadline: Literal["fixed", "chosen"] = "fixed"
    quorum: int = 2
    min_devices: int = 2
    gather_s: float = 120.0
    release_every: int = 0
    retry_s: float = 30.0
    failures_limit: int = 10
    cohort: int = 0
    selection: Policy = "rotation"
    over_selection: float = 1.0
    only: str = ""
    balance: str = ""
    mode: Literal["synchronous", "buffered"] = "synchronous"
    late: Literal["drop", "use"] = "drop"
    staleness: float = 0.5
    staleness_limit: int = 10
    buffer: int = 0

    @property
    def uses_late(self) -> bool:
        """Whether an update that comes after its round may count in a later one."""
        return self.late == "use" or self.mode == "buffered"


class WidthPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device must be able to do to train a width.

    Attributes:
        time_share, memory_share: how much of the deadline and of its memory budget a prediction may
            use.
        hysteresis: to train wider than now, a device must have this share of the time to spare.
        dynamic: whether each device draws its training width anew for each round, from the grid's
            up to what the rest of the policy allows it.
        least_steps: a device that is too slow for the narrowest width takes fewer steps, but not
            fewer than these.
        caps: device -> widest width that the operator lets it train, whatever it can.
        participation_floor: where the deadline is chosen, share of the devices that could take part
            in the longest round that must be able to take part in the chosen one.
        hottest_c: a device that is hotter, or slowed down to cool, trains narrower or rests; 0 =
            nobody asks.
        traffic_per_day: bytes that a device may move in 24 hours for rounds and releases; 0 = as
            many as it takes.
        traffic: device -> the same of one device.
        hours: device -> time of the day in which it may train, such as "22:00-06:00" (UTC) or
            "22:00-06:00 +02:00".
    """

    time_share: float = 0.8
    memory_share: float = 0.9
    hysteresis: float = 0.1
    least_steps: int = 1
    caps: dict[str, float] = {}
    dynamic: bool = False
    participation_floor: float = 1.0
    hottest_c: float = 0.0
    traffic_per_day: float = 0.0
    traffic: dict[str, float] = {}
    hours: dict[str, str] = {}


class ServerOptimiser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server makes of a round's change; `coordinator.aggregation.server_optimiser`.

    Attributes:
        name: "fedavg" takes it as it is; "fedavgm" adds momentum; "fedadam" and "fedyogi" besides
            take large steps where changes are small.
        rate: the server's learning rate. Of the adaptive two about as large as a weight shall move
            in a round.
        momentum: what is left of a move in the next round, 0 to below 1.
        second_momentum: the same for squared changes, of the adaptive two.
        adaptivity: tau, of the adaptive two: much smaller changes count in proportion again.
    """

    name: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    rate: float = 1.0
    momentum: float = 0.9
    second_momentum: float = 0.99
    adaptivity: float = 0.001

    @property
    def adaptive(self) -> bool:
        """Whether each coordinate has a rate of its own."""
        return self.name in ("fedadam", "fedyogi")


class Distillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server teaches the aggregate of a round; see `coordinator.distilling`.

    Attributes:
        rule: "none"; "feddf": what the devices' networks say on average; "fed-et": their weighted
            consensus, and a second voice of those who disagree with it.
        steps: at most, each of one batch at several widths; batch_size: samples of it.
        learning_rate: of Adam, the highest; it falls along a cosine.
        temperature: of feddf, what outputs are divided by before they are compared.
        diversity: of fed-et, weight of the second voice.
        set_aside: share of the validation recordings that measures nothing: they judge when to
            stop and, where the operator gives no pool, half of them is the pool.
    """

    rule: Literal["none", "feddf", "fed-et"] = "none"
    steps: int = 100
    batch_size: int = 64
    learning_rate: float = 0.001
    temperature: float = 1.0
    diversity: float = 0.05
    set_aside: float = 0.2


class Aggregation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the updates of a round become one change; see `coordinator.aggregation.rules`.

    Attributes:
        rule: "mean": the weighted mean of the devices that hold a coordinate; "trimmed-mean": of
            those between the extremes; "median": of the one or two in the middle.
        trim: of trimmed-mean, share of the devices that is left out at either end, below 0.5.
        clip: a change longer than this many times the round's median length is shortened to that
            before anything else; 0 = never.
        server: what the server makes of the result; distillation: what it teaches it after that.
    """

    rule: Literal["mean", "trimmed-mean", "median"] = "mean"
    trim: float = 0.2
    clip: float = 0.0
    server: ServerOptimiser = ServerOptimiser()
    distillation: Distillation = Distillation()


class Uploads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In how many bits updates travel; see `slimmable.update_codec`.

    Attributes:
        encoding: "float32", "float16", "bfloat16", "int8" or "top-k"; "adaptive": for each device
            by its link, see `coordinator.upload_encoding`.
        keep: of top-k, share of the changes that travels.
        share: of adaptive, share of a round's time that an upload may take.
    """

    encoding: Encoding = "float32"
    keep: float = 0.01
    share: float = 0.1


class Knowledge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How devices learn from each other where no weights travel; see `Settings.exchange`.

    Attributes:
        weight: how strongly a network is drawn to what the others know (lambda of FedProto).
        digest_steps: of "public-scores", steps of a round towards the consensus, before those on
            the device's own data.
        samples: of "public-scores", so many samples of the pool are public, the first; 0 = all.
    """

    weight: float = 1.0
    digest_steps: int = 16
    samples: int = 0


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
        alone_rounds: as long as in so many rounds each device first trains alone, so that its own
            model can be measured and rewards can be held above it; 0 = nobody trains alone.
    """

    method: str = MEASURING_METHOD
    coalitions: int = 32
    widths: int = 0
    evaluator: Literal["server", "devices"] = "server"
    trim: float = 0.2
    decay: float = 1.0
    novelty: int = 1
    alone_rounds: int = 0

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
        exchange: what travels. "weights"; or each device trains a network of its own, of whatever
            architecture, and tells the mean features ("prototypes", FedProto) or the mean scores
            ("class-scores", FedDistill) of each class, or its scores of each public sample
            ("public-scores", FedMD).
        weighting: of updates in the aggregate. "uniform" because the number of samples is only
            the device's own claim; "samples" is FedAvg's rule.
        secure_aggregation: not offered together with contributions; see `check`.
        labels: device -> its labels, such as {"site": "hall-2"}: the operator's word, which no
            device can choose.
        block_size: bytes per block, never above the broker's limit.
        telemetry_days: how long telemetry is kept; events are kept for ever.
    """

    fleet: str
    model: str
    options: dict[str, Any] = {}
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    seed: int = 0
    exchange: Literal["weights", "prototypes", "class-scores", "public-scores"] = "weights"
    weighting: Literal["uniform", "samples"] = "uniform"
    secure_aggregation: bool = False
    labels: dict[str, dict[str, str]] = {}
    block_size: int = 262144
    telemetry_days: float = 30.0
    training: Training = Training()
    rounds: Rounds = Rounds()
    width_policy: WidthPolicy = WidthPolicy()
    aggregation: Aggregation = Aggregation()
    uploads: Uploads = Uploads()
    knowledge: Knowledge = Knowledge()
    contributions: Contributions = Contributions()
    rewards: Rewards = Rewards()
    presence: Presence = Presence()
    releases: Releases = Releases()

    @property
    def keeps_own(self) -> bool:
        """Whether each device has a network of its own, which the server cannot know."""
        return bool(self.training.private) or self.exchange != "weights"

    @property
    def digest_steps(self) -> int:
        """Steps that a device takes towards the consensus before it trains on its own data."""
        return self.knowledge.digest_steps if self.exchange == "public-scores" else 0

    def check(self) -> "Settings":
        """Return self if the settings make sense together.

        Raises:
            SettingsError: they contradict each other; the message names the setting.
        """
        check_settings(self)
        self.training_rule()
        return self

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

        How long each device trains, how the rate falls from round to round and which channels a
        round's slices hold is decided in `coordinator.local_training`; corrections follow from
        earlier rounds.
        """
        known = msgspec.structs.asdict(self.training)
        return {name: one for name, one in known.items() if name not in OF_THE_SERVER}


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
