"""An accepted update, read from the blob folder."""

from functools import partial

from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import UpdateFile
from journal.blobs import BlobFolder
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.state import ModelState
from slimmable.update_codec import decode_update


def read_update(
    blobs: BlobFolder, spec: WidthSpec, base: ModelState, update: UpdateFile
) -> DeviceUpdate:
    """Return a stored update.

    Args:
        blobs: where it is.
        spec: of the model.
        base: full state that the round started from.
        update: which one.
    """
    received = partial(slice_state, base, spec, update.width, update.window)
    state = decode_update(blobs.get(update.digest), received, spec, update.width)
    return DeviceUpdate(update.device, update.width, state, update.weight, update.window)
