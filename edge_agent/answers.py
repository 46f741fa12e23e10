"""What a device's model said, and what it is worth."""

import msgspec

from broker.manifest import ModelManifest
from slimmable.task import Array


class Prediction(msgspec.Struct, frozen=True, eq=False):
    """An answer, and who gave it.

    Attributes:
        label, value, confidence: of each sample, as in `slimmable.task.Decoded`.
        model: the manifest of the one model that gave all of it: digest, width, round, classes.
    """

    label: Array
    value: Array
    confidence: Array
    model: ModelManifest

    @property
    def names(self) -> list[str]:
        """The class name of each sample; empty strings for tasks without classes."""
        classes = self.model.classes or ("",)
        return [classes[label] for label in self.label]


class Measurement(msgspec.Struct, frozen=True):
    """What the current model is worth on known samples.

    Attributes:
        score: the task's score, higher is better.
        mean_confidence: over the samples.
        samples: how many.
    """

    score: float
    mean_confidence: float
    samples: int
