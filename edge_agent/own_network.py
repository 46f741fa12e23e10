"""A network that stays on the device, and what it tells the others. Imports torch.

Its architecture is the device's own business: nothing of it travels but rows of numbers that every
network can make (`slimmable.knowledge`). It is kept on the disk from round to round.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edge_agent.kept_tensors import KeptTensors
from edge_agent.trainer_protocol import TrainCommand
from slimmable.evaluation import initial_state
from slimmable.guidance import CLASS_SCORES, PROTOTYPES, Guidance, row_size, what_it_says
from slimmable.knowledge import (
    COUNT,
    LARGEST,
    MEAN,
    KnowledgeError,
    check_knowledge,
    class_means,
    nothing_known,
)
from slimmable.model import SlimmableModel
from slimmable.samples import Samples
from slimmable.spec import SpecError
from slimmable.state import ModelState, decode_state, encode_state
from slimmable.training import train
from slimmable.training_rule import TrainingRule

EXCHANGES = (PROTOTYPES, CLASS_SCORES)
FULL = 1.0


class OwnNetwork:
    """The device's network around one task."""

    def __init__(self, command: TrainCommand, model: SlimmableModel) -> None:
        """Read what the others know, and the network as it was kept.

        Raises:
            SpecError: the network cannot take part in this exchange; the message says why.
            StateError: the bytes of the task are none.
        """
        if command.payload not in EXCHANGES:
            raise SpecError(f"what a {command.payload!r} is, this version does not know: update it")
        if not command.kept:
            raise SpecError("a network of its own needs a folder to be kept in; none was named")
        self._command, self._model = command, model
        self.knowledge = decode_state(command.state)
        self._check_form()
        self._kept = KeptTensors(Path(command.kept), model.spec)
        self.state = self._kept.at(FULL, initial_state(model, command.start_seed))

    def _check_form(self) -> None:
        classes, own = len(self._model.task.classes), row_size(self._model, self._command.payload)
        try:
            rows, size = self.knowledge[MEAN].shape
        except (KeyError, ValueError):
            raise SpecError("the task brings no knowledge that this version can read") from None
        if rows != classes:
            raise SpecError(
                f"network {self._model.name!r} on this device tells {classes} classes apart, the"
                f" fleet {rows}: give it the same classes"
            )
        if size != own:
            raise SpecError(
                f"network {self._model.name!r} on this device has {own} features before its last"
                f" layer, the fleet's have {size}: give its last hidden layer {size}, or let the"
                ' fleet use exchange = "class-scores"'
            )
        try:
            check_knowledge(self.knowledge, nothing_known(rows, size))
        except KnowledgeError as error:
            raise SpecError(f"the task's knowledge cannot be used: {error}") from error

    def learn(self, samples: Samples, after_step: Callable[[int], None]) -> tuple[float, bytes]:
        """Train the network with what the others know, keep it, and say what it knows now.

        A "free-rider" does none of it, and tells what it was told, with noise if asked for.

        Args:
            samples: that train.
            after_step: called with the number of finished steps.

        Returns:
            The mean loss, and the bytes that travel.

        Raises:
            DivergenceError: the loss or a weight became NaN or infinite.
            FloatingPointError: what the network says is beyond what can be told.
            OSError: the disk is full or fails; what was kept is still there.
        """
        command, rng = self._command, np.random.default_rng(self._command.seed)
        if command.behaviour == "free-rider":
            return 0.0, encode_state(self._repeated(rng))
        guide = Guidance(command.payload, self.knowledge, command.knowledge_weight)
        rule = TrainingRule(**msgspec.structs.asdict(command.training))
        state, loss = train(
            self._model, self.state, FULL, samples, rule, rng, after_step, guide=guide
        )
        said = what_it_says(self._model, state, samples.x, command.payload)
        if not np.isfinite(said).all() or np.abs(said).max() > LARGEST:
            raise FloatingPointError(
                f"the network says numbers beyond {LARGEST:g}: lower the learning rate"
            )
        told = class_means(said, samples.y, len(self._model.task.classes))
        self._kept.keep(FULL, state)
        return loss, encode_state(told)

    def _repeated(self, rng: np.random.Generator) -> ModelState:
        known = (self.knowledge[COUNT] > 0)[:, None]
        noise = rng.normal(0.0, self._command.noise, self.knowledge[MEAN].shape) * known
        return {**self.knowledge, MEAN: (self.knowledge[MEAN] + noise).astype(np.float32)}
