"""The part of a network that a device keeps to itself, around one training. Imports torch.

The task names patterns (`broker.messages.TrainingSettings.private`): what they match is not in the
weights that arrive, nor in the update. The device's own configuration may name more
(``train.never_send``): that does arrive, is replaced by the device's own, and goes back as it came.
"""

from collections.abc import Mapping
from pathlib import Path

from edge_agent.kept_tensors import KeptTensors
from edge_agent.trainer_protocol import TrainCommand
from slimmable.evaluation import initial_state
from slimmable.model import SlimmableModel
from slimmable.private_parts import check_patterns, part_of, private_names, shared_spec
from slimmable.slicing import check_state
from slimmable.spec import SpecError
from slimmable.state import Array, ModelState


class PrivatePart:
    """What of one training command's network is the device's own."""

    def __init__(self, command: TrainCommand, model: SlimmableModel) -> None:
        """Work out which tensors they are.

        Raises:
            SpecError: a pattern matches no tensor, or nothing would be left to share.
        """
        self._command, self._model = command, model
        self.patterns = (*command.training.private, *command.never_send)
        self.spec = shared_spec(model.spec, command.training.private)
        self._names = private_names(model.spec, self.patterns)
        self._kept: KeptTensors | None = None
        if self.patterns:
            check_patterns(model.spec, self.patterns)
            if not command.kept:
                raise SpecError("private parts need a folder to be kept in, and none was named")
            self._kept = KeptTensors(Path(command.kept), model.spec)

    def joined(self, received: ModelState) -> ModelState:
        """Return the whole slice: what was received, and the device's own in its place.

        Raises:
            SpecError: what was received is not what the patterns leave to be shared.
        """
        width = self._command.width
        check_state(received, self.spec, width)
        if self._kept is None:
            return received
        start = dict(received)
        if absent := self._names - set(received):
            fresh = initial_state(self._model, self._command.start_seed, width)
            start |= part_of(fresh, absent)
        return start | self._kept.at(width, part_of(start, self._names))

    def sent(self, trained: Mapping[str, Array], received: Mapping[str, Array]) -> ModelState:
        """Return what of a trained slice travels; what is the device's own goes as it came."""
        return {name: received[name] if name in self._names else trained[name] for name in received}

    def keep(self, trained: Mapping[str, Array]) -> None:
        """Keep the device's own part of a trained slice.

        Raises:
            OSError: the disk is full or fails.
        """
        if self._kept:
            self._kept.keep(self._command.width, part_of(trained, self._names))
