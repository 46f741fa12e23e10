"""Networks that end the process at some widths, as a wheel for another processor does."""

import os
import signal

from slimmable.model import SlimmableModel
from slimmable.models.cnn1d import cnn1d


def dying(*, at, by, **options):
    """Return a CNN that ends the process by a signal when one of the widths ``at`` is built.

    Args:
        at: widths.
        by: name of the signal, such as "SIGILL".
        options: of the CNN.
    """
    sound = cnn1d(**options)

    def build(width):
        if width in at:
            os.kill(os.getpid(), getattr(signal, by))
        return sound.build(width)

    return SlimmableModel("dying", sound.spec, sound.task, sound.input_shape, build)
