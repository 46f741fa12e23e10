"""One slimmable network against four dense ones, at equal CPU time, on Fashion-MNIST.

For each seed four networks are trained natively, one at each width; then one slimmable network with
as many steps as the four together cost CPU time. Both get the same optimiser, batch, learning rate
and schedule, and the batch-norm statistics of both are estimated on training images in the end.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.arguments import numbers, positive, whole_numbers
from benchmarks.errors import BenchmarkError
from benchmarks.fashion_mnist import CLASSES, FOLDER, read_fashion_mnist
from benchmarks.results import Result
from benchmarks.width_training_tables import (
    WIDTHS,
    SeedRun,
    cost_table,
    means_table,
    ratios,
    seeds_table,
)
from slimmable.central import measure_widths
from slimmable.evaluation import calibrate, initial_state, outputs, state_of
from slimmable.model import SlimmableModel, load_model
from slimmable.samples import Samples
from slimmable.state import ModelState
from slimmable.training import Training, train
from slimmable.training_rule import Schedule, TrainingRule, WidthRule

SUBSET = 10_000
HELD_BACK = 10_000  # training images that measure while recipes are chosen
EPOCHS, FULL_EPOCHS = 6, 4
PROBES, PROBE_STEPS = 7, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the .gz files")
    parser.add_argument("--seeds", type=whole_numbers, default=(0, 1, 2), help="of everything")
    parser.add_argument(
        "--full", action="store_true", help=f"all 60,000 images, not the first {SUBSET}"
    )
    parser.add_argument(
        "--epochs", type=positive, help=f"of each dense network, not {EPOCHS} ({FULL_EPOCHS} full)"
    )
    parser.add_argument(
        "--held-back",
        action="store_true",
        help=f"measure on the last {HELD_BACK} training images, which then train nothing: for"
        " choosing a recipe without looking at the test images",
    )
    parser.add_argument("--batch", type=positive, default=64, help="samples a step")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="highest, of all")
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="of all")
    parser.add_argument(
        "--rule",
        type=WidthRule,
        choices=tuple(WidthRule),
        default=WidthRule.ORDERED_DROPOUT,
        help="of the slimmable network",
    )
    parser.add_argument("--random-widths", type=int, default=2, help="of the sandwich rule")
    parser.add_argument("--draw-weights", type=numbers, default=(), help="of ordered dropout")
    parser.add_argument("--distillation", type=float, default=0.0, help="of the slimmable network")


@dataclass(frozen=True)
class Images:
    """What trains, and what measures."""

    training: Samples
    measuring: Samples


def measure(arguments: argparse.Namespace) -> Result:
    """Train all networks of all seeds.

    Raises:
        BenchmarkError: the data is missing or damaged, or no network can be trained so.
    """
    torch.set_num_threads(1)
    images = _images(arguments)
    model = load_model("cnn2d", {"classes": list(CLASSES)})
    epochs = arguments.epochs or (FULL_EPOCHS if arguments.full else EPOCHS)
    try:
        rule = _rule(arguments, epochs * (len(images.training) // arguments.batch))
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    runs = [_run_seed(model, images, rule, seed) for seed in arguments.seeds]
    return Result(
        name="width_training",
        summary="one slimmable network against a dense one at each width, at equal CPU time",
        tables=(seeds_table(runs), means_table(runs), cost_table(runs)),
        ratios=ratios(runs),
        notes=_notes(arguments, images, rule, epochs),
    )


def _images(arguments: argparse.Namespace) -> Images:
    training = read_fashion_mnist(arguments.data, "train")
    if arguments.held_back:
        border = len(training) - HELD_BACK
        measuring = training.take(np.arange(border, len(training)))
        training = training.take(np.arange(border))
    else:
        measuring = read_fashion_mnist(arguments.data, "t10k")
    return Images(training if arguments.full else training.take(np.arange(SUBSET)), measuring)


def _rule(arguments: argparse.Namespace, steps: int) -> TrainingRule:
    return TrainingRule(
        steps=steps,
        batch_size=arguments.batch,
        learning_rate=arguments.learning_rate,
        momentum=0.9,
        weight_decay=arguments.weight_decay,
        widths=WIDTHS,
        rule=arguments.rule,
        random_widths=arguments.random_widths,
        draw_weights=arguments.draw_weights,
        distillation=arguments.distillation,
        schedule=Schedule.COSINE,
    )


def _run_seed(model: SlimmableModel, images: Images, rule: TrainingRule, seed: int) -> SeedRun:
    dense, dense_cpu = {}, 0.0
    for width in WIDTHS:
        start = _native_state(model, width, seed)
        begun = time.process_time()
        trained, _ = train(
            model,
            start,
            width,
            images.training,
            _dense_rule(rule, width),
            np.random.default_rng(seed),
        )
        dense_cpu += time.process_time() - begun
        dense[width] = _accuracy(model, width, trained, images)
    steps = max(2, round(rule.steps * _dense_steps_per_slimmable_step(model, images, rule)))
    begun = time.process_time()
    trained, _ = train(
        model,
        initial_state(model, seed),
        1.0,
        images.training,
        replace(rule, steps=steps),
        np.random.default_rng(seed),
    )
    slimmable_cpu = time.process_time() - begun
    scores = measure_widths(model, trained, WIDTHS, images.training.x, images.measuring)
    return SeedRun(
        seed,
        dense,
        {row.width: 100 * row.score for row in scores},
        dense_cpu,
        slimmable_cpu,
        rule.steps,
        steps,
    )


def _dense_rule(rule: TrainingRule, width: float) -> TrainingRule:
    """Return the same recipe for a network of one width."""
    return replace(
        rule,
        widths=(width,),
        rule=WidthRule.ORDERED_DROPOUT,
        draw_weights=(),
        distillation=0.0,
    )


def _native_state(model: SlimmableModel, width: float, seed: int) -> ModelState:
    """Return the first weights of a network that is built at this width, not sliced."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return state_of(model.build(width), model)


