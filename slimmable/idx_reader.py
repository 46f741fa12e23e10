"""Read labelled images from a pair of idx files, the form in which MNIST and its kin come."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from slimmable.samples import Array, Samples, SamplesError

UNSIGNED_BYTES = 0x08  # the format's code of this type
IMAGES, LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"


def read_idx(
    path: Path, *, part: str = "train", mean: float = 0.0, deviation: float = 1.0
) -> Samples:
    """Read images as float32 (1, height, width) with values from 0 to 1, then centred.

    Each image counts as a recording of its own.

    Args:
        path: folder of ``<part>-images-idx3-ubyte`` and ``<part>-labels-idx1-ubyte``, with or
            without ``.gz``.
        part: first word of the names, "train" or "t10k" in MNIST.
        mean: what the pixels from 0 to 1 are centred by.
        deviation: what they are then divided by.

    Raises:
        SamplesError: a file is missing, damaged, or holds something else.
    """
    if not deviation > 0:
        raise SamplesError(f"deviation = {deviation}: the pixels are divided by it; above 0")
    images, labels = (_read_array(path, f"{part}{ending}") for ending in (IMAGES, LABELS))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise SamplesError(
            f"{path}: images of shape {images.shape} and labels of shape {labels.shape} do not"
            " belong together; put the two files of one part there"
        )
    x = images[:, None].astype(np.float32)
    x /= 255
    x -= np.float32(mean)
    x /= np.float32(deviation)
    return Samples(x, labels.astype(np.int64), np.arange(len(x), dtype=np.int64))


def _read_array(folder: Path, name: str) -> Array:
    """Return the array of one file.

    The format: two zero bytes, the type, the number of dimensions, each length as a big-endian
    32-bit integer, then the values, last dimension fastest.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    if not (plain.exists() or packed.exists()):
        raise SamplesError(f"there is no {plain}, nor {packed.name}; give the folder that holds it")
    try:
        data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SamplesError(f"{packed} cannot be unpacked: {error}; fetch it again") from error
    if len(data) < 4 or data[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise SamplesError(f"{plain} is no idx file of unsigned bytes")
    start = 4 + 4 * data[3]
    lengths = data[4:start]
    shape = tuple(int.from_bytes(lengths[at : at + 4]) for at in range(0, len(lengths), 4))
    if len(lengths) != 4 * data[3] or len(data) != start + math.prod(shape):
        raise SamplesError(f"{plain} is cut off; fetch it again")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
