"""Whether settings make sense together. Pure."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.own_network_checks import SettingsError as SettingsError  # noqa: PLC0414
from coordinator.own_network_checks import check_own_networks
from coordinator.training_checks import check_training
from slimmable.width import WidthError, WidthGrid

if TYPE_CHECKING:
    from coordinator.settings import Settings

POSITIVE = (
    "rounds.budget",
    "rounds.quorum",
    "rounds.min_devices",
    "rounds.deadline_s",
    "training.steps",
    "training.batch_size",
    "training.learning_rate",
    "training.round_decay",
    "presence.heartbeat_s",
    "contributions.coalitions",
    "telemetry_days",
    "aggregation.server.rate",
    "uploads.keep",
    "uploads.share",
    "aggregation.server.adaptivity",
    "aggregation.distillation.steps",
    "aggregation.distillation.batch_size",
    "aggregation.distillation.learning_rate",
    "aggregation.distillation.temperature",
    "rewards.min_trainers",
    "rewards.significance",
    "rewards.aversion",
    "contributions.decay",
    "rounds.patience",
    "rounds.failures_limit",
    "rounds.staleness_limit",
    "width_policy.time_share",
    "width_policy.memory_share",
    "width_policy.least_steps",
    "presence.late_after",
    "releases.valid_days",
    "releases.attempts",
)
NOT_NEGATIVE = (
    "seed",
    "training.epochs",
    "training.private_steps",
    "training.momentum",
    "training.weight_decay",
    "rounds.minimum",
    "rounds.cohort",
    "rounds.staleness",
    "rounds.buffer",
    "rounds.gather_s",
    "rounds.release_every",
    "rounds.retry_s",
    "knowledge.weight",
    "rewards.cutoff",
    "rewards.proof",
    "rewards.sharing",
    "width_policy.hysteresis",
    "width_policy.participation_floor",
    "width_policy.hottest_c",
    "width_policy.traffic_per_day",
    "aggregation.trim",
    "aggregation.server.momentum",
    "aggregation.server.second_momentum",
    "aggregation.clip",
    "aggregation.distillation.diversity",
    "aggregation.distillation.set_aside",
    "contributions.trim",
    "contributions.novelty",
    "contributions.widths",
    "contributions.alone_rounds",
    "presence.grace_s",
    "releases.delivery_s",
)
AT_MOST_ONE = (
    "uploads.keep",
    "uploads.share",
    "width_policy.participation_floor",
    "width_policy.time_share",
    "width_policy.memory_share",
    "training.round_decay",
    "contributions.decay",
    "rewards.sharing",
)
BELOW_ONE = (
    "width_policy.hysteresis",
    "aggregation.server.momentum",
    "aggregation.server.second_momentum",
    "training.momentum",
    "rewards.significance",
    "aggregation.distillation.set_aside",
)
OPTIONS_LIMIT = 8192  # bytes; every task repeats the options, and a task is a control message


def check_settings(settings: "Settings") -> None:
    """Refuse settings that contradict themselves.

    Raises:
        SettingsError: the message names the setting and what to change.
    """
    if settings.secure_aggregation:
        raise SettingsError(
            "secure_aggregation hides the single updates that contributions and rewards need:"
            " the two are exclusive; set secure_aggregation = false"
        )
    _check_numbers(settings)
    for name, widths in (("widths", settings.widths), ("rewards.ladder", settings.rewards.ladder)):
        try:
            WidthGrid(widths)
        except WidthError as error:
            raise SettingsError(f"{name}: {error}") from error
    check_training(settings)
    _check_evaluator(settings)
    _check_rewards(settings)
    check_own_networks(settings)
    if settings.presence.offline_after < settings.presence.late_after:
        raise SettingsError(
            f"presence.offline_after = {settings.presence.offline_after} must not be below"
            f" presence.late_after = {settings.presence.late_after}"
        )
    if not 1024 <= settings.block_size <= 262144:
        raise SettingsError(f"block_size = {settings.block_size} must be in 1024..262144")
    size = len(msgspec.msgpack.encode(settings.options))
    if size > OPTIONS_LIMIT:
        raise SettingsError(
            f"options are {size} bytes, at most {OPTIONS_LIMIT} travel in a task:"
            " let the model's function know the rest"
        )


def _check_numbers(settings: "Settings") -> None:
    """Refuse numbers outside the range of their setting."""
    for name, number in _numbers(msgspec.to_builtins(settings)):
        if not math.isfinite(number):
            raise SettingsError(f"{name} = {number} must be a finite number")
        if name in POSITIVE and number <= 0:
            raise SettingsError(f"{name} = {number} must be above 0")
        if name in NOT_NEGATIVE and number < 0:
            raise SettingsError(f"{name} = {number} must not be below 0")
        if name in AT_MOST_ONE and number > 1:
            raise SettingsError(f"{name} = {number} must be at most 1")
        if name in BELOW_ONE and number >= 1:
            raise SettingsError(f"{name} = {number} must be below 1")


def check_pool(settings: "Settings", *, pool: bool) -> None:
    """Refuse a distillation that has nothing to teach with, and a pool that nobody needs.

    Args:
        settings: of the campaign.
        pool: whether the operator names unlabelled recordings.

    Raises:
        SettingsError: the message says what to add or to remove.
    """
    how = settings.aggregation.distillation
    if how.rule == "none":
        if pool:
            raise SettingsError(
                'a pool is not used with aggregation.distillation.rule = "none": leave it out, or'
                ' set rule = "feddf"'
            )
        return
    if pool:
        return
    if settings.contributions.evaluator == "devices":
        raise SettingsError(
            f'aggregation.distillation.rule = "{how.rule}" needs recordings on the server, and'
            ' contributions.evaluator = "devices" does without: name a pool of unlabelled ones'
        )
    if not how.set_aside:
        raise SettingsError(
            f'aggregation.distillation.rule = "{how.rule}" without a pool takes its inputs from'
            " validation recordings that are set aside: name a pool of unlabelled recordings, or"
            " let aggregation.distillation.set_aside be above 0"
        )


def _check_evaluator(settings: "Settings") -> None:
    chosen = settings.contributions
    if chosen.trim >= 0.5:
        raise SettingsError(
            f"contributions.trim = {chosen.trim} must be below 0.5: it is cut off at both ends"
        )
    if chosen.evaluator == "devices" and chosen.alone_rounds:
        raise SettingsError(
            "contributions.alone_rounds needs validation data on the server, which evaluator ="
            ' "devices" does without: set alone_rounds = 0'
        )


def _check_rewards(settings: "Settings") -> None:
    rewards, ladder = settings.rewards, settings.rewards.ladder
    if rewards.basis == "assessment" and not settings.contributions.alone_rounds:
        raise SettingsError(
            'rewards.basis = "assessment" needs an assessment: set contributions.alone_rounds to'
            f" about rounds.budget, {settings.rounds.budget}"
        )
    if rewards.inference_only_width not in (0.0, *ladder):
        raise SettingsError("rewards.inference_only_width must be 0 or a width of the ladder")
    if rewards.first_entitlement not in (0.0, *settings.widths):
        raise SettingsError(
            f"rewards.first_entitlement = {rewards.first_entitlement} must be 0 or one of the"
            f" widths {settings.widths}"
        )
    for where, caps in (("rewards", rewards.caps), ("width_policy", settings.width_policy.caps)):
        for device, cap in caps.items():
            if not 0 <= cap <= 1:
                raise SettingsError(f"{where}.caps: {cap} for {device} must be a width, 0 to 1")
    _check_tiers(settings)


def _check_tiers(settings: "Settings") -> None:
    tiers, ladder = settings.rewards.tiers, settings.rewards.ladder
    if (settings.rewards.rule == "tiers") != bool(tiers):
        raise SettingsError(
            f'rewards.tiers has {len(tiers)} tiers with rewards.rule = "{settings.rewards.rule}":'
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
