"""What an update changed, decoded a part at a time: no more of it need be in memory. numpy only."""

from collections.abc import Callable, Mapping

import numpy as np

from slimmable.spec import WidthSpec
from slimmable.state import Array
from slimmable.update_codec import SCALE, STEPS, TOP_K_INDEX, TOP_K_VALUE, UpdateEncoding

# Start and stop in C order, the values before training, where the change goes.
_Reader = Callable[[int, int, Array, Array], None]


class UpdateParts:
    """Reads from the tensors of one update, whatever its encoding (`slimmable.update_codec`).

    The tensors may be views into a file that is mapped into memory. They are taken as sound:
    whoever accepted the update has decoded it once.
    """

    def __init__(self, tensors: Mapping[str, Array], spec: WidthSpec, width: float) -> None:
        """Take the tensors of an update of the slice at ``width``."""
        self._readers: dict[str, _Reader] = {}
        flat = {name: array.reshape(-1) for name, array in tensors.items()}
        first = 0
        for name in spec.parameters:
            if name in flat:
                self._readers[name] = _difference(flat[name])
            elif TOP_K_INDEX in flat:
                self._readers[name] = _largest(flat[TOP_K_INDEX], flat[TOP_K_VALUE], first)
                first += int(np.prod(spec.shape(name, width), dtype=np.int64))
            else:
                self._readers[name] = _rounded(name, flat)

    def change(self, name: str, start: int, stop: int, received: Array, out: Array) -> None:
        """Write what training changed of some entries of a parameter.

        Args:
            name: of the parameter.
            start: of the entries of its slice, in C order.
            stop: behind the last one.
            received: (stop - start,) the values before training.
            out: (stop - start,) float32, overwritten.
        """
        reader = self._readers.get(name)
        if reader is None:  # it does not travel
            out[:] = 0.0
        else:
            reader(start, stop, received, out)


def _difference(trained: Array) -> _Reader:
    def read(start: int, stop: int, received: Array, out: Array) -> None:
        np.subtract(trained[start:stop], received, out=out)

    return read


def _largest(index: Array, value: Array, first: int) -> _Reader:
    """Return the reader of a parameter whose entries are numbered from ``first`` on."""

    def read(start: int, stop: int, _received: Array, out: Array) -> None:
        low, high = np.searchsorted(index, (first + start, first + stop))
        out[:] = 0.0
        out[index[low:high].astype(np.intp) - (first + start)] = value[low:high]

    return read


def _rounded(name: str, flat: Mapping[str, Array]) -> _Reader:
    for half in (UpdateEncoding.FLOAT16, UpdateEncoding.BFLOAT16):
        if (values := flat.get(f"{half}/{name}")) is not None:
            return _brain(values) if half is UpdateEncoding.BFLOAT16 else _copied(values)
    steps = flat[f"{UpdateEncoding.INT8}/{name}"]
    scale = flat[f"{SCALE}/{name}"][0] / np.float32(STEPS)

    def read(start: int, stop: int, _received: Array, out: Array) -> None:
        np.multiply(steps[start:stop], scale, out=out, dtype=np.float32)

    return read


def _copied(values: Array) -> _Reader:
    def read(start: int, stop: int, _received: Array, out: Array) -> None:
        out[:] = values[start:stop]

    return read


def _brain(upper: Array) -> _Reader:
    def read(start: int, stop: int, _received: Array, out: Array) -> None:
        np.left_shift(upper[start:stop], 16, out=out.view(np.uint32), dtype=np.uint32)

    return read
