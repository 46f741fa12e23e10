"""A network that stays on the device, and what it tells the others. Imports torch.

Its architecture is the device's own business: nothing of it travels but rows of numbers that every
network can make (`slimmable.knowledge`). It is kept on the disk from round to round.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from edge_agent.kept_tensors import KeptTensors
from edge_agent.trainer_protocol import TrainCommand
from slimmable.evaluation import initial_state
from slimmable.guidance import (
    CLASS_SCORES,
    PROTOTYPES,
    PUBLIC_SCORES,
    Guidance,
    row_size,
    what_it_says,
)
from slimmable.knowledge import (
    COUNT,
    INPUTS,
    LARGEST,
    MEAN,
    KnowledgeError,
    check_knowledge,
    class_means,
    nothing_known,
    sample_scores,
)
from slimmable.model import SlimmableModel
from slimmable.public_consensus import digest_consensus
from slimmable.samples import Samples
from slimmable.spec import SpecError
from slimmable.state import Array, ModelState, StateError, decode_state, encode_state
from slimmable.training import train
from slimmable.training_rule import TrainingRule

EXCHANGES = (PROTOTYPES, CLASS_SCORES, PUBLIC_SCORES)
FULL = 1.0
DIGESTING = 0xD16  # draws of its own: those of the steps on own data stay what they are without it


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
        self._public = self._read_public() if command.payload == PUBLIC_SCORES else None
        self._check_form()
        self._kept = KeptTensors(Path(command.kept), model.spec)
        self.state = self._kept.at(FULL, initial_state(model, command.start_seed))

    @property
    def steps(self) -> int:
        """Gradient steps that learning takes."""
        return self._command.training.steps + self._digest_steps

    @property
    def _digest_steps(self) -> int:
        """Steps towards the consensus; none where there is none yet, as in the first round."""
        wanted = self._public is not None and self._command.knowledge_weight > 0
        return self._command.digest_steps if wanted and self.knowledge[COUNT].any() else 0

    def _read_public(self) -> Array:
        """Return the inputs (N, ...) that all devices score."""
        if not self._command.public:
            raise SpecError("the task names no public inputs: update the server")
        try:
            found = decode_state(Path(self._command.public).read_bytes())[INPUTS]
        except (OSError, KeyError) as error:
            raise StateError(f"the public inputs cannot be read: {error}") from error
        if found.dtype != np.float32 or not np.isfinite(found).all():
            raise StateError("the public inputs hold NaN, infinity or no float32 numbers")
        if found.shape[1:] != tuple(self._model.input_shape):
            raise SpecError(
                f"network {self._model.name!r} on this device takes samples of shape"
                f" {list(self._model.input_shape)}, the public ones have {list(found.shape[1:])}:"
                " give it the fleet's input shape"
            )
        return found

    def _check_form(self) -> None:
        classes, own = len(self._model.task.classes), row_size(self._model, self._command.payload)
        try:
            rows, size = self.knowledge[MEAN].shape
        except (KeyError, ValueError):
            raise SpecError("the task brings no knowledge that this version can read") from None
        public = self._public
        if public is not None and rows != len(public):
            raise SpecError(
                f"the task knows {rows} public samples and brings {len(public)} of them"
            )
        told = rows if public is None else size
        if told != classes:
            raise SpecError(
                f"network {self._model.name!r} on this device tells {classes} classes apart, the"
                f" fleet {told}: give it the same classes"
            )
        if public is None and size != own:
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
        state, loss = self._trained(samples, rng, after_step)
        public = self._public
        x = samples.x if public is None else public
        said = what_it_says(self._model, state, x, command.payload, calibrated_on=samples.x)
        if not np.isfinite(said).all() or np.abs(said).max() > LARGEST:
            raise FloatingPointError(
                f"the network says numbers beyond {LARGEST:g}: lower the learning rate"
            )
        if public is None:
            told = class_means(said, samples.y, len(self._model.task.classes))
        else:
            told = sample_scores(said)
        self._kept.keep(FULL, state)
        return loss, encode_state(told)

    def _trained(
        self, samples: Samples, rng: np.random.Generator, after_step: Callable[[int], None]
    ) -> tuple[ModelState, float]:
        """Return the trained state and the mean loss on the device's own samples."""
        command, state, done = self._command, self.state, self._digest_steps
        rule = TrainingRule(**msgspec.structs.asdict(command.training))
        if self._public is None:
            guide = Guidance(command.payload, self.knowledge, command.knowledge_weight)
            return train(self._model, state, FULL, samples, rule, rng, after_step, guide=guide)
        if done:
            state = digest_consensus(
                self._model,
                state,
                self._public,
                self.knowledge,
                replace(rule, steps=done),
                command.knowledge_weight,
                np.random.default_rng((command.seed, DIGESTING)),
                after_step,
            )
        return train(
            self._model, state, FULL, samples, rule, rng, lambda step: after_step(done + step)
        )

    def _repeated(self, rng: np.random.Generator) -> ModelState:
        known = (self.knowledge[COUNT] > 0)[:, None]
        noise = rng.normal(0.0, self._command.noise, self.knowledge[MEAN].shape) * known
        return {**self.knowledge, MEAN: (self.knowledge[MEAN] + noise).astype(np.float32)}
