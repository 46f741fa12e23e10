"""Train a slimmable network in one place and measure every width on the way. Imports torch."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from slimmable.evaluation import calibrate, calibrated_slices, outputs
from slimmable.model import ModelError, SlimmableModel
from slimmable.samples import Samples, SamplesError
from slimmable.state import Array, ModelState
from slimmable.training import Training
from slimmable.training_rule import TrainingRule
from slimmable.width_scores import Measurement, WidthScore


def train_centrally(
    model: SlimmableModel,
    state: Mapping[str, Array],
    training: Samples,
    validation: Samples,
    rule: TrainingRule,
    rng: np.random.Generator,
    *,
    measure_every: int,
    after_step: Callable[[int, float], None] = lambda _step, _loss: None,
    after_measurement: Callable[[Measurement], None] = lambda _: None,
) -> tuple[ModelState, tuple[Measurement, ...]]:
    """Train the full width and return its state after the last step, and all measurements.

    The statistics of the returned state are those of the full width, calibrated on the training
    data. No step is preferred to the last one because it validated better.

    Args:
        model: what is trained.
        state: full-width state dict to start from.
        training: data to train and to calibrate on.
        validation: data to measure on; other recordings than those of ``training``.
        rule: how; its widths are measured.
        rng: as for `slimmable.training.train`; measuring draws nothing from it.
        measure_every: steps between two measurements; the last step is always measured.
        after_step: called with the number of finished steps and the loss of the step.
        after_measurement: called with each measurement.

    Raises:
        ModelError: the network takes more than one input, or tokens.
        SamplesError: the data does not fit the model, or there is too little of it.
        DivergenceError: the loss or a weight became NaN or infinite.
    """
    check_data(model, training, "training data")
    check_data(model, validation, "validation data")
    measurements: list[Measurement] = []
    since: list[float] = []
    with torch.random.fork_rng(devices=[]):
        trainer = Training(model, state, 1.0, training, rule, rng)
        for step in range(1, rule.steps + 1):
            since.append(trainer.step())
            after_step(step, since[-1])
            if step % measure_every == 0 or step == rule.steps:
                scores = measure_widths(model, trainer.state(), rule.widths, training.x, validation)
                measurements.append(Measurement(step, float(np.mean(since)), scores))
                after_measurement(measurements[-1])
                since.clear()
        trained = trainer.state()
        statistics = calibrate(model, 1.0, trained, training.x)
    return {**trained, **statistics}, tuple(measurements)


def measure_widths(
    model: SlimmableModel,
    state: Mapping[str, Array],
    widths: Sequence[float],
    calibration: Array,
    data: Samples,
) -> tuple[WidthScore, ...]:
    """Return how good a full state is at each width, with statistics calibrated for that width.

    Args:
        model: the model.
        state: full-width state dict; its statistics are ignored.
        widths: to measure.
        calibration: (N, ...) inputs to calibrate on, not those that measure.
        data: what measures.
    """
    scores = []
    # Building a network draws its first weights: training must not notice that it is measured.
    with torch.random.fork_rng(devices=[]):
        for width, cut in calibrated_slices(model, state, widths, calibration).items():
            said = outputs(model, width, cut, data.x)
            loss = float(model.task.losses(said, data.y).mean())
            scores.append(WidthScore(width, model.task.score(said, data.y), loss))
    return tuple(scores)


def check_data(model: SlimmableModel, samples: Samples, what: str) -> None:
    """Check that a model can be trained or measured on samples.

    Args:
        model: takes one input.
        samples: to be judged.
        what: they are, for the message.

    Raises:
        ModelError: the network takes more than one input, or tokens.
        SamplesError: inputs or targets do not fit, or there are fewer than two samples.
    """
    if len(model.inputs) > 1 or model.input_dtype != "float32":
        raise ModelError(
            f"model {model.name!r} takes {len(model.inputs)} inputs, the first {model.input_dtype};"
            " only networks with one float32 input can be trained here"
        )
    if samples.x.shape[1:] != model.input_shape:
        raise SamplesError(
            f"{what}: samples of shape {samples.x.shape[1:]}, model {model.name!r} takes"
            f" {model.input_shape}; prepare the data for it, or set the model's options"
        )
    if len(samples) < 2:
        raise SamplesError(f"{what}: one sample is too few; supply at least two")
    model.task.check_targets(samples.y)


def use_threads(count: int) -> None:
    """Let torch compute with so many threads."""
    torch.set_num_threads(count)
