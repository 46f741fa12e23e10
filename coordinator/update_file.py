"""An accepted update, read from the blob folder."""

from functools import cache

import numpy as np

from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import UpdateFile
from journal.blobs import BlobFolder
from slimmable.private_parts import part_of, shared_spec
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.state import ModelState, decode_state
from slimmable.update_codec import decode_update


def read_update(
    blobs: BlobFolder,
    spec: WidthSpec,
    base: ModelState,
    update: UpdateFile,
    private: tuple[str, ...] = (),
) -> DeviceUpdate:
    """Return a stored update by the name that it has in its round; what is private never changes.

    A late one comes as if it had been trained on the weights of the round: the change against its
    own weights, times its factor, is added to those.

    Args:
        blobs: where it is.
        spec: of the model.
        base: full state that the round started from.
        update: which one.
        private: patterns of what devices keep to themselves.
    """
    travels = shared_spec(spec, private) if private else spec
    now = slice_state(base, spec, update.width, update.window)

    @cache
    def received() -> ModelState:
        if not update.base:
            return part_of(now, travels.tensors)
        own = slice_state(decode_state(blobs.get(update.base)), spec, update.width, update.window)
        return part_of(own, travels.tensors)

    state = decode_update(blobs.get(update.digest), received, travels, update.width)
    if update.base:
        own, factor = received(), np.float32(update.factor)
        state = {
            name: now[name] + factor * (state[name] - own[name]) for name in travels.parameters
        }
    return DeviceUpdate(update.player, update.width, {**now, **state}, update.weight, update.window)
