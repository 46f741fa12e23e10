"""An accepted update, read from the blob folder."""

from functools import cache

import numpy as np

from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import UpdateFile
from journal.blobs import BlobFolder
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.state import ModelState, decode_state
from slimmable.update_codec import decode_update


def read_update(
    blobs: BlobFolder, spec: WidthSpec, base: ModelState, update: UpdateFile
) -> DeviceUpdate:
    """Return a stored update, by the name that it has in its round.

    A late one comes as if it had been trained on the weights of the round: the change against its
    own weights, times its factor, is added to those.

    Args:
        blobs: where it is.
        spec: of the model.
        base: full state that the round started from.
        update: which one.
    """

    @cache
    def received() -> ModelState:
        own = decode_state(blobs.get(update.base)) if update.base else base
        return slice_state(own, spec, update.width, update.window)

    state = decode_update(blobs.get(update.digest), received, spec, update.width)
    if update.base:
        own, now = received(), slice_state(base, spec, update.width, update.window)
        factor = np.float32(update.factor)
        changed = {name: now[name] + factor * (state[name] - own[name]) for name in spec.parameters}
        state = {**now, **changed}
    return DeviceUpdate(update.player, update.width, state, update.weight, update.window)
