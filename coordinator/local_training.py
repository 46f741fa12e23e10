"""How long, at what learning rate and which channels a device trains in a round. Pure."""

import msgspec

from broker.messages import Profile, TrainingSettings
from coordinator.settings import Settings
from slimmable.training_rule import Schedule
from slimmable.window import PREFIX, Window, WindowKind


def ordinary_steps(settings: Settings, profile: Profile | None) -> int:
    """Return the gradient steps of a device in every round but an assessment.

    Args:
        settings: `training.epochs` passes over its own samples where above 0 (FedAvg's E; McMahan
            et al., AISTATS 2017), else `training.steps`.
        profile: tells how many samples the device says it has. Who claims more than it has trains
            longer, on what it has.
    """
    training = settings.training
    if not training.epochs:
        return training.steps
    return epoch_steps(training.epochs, profile.samples if profile else 0, training.batch_size)


def epoch_steps(epochs: float, samples: int, batch_size: int) -> int:
    """Return how many gradient steps make so many passes over samples, at least 1."""
    return max(1, round(epochs * samples / batch_size))


def round_training(settings: Settings, trained_rounds: int) -> TrainingSettings:
    """Return the hyper-parameters of a round; its steps are those of `training.steps`.

    Args:
        settings: of the campaign.
        trained_rounds: how many rounds were aggregated before it.
    """
    first = settings.training_settings()
    rate = first.learning_rate * settings.training.round_decay**trained_rounds
    return msgspec.structs.replace(first, learning_rate=rate)


def round_window(settings: Settings, number: int, trained_rounds: int) -> Window:
    """Return which channels the slices of a round hold.

    Args:
        settings: of the campaign.
        number: of the round; a random window is drawn anew for each.
        trained_rounds: how many rounds were aggregated before it; by so much a rolling window has
            moved, so that a round without a quorum leaves no gap.
    """
    match settings.training.window:
        case WindowKind.ROLLING:
            return Window(WindowKind.ROLLING, trained_rounds)
        case WindowKind.RANDOM:
            return Window(WindowKind.RANDOM, (settings.seed * 1_000_003 + number) % 2**31)
    return PREFIX


def assessment_training(settings: Settings) -> TrainingSettings:
    """Return the hyper-parameters of the round in which each device trains alone.

    Where the learning rate of the rounds falls it falls here too: what a device has alone must be
    as well trained as what it is compared with.
    """
    falls = settings.training.round_decay < 1
    return msgspec.structs.replace(
        settings.training_settings(),
        steps=settings.contributions.alone_rounds * settings.training.steps,
        schedule=(Schedule.COSINE if falls else Schedule.CONSTANT).value,
    )
