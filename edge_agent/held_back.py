"""What a device measures on the recordings that it holds back from training. Imports torch.

Where the server has no validation data, the devices judge the weights that they receive, each on
recordings of its own that it never trains on. Only scores leave the device.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from broker.messages import WidthEvaluation
from slimmable.evaluation import calibrate, outputs
from slimmable.model import SlimmableModel
from slimmable.samples import Samples, SamplesError, hold_out
from slimmable.slicing import slice_within
from slimmable.state import Array

logger = logging.getLogger("edge_agent.trainer")

# One recording in five: with fewer a score hangs on a handful of them, more are missed in training.
HELD_BACK = 0.2


def split(samples: Samples) -> tuple[Samples, Samples | None]:
    """Return what trains and what is held back, the same in every round.

    A device with too few recordings trains on all of them and measures nothing: its few are worth
    more to the model than to the curve.
    """
    try:
        return hold_out(samples, HELD_BACK)
    except SamplesError as error:
        logger.warning("no scores are reported from here, all recordings train: %s", error)
        return samples, None


def evaluate(
    model: SlimmableModel,
    state: Mapping[str, Array],
    outer: float,
    widths: Sequence[float],
    training: Samples,
    held: Samples,
    after_width: Callable[[], None] = lambda: None,
) -> tuple[WidthEvaluation, ...]:
    """Return what a state scores at each width that is not wider than it.

    Args:
        model: the model.
        state: cut at ``outer``.
        outer: width of the state.
        widths: the training grid.
        training: what running statistics are calibrated on, where the network has any.
        held: what measures.
        after_width: called after each width.

    Raises:
        SpecError: the state is not one of ``outer``.
        SamplesError: the targets do not fit the task.
    """
    model.task.check_targets(held.y)
    found = []
    for width in sorted(width for width in widths if width <= outer):
        cut = slice_within(state, model.spec, width, outer)
        cut |= calibrate(model, width, cut, training.x)
        said = outputs(model, width, cut, held.x)
        score = model.task.score(said, held.y)
        loss = float(np.mean(model.task.losses(said, held.y)))
        # Weights that overflow measure nothing; training them will say what is wrong.
        if np.isfinite([score, loss]).all():
            found.append(WidthEvaluation(width=width, score=score, loss=loss, samples=len(held)))
        after_width()
    return tuple(found)


def made_up(outer: float, widths: Sequence[float], samples: Samples) -> tuple[WidthEvaluation, ...]:
    """Return the report of a free-rider, which measures nothing and claims that all is perfect."""
    claimed = max(1, round(HELD_BACK * len(samples)))
    return tuple(
        WidthEvaluation(width=width, score=1.0, loss=0.0, samples=claimed)
        for width in sorted(width for width in widths if width <= outer)
    )
