"""An accepted update, read from the blob folder: whole, or in pieces."""

from functools import cache

import numpy as np

from coordinator.aggregation.readers import ChangeReader, Parts
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.bench import UpdateFile
from journal.blobs import BlobFolder
from slimmable.private_parts import part_of, shared_spec
from slimmable.slicing import coverage, slice_state
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState, decode_state, view_state
from slimmable.update_codec import decode_update
from slimmable.update_parts import UpdateParts
from slimmable.window import Place


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
    travels = shared_spec(spec, private)
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


def stored_change(
    blobs: BlobFolder, spec: WidthSpec, update: UpdateFile, private: tuple[str, ...] = ()
) -> ChangeReader:
    """Return what a stored update changed; it stays in its file, whose digest is checked.

    See `read_update` for late updates and for what is private.

    Args:
        blobs: where it is.
        spec: of the model.
        update: which one.
        private: patterns of what devices keep to themselves.
    """
    travels = shared_spec(spec, private)
    place = (update.width, update.window)
    parts: Parts = UpdateParts(view_state(blobs.mapped(update.digest)), travels, update.width)
    if update.base:
        parts = _Late(parts, spec, view_state(blobs.mapped(update.base)), place)
    factor = update.factor if update.base else 1.0
    return ChangeReader(update.player, update.width, parts, update.weight, update.window, factor)


class _Late:
    """Reads what changed against the weights that a late update was trained on."""

    def __init__(self, parts: Parts, spec: WidthSpec, base: ModelState, place: Place) -> None:
        self._parts, self._spec, self._base, self._place = parts, spec, base, place
        self._slice: tuple[str, Array] | None = None

    def change(self, name: str, start: int, stop: int, _received: Array, out: Array) -> None:
        if self._slice is None or self._slice[0] != name:
            own = self._base[name][coverage(self._spec, name, *self._place)]
            self._slice = (name, np.ascontiguousarray(own).reshape(-1))
        self._parts.change(name, start, stop, self._slice[1][start:stop], out)
