"""How good each width of a network is, and how that came about while it was trained. No torch."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = ("step", "width", "score", "validation_loss", "training_loss")


@dataclass(frozen=True)
class WidthScore:
    """One width, measured.

    Attributes:
        width: which one.
        score: of the task: accuracy, or the explained share of variance.
        loss: mean loss a sample.
    """

    width: float
    score: float
    loss: float


@dataclass(frozen=True)
class Measurement:
    """What a training had come to after some steps.

    Attributes:
        step: gradient steps taken.
        training_loss: mean over the steps since the measurement before.
        scores: one per width, ascending, on validation data.
    """

    step: int
    training_loss: float
    scores: tuple[WidthScore, ...]


def as_csv(measurements: Sequence[Measurement]) -> bytes:
    """Return one line per measurement and width, with a header; the last step's lines come last."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in measurements:
        for row in one.scores:
            figures = (row.score, row.loss, one.training_loss)
            writer.writerow((one.step, f"{row.width:g}", *(f"{value:.6g}" for value in figures)))
    return text.getvalue().encode()
