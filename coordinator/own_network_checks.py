"""Whether settings fit devices that keep networks, or parts of them, to themselves. Pure."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.settings import Settings


class SettingsError(ValueError):
    """The settings contradict themselves. Change the setting that the message names."""


def check_own_networks(settings: "Settings") -> None:
    """Refuse what a server cannot do that holds no whole network.

    Raises:
        SettingsError: the message names the setting and what to change.
    """
    if not settings.keeps_own:
        return
    if settings.contributions.evaluator != "devices":
        raise SettingsError(
            "training.private and exchange leave the server without a whole network, so it cannot"
            ' measure; set contributions.evaluator = "devices"'
        )
    wanted = {
        'rewards.mode = "training-time"': settings.rewards.mode == "training-time",
        "rewards.inference_only_width": settings.rewards.inference_only_width > 0,
        "rounds.release_every": settings.rounds.release_every > 0,
        "aggregation.distillation": settings.aggregation.distillation.rule != "none",
        "training.control": settings.training.control != "none",
    }
    for name, is_set in wanted.items():
        if is_set:
            raise SettingsError(
                f"{name}: the server has no whole network to give away, to teach or to correct"
                " where devices keep parts of it; leave the setting out"
            )
    if settings.contributions.method == "class-rows":
        raise SettingsError(
            'contributions.method = "class-rows" looks at the last layer, which may be private:'
            ' use "cosine-to-aggregate"'
        )
    if settings.exchange != "weights":
        _check_exchange(settings)


def _check_exchange(settings: "Settings") -> None:
    """Refuse what concerns weights where none travel."""
    how = f'exchange = "{settings.exchange}"'
    if settings.widths != (1.0,):
        raise SettingsError(
            f"{how}: each device trains a network of its own, whole; set widths = [1.0]"
        )
    concerns = {
        "training.private": bool(settings.training.private),
        "uploads.encoding": settings.uploads.encoding != "float32",
        "aggregation": settings.aggregation != type(settings.aggregation)(),
        'weighting = "samples"': settings.weighting != "uniform",
        'rounds.selection = "usefulness"': settings.rounds.selection == "usefulness",
        'rounds.late = "use"': settings.rounds.late == "use",
        'rounds.mode = "buffered"': settings.rounds.mode == "buffered",
    }
    for name, is_set in concerns.items():
        if is_set:
            raise SettingsError(f"{how}: {name} concerns weights, and none travel; leave it out")
