"""Whether settings of rounds, local training, widths and averages make sense together. Pure."""

import math
from typing import TYPE_CHECKING

from coordinator.daily_hours import DailyHours
from coordinator.own_network_checks import SettingsError
from coordinator.selection import label_of
from slimmable.training_rule import WidthRule
from slimmable.window import WindowKind

if TYPE_CHECKING:
    from coordinator.settings import Settings


def check_training(settings: "Settings") -> None:
    """Refuse rounds, training, device limits or averages that cannot work, alone or together.

    Raises:
        SettingsError: the message names the setting and what to change.
    """
    _check_rounds(settings)
    _check_local_training(settings)
    _check_width_policy(settings)
    _check_aggregation(settings)
    _check_control(settings)


def _check_rounds(settings: "Settings") -> None:
    rounds = settings.rounds
    if 0 < rounds.cohort < rounds.quorum:
        raise SettingsError(
            f"rounds.cohort = {rounds.cohort} is below rounds.quorum = {rounds.quorum}: no round"
            " would ever count"
        )
    if not 1 <= rounds.over_selection < math.inf:
        raise SettingsError(
            f"rounds.over_selection = {rounds.over_selection:g} must be at least 1: with 1.3 three"
            " in ten more are drawn than needed"
        )
    _check_buffer(settings)
    _check_labels(settings)


def _check_buffer(settings: "Settings") -> None:
    rounds = settings.rounds
    if (rounds.mode == "buffered") != bool(rounds.buffer):
        raise SettingsError(
            f'rounds.buffer = {rounds.buffer} with rounds.mode = "{rounds.mode}": it is how many'
            ' updates close a round, so mode = "buffered" needs one and no other mode has any'
        )
    if 0 < rounds.buffer < rounds.quorum:
        raise SettingsError(
            f"rounds.buffer = {rounds.buffer} is below rounds.quorum = {rounds.quorum}: no round"
            " would ever count"
        )
    train = math.ceil(rounds.cohort * rounds.over_selection)
    if 0 < train < rounds.buffer:
        raise SettingsError(
            f"rounds.buffer = {rounds.buffer} is more than the {train} devices that train at a time"
            " (rounds.cohort times over_selection): each round would wait for its deadline"
        )


def _check_labels(settings: "Settings") -> None:
    rounds, known = settings.rounds, settings.labels.values()
    name, value = label_of(rounds.only)
    if rounds.only and not any(labels.get(name) == value for labels in known):
        raise SettingsError(
            f'rounds.only = "{rounds.only}" is of no device: it is a name and a value of labels,'
            ' such as "site:hall-2"'
        )
    if rounds.balance and not any(rounds.balance in labels for labels in known):
        raise SettingsError(
            f'rounds.balance = "{rounds.balance}" is of no device: it is a name of labels, such as'
            ' "site"'
        )
    if rounds.balance and not rounds.cohort:
        raise SettingsError(
            f'rounds.balance = "{rounds.balance}" says who is drawn, and without rounds.cohort'
            " everybody takes part: set a cohort"
        )


def _check_local_training(settings: "Settings") -> None:
    if settings.training.rule == WidthRule.OWN_WIDTH and settings.training.distillation:
        raise SettingsError(
            f"training.distillation = {settings.training.distillation:g} needs narrower widths in a"
            ' step, and training.rule = "own-width" trains none: set distillation = 0'
        )
    if settings.training.control == "scaffold" and settings.rounds.uses_late:
        raise SettingsError(
            'training.control = "scaffold" works out a device\'s gradients from what it was sent in'
            ' the round, and a late update is of an earlier one: set rounds.late = "drop" and'
            ' rounds.mode = "synchronous"'
        )
    window = settings.training.window
    if window == WindowKind.PREFIX:
        return
    wanted = f'training.window = "{window}" gives a device other channels in each round'
    if settings.rewards.mode == "training-time":
        raise SettingsError(
            f"{wanted}, so that it comes to hold all of them whatever it is entitled to: set"
            ' rewards.mode = "post-training"'
        )
    if settings.contributions.evaluator == "devices":
        raise SettingsError(
            f"{wanted}, so that what it measures is no width that is released: set"
            ' contributions.evaluator = "server"'
        )
    if settings.uploads.encoding in ("top-k", "adaptive"):
        raise SettingsError(
            f'{wanted}, and "top-k", which uploads.encoding = "{settings.uploads.encoding}" may'
            ' take, carries over what it left out of the same ones: set "int8" or another encoding'
        )


def _check_width_policy(settings: "Settings") -> None:
    for device, limit in settings.width_policy.traffic.items():
        if limit < 0:
            raise SettingsError(
                f"width_policy.traffic: {limit:g} bytes for {device} must be at least 0, which is"
                " as many as it takes"
            )
    for device, text in settings.width_policy.hours.items():
        try:
            DailyHours.parse(text)
        except ValueError as error:
            raise SettingsError(f"width_policy.hours: {device}: {error}") from error


def _check_aggregation(settings: "Settings") -> None:
    how = settings.aggregation
    if how.trim >= 0.5:
        raise SettingsError(
            f"aggregation.trim = {how.trim:g} leaves nobody: it must be below 0.5; rule ="
            ' "median" keeps the middle'
        )
    if 0 < how.clip < 1:
        raise SettingsError(
            f"aggregation.clip = {how.clip:g} would shorten what is usual: it must be at least 1,"
            " or 0 for never"
        )


def _check_control(settings: "Settings") -> None:
    """Refuse what makes a device's mean gradient unknown to the server."""
    if settings.training.control == "none":
        return
    why = {
        "training.momentum": settings.training.momentum != 0,
        "training.proximal": settings.training.proximal != 0,
        "uploads.encoding": settings.uploads.encoding in ("top-k", "adaptive"),
        "aggregation.rule": settings.aggregation.rule != "mean",
        "aggregation.clip": settings.aggregation.clip != 0,
    }
    wanted = {"uploads.encoding": '"int8"', "aggregation.rule": '"mean"'}
    for name, wrong in why.items():
        if wrong:
            raise SettingsError(
                f'training.control = "scaffold" works out what each device\'s gradients were from'
                f' what it changed: set {name} = {wanted.get(name, "0")}, or control = "none"'
            )