def _accuracy(model: SlimmableModel, width: float, trained: ModelState, images: Images) -> float:
    state = {**trained, **calibrate(model, width, trained, images.training.x)}
    said = outputs(model, width, state, images.measuring.x)
    return 100 * model.task.score(said, images.measuring.y)


def _dense_steps_per_slimmable_step(
    model: SlimmableModel, images: Images, rule: TrainingRule
) -> float:
    """Return what one step of all four dense networks costs in steps of the slimmable one.

    Timed in turns, so that what else the machine does falls on both.
    """
    dense = [
        Training(
            model,
            _native_state(model, width, 0),
            width,
            images.training,
            _dense_rule(rule, width),
            np.random.default_rng(0),
        )
        for width in WIDTHS
    ]
    shares, parts = _slimmable_parts(model, images, rule)
    found = []
    for _ in range(PROBES):
        ours = sum(share * _step_cpu_s(part) for share, part in zip(shares, parts, strict=True))
        found.append(sum(_step_cpu_s(one) for one in dense) / ours)
    return median(found[1:])  # the first steps warm up


def _slimmable_parts(
    model: SlimmableModel, images: Images, rule: TrainingRule
) -> tuple[list[float], list[Training]]:
    """Return trainings whose steps, weighted, cost what a step of the rule costs on average.

    A drawn width is timed by itself and weighted by its chance: a short probe of random widths
    would be off by several per cent. The teacher of ordered dropout costs a forward pass besides,
    so with distillation the rule is probed as it is.
    """
    state = initial_state(model, 0)
    drawn = rule.rule is WidthRule.ORDERED_DROPOUT and not rule.distillation
    rules = (
        [replace(rule, widths=(width,), draw_weights=()) for width in WIDTHS] if drawn else [rule]
    )
    weights = (rule.draw_weights or (1.0,) * len(WIDTHS)) if drawn else (1.0,)
    trainings = [
        Training(model, state, 1.0, images.training, one, np.random.default_rng(0)) for one in rules
    ]
    return [weight / sum(weights) for weight in weights], trainings


def _step_cpu_s(training: Training) -> float:
    begun = time.process_time()
    for _ in range(PROBE_STEPS):
        training.step()
    return (time.process_time() - begun) / PROBE_STEPS


def _notes(
    arguments: argparse.Namespace, images: Images, rule: TrainingRule, epochs: int
) -> tuple[str, ...]:
    what = "held-back training images" if arguments.held_back else "test images"
    slimmable = f"{rule.rule}, distillation {rule.distillation:g}"
    if rule.draw_weights:
        slimmable += f", draw weights {', '.join(f'{one:g}' for one in rule.draw_weights)}"
    return (
        f"{len(images.training)} images train, {len(images.measuring)} {what} measure",
        (
            f"cnn2d, 16-32-64-64 channels; {epochs} epochs for each dense network, batch"
            f" {rule.batch_size}; SGD with momentum {rule.momentum:g}, learning rate"
            f" {rule.learning_rate:g} falling as a cosine, weight decay {rule.weight_decay:g}:"
            " for all alike"
        ),
        f"slimmable: {slimmable}",
        "learning rate and rule were chosen on training images kept back, see --held-back",
        "the number of its steps makes CPU times equal: both are timed in turns beforehand",
    )
