"""Teach a slimmable network what an ensemble says. Imports torch.

The student learns at several widths in each step, by the sandwich rule
(`slimmable.training_rule`): the widths share their weights, so taught one after the other the last
one would overwrite what the others learnt. Every width learns from the ensemble itself.

The loss of a width, averaged over a batch:

* with one voice, T^2 KL(softmax(ensemble / T), softmax(student / T)), the distance of Hinton et
  al., "Distilling the Knowledge in a Neural Network", 2015; FedDF is T = 1;
* with a second voice (Fed-ET), the cross-entropy with the class that the consensus chooses, plus
  ``diversity`` times KL(softmax(dissent), softmax(student)) where anybody disagrees;
* for tasks without classes, the mean squared error.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from slimmable.ensemble import Lesson
from slimmable.model import SlimmableModel
from slimmable.slicing import check_state
from slimmable.state import Array, ModelState
from slimmable.task import Task, TaskKind
from slimmable.torch_device import on_torch_device, seed_torch, torch_device
from slimmable.training import DivergenceError, SlicedNetwork, batches
from slimmable.training_rule import Schedule, TrainingRule, WidthDraw, WidthRule

FIRST, SECOND, STABLE = 0.9, 0.999, 1e-8  # of Adam: decay of mean and squares, and its epsilon
# A student that says what it is told has gradients of rounding alone, and Adam would blow them up
# to full steps. So much divergence, or so much of the squares of the values, is not worth a step.
SAME, SAME_SHARE = 1e-6, 1e-10
LOOKS = 10  # how often a judge looks, evenly over the steps
PATIENCE = 3  # looks in a row without improvement that end it


@dataclass(frozen=True)
class StudentRule:
    """How a student learns.

    Attributes:
        steps: of Adam (Kingma and Ba, ICLR 2015, algorithm 1).
        batch_size: samples a step.
        learning_rate: the highest; it falls along a cosine to almost 0.
        widths: of the grid.
        temperature: T, of one voice.
        diversity: weight of the second voice.
    """

    steps: int
    batch_size: int
    learning_rate: float
    widths: tuple[float, ...]
    temperature: float = 1.0
    diversity: float = 0.05


@dataclass(frozen=True)
class Taught:
    """What teaching came to.

    Attributes:
        state: the full state dict that the judge likes best; without one, that of the last step.
        steps: that it was taught; 0 = it is the one that was given.
        loss_before, loss_after: by the judge; None without one.
        trouble: why it ended early, where something went wrong.
    """

    state: ModelState
    steps: int
    loss_before: float | None = None
    loss_after: float | None = None
    trouble: str = ""


def teach(
    model: SlimmableModel,
    state: ModelState,
    x: Array,
    lesson: Lesson,
    rule: StudentRule,
    rng: np.random.Generator,
    judge: Callable[[ModelState], float] | None = None,
) -> Taught:
    """Teach a network until the steps are over, the judge sees no more gain, or it breaks.

    Args:
        model: see `Student`, as for those that follow.
        state: full state dict that it starts from.
        x: (N, ...) inputs.
        lesson: about them.
        rule: how to learn.
        rng: draws batches, widths and the seed of dropout layers.
        judge: the loss of a full state on samples that are not among ``x``; looked at `LOOKS`
            times, and `PATIENCE` looks in a row without a better one end it.
    """
    before = judge(state) if judge else None
    best = Taught(state, 0, before, before)
    if before is not None and not math.isfinite(before):
        return replace(best, trouble="the network to be taught says NaN or infinity")
    since = 0
    with torch.random.fork_rng(devices=[]):
        try:
            student = Student(model, state, x, lesson, rule, rng)
            for step in range(1, rule.steps + 1):
                student.step()
                if judge is None or step * LOOKS % rule.steps >= LOOKS:
                    continue
                found = student.state()
                loss = judge(found)
                since += 1
                if best.loss_after is not None and loss < best.loss_after:
                    best, since = Taught(found, step, before, loss), 0
                if since == PATIENCE:
                    break
            return Taught(student.state(), rule.steps) if judge is None else best
        except DivergenceError as error:
            return replace(best, trouble=str(error))


class Student:
    """A student under way: one call a step.

    It seeds torch's global generator and leaves it so; whoever minds wraps it in
    `torch.random.fork_rng`.
    """

    def __init__(
        self,
        model: SlimmableModel,
        state: Mapping[str, Array],
        x: Array,
        lesson: Lesson,
        rule: StudentRule,
        rng: np.random.Generator,
    ) -> None:
        """Prepare.

        Args:
            model: of the student.
            state: full state dict that it starts from.
            x: (N, ...) inputs.
            lesson: about them.
            rule: how to learn.
            rng: draws batches, widths and the seed of dropout layers.

        Raises:
            SpecError: the state is not a full one.
        """
        spec = model.spec
        check_state(state, spec, 1.0)
        self._task, self._given, self._rule, self._rng = model.task, state, rule, rng
        self._x, self._lesson = x, lesson
        self._pace = TrainingRule(
            steps=rule.steps,
            batch_size=rule.batch_size,
            learning_rate=rule.learning_rate,
            momentum=0.0,
            weight_decay=0.0,
            widths=rule.widths,
            rule=WidthRule.SANDWICH,
            schedule=Schedule.COSINE,
        )
        self._leaves = {name: _tensor(state[name]).requires_grad_() for name in spec.parameters}
        fixed = {name: _tensor(state[name]) for name in sorted(spec.constants)}
        self._tensors = {**self._leaves, **fixed}
        self._first = {name: torch.zeros_like(leaf) for name, leaf in self._leaves.items()}
        self._second = {name: torch.zeros_like(leaf) for name, leaf in self._leaves.items()}
        self._draw = WidthDraw(self._pace, 1.0)
        self._batches = batches(len(x), rule.batch_size, rng)
        seed_torch(int(rng.integers(2**63)))
        self._slices = {
            width: SlicedNetwork(model, width, 1.0, scaler=False) for width in self._draw.widths
        }
        self._same = _same(model.task, lesson)
        self._done = 0

    def step(self) -> float:
        """Take one step and return the loss, averaged over its widths.

        Where the student says what it is told, to within rounding, it stays as it is.

        Raises:
            DivergenceError: the loss is NaN or infinite.
        """
        chosen = next(self._batches)
        widths = self._draw.draw(self._rng)
        x = on_torch_device(self._x[chosen])
        total = 0.0
        for width in widths:
            outputs = self._slices[width].forward(self._tensors, x)
            loss = lesson_loss(self._task, outputs, self._told(chosen), self._rule)
            reached = float(loss.detach())
            if not math.isfinite(reached):
                raise DivergenceError(
                    f"loss is {reached} at step {self._done}; lower the learning rate"
                )
            (loss / len(widths)).backward()  # type: ignore[no-untyped-call]
            total += reached
        rate = self._pace.rate(self._done)
        self._done += 1
        if total > self._same * len(widths):
            self._adam(rate)
        for leaf in self._leaves.values():
            leaf.grad = None
        return total / len(widths)

    def state(self) -> ModelState:
        """Return the full state after the steps so far, with statistics as they were given.

        Raises:
            DivergenceError: a weight became NaN or infinite.
        """
        taught = {name: leaf.detach().cpu().numpy().copy() for name, leaf in self._leaves.items()}
        for name, array in taught.items():
            if not np.isfinite(array).all():
                raise DivergenceError(f"tensor {name!r} became infinite; lower the learning rate")
        return {**{name: np.array(array) for name, array in self._given.items()}, **taught}

    def _told(self, chosen: Array) -> Lesson:
        lesson = self._lesson
        if lesson.dissent is None or lesson.dissenting is None:
            return Lesson(lesson.outputs[chosen])
        return Lesson(lesson.outputs[chosen], lesson.dissent[chosen], lesson.dissenting[chosen])

    def _adam(self, rate: float) -> None:
        with torch.no_grad():
            for name, leaf in self._leaves.items():
                if leaf.grad is None:
                    continue
                first, second = self._first[name], self._second[name]
                first.lerp_(leaf.grad, 1 - FIRST)
                second.mul_(SECOND).addcmul_(leaf.grad, leaf.grad, value=1 - SECOND)
                mean = first / (1 - FIRST**self._done)
                size = (second / (1 - SECOND**self._done)).sqrt_().add_(STABLE)
                leaf.addcdiv_(mean, size, value=-rate)


def lesson_loss(
    task: Task, outputs: torch.Tensor, lesson: Lesson, rule: StudentRule
) -> torch.Tensor:
    """Return how far a student is from its lesson, see the head of this file.

    Args:
        task: of the network.
        outputs: (N, ...) of the student.
        lesson: about the same samples.
        rule: temperature and diversity.
    """
    told = on_torch_device(lesson.outputs)
    if task.kind is not TaskKind.CLASSIFICATION:
        return nn.functional.mse_loss(outputs, told.reshape(outputs.shape))
    if lesson.dissent is None or lesson.dissenting is None:
        return rule.temperature**2 * _divergence(told, outputs, rule.temperature).mean()
    wanted = nn.functional.cross_entropy(outputs, told.argmax(dim=1))
    apart = _divergence(on_torch_device(lesson.dissent), outputs, 1.0)
    heard = on_torch_device(lesson.dissenting).to(apart.dtype)
    return wanted + rule.diversity * (heard * apart).mean()


def _same(task: Task, lesson: Lesson) -> float:
    """Return the loss up to which a student says what it is told; a second voice never agrees."""
    if task.kind is not TaskKind.CLASSIFICATION:
        return SAME_SHARE * float(np.square(lesson.outputs, dtype=np.float64).mean())
    return SAME if lesson.dissent is None else 0.0


def _divergence(told: torch.Tensor, said: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return KL(softmax(told / T), softmax(said / T)) of each sample, (N,)."""
    target, own = ((one / temperature).log_softmax(dim=1) for one in (told, said))
    return (target.exp() * (target - own)).sum(dim=1)


def _tensor(array: Array) -> torch.Tensor:
    return torch.tensor(array).to(torch_device())
