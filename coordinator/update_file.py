"""An accepted update, read from the blob folder."""

from functools import partial

from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import UpdateFile
from journal.blobs import BlobFolder
from slimmable.private_parts import part_of, shared_spec
from slimmable.slicing import slice_state
from slimmable.spec import WidthSpec
from slimmable.state import ModelState
from slimmable.update_codec import decode_update


def read_update(
    blobs: BlobFolder,
    spec: WidthSpec,
    base: ModelState,
    update: UpdateFile,
    private: tuple[str, ...] = (),
) -> DeviceUpdate:
    """Return a stored update; of what is private it changes nothing.

    Args:
        blobs: where it is.
        spec: of the model.
        base: full state that the round started from.
        update: which one.
        private: patterns of what devices keep to themselves.
    """
    payload, width, window = blobs.get(update.digest), update.width, update.window
    if not private:
        received = partial(slice_state, base, spec, width, window)
        state = decode_update(payload, received, spec, width)
    else:
        travels, whole = shared_spec(spec, private), slice_state(base, spec, width, window)
        shared = part_of(whole, travels.tensors)
        state = whole | decode_update(payload, lambda: shared, travels, width)
    return DeviceUpdate(update.device, width, state, update.weight, window)
