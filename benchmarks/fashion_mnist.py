"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017) from the gzipped idx files of a folder."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from benchmarks.errors import BenchmarkError
from slimmable.samples import Array, Samples

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
PACKAGE = "dataset-fashion-mnist"
CLASSES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
# Mean and standard deviation of the training pixels; networks learn faster on centred inputs.
MEAN, DEVIATION = 0.2860, 0.3530
BYTES = 0x08  # the idx format's code of unsigned bytes


def read_fashion_mnist(folder: Path, part: str) -> Samples:
    """Read one part of the data; each image counts as a recording of its own.

    Args:
        folder: holds the four ``.gz`` files.
        part: "train" (60,000 images) or "t10k" (10,000).

    Raises:
        BenchmarkError: a file is missing, damaged, or holds something else.
    """
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise BenchmarkError(
            f"{folder}: images of shape {images.shape} and labels of shape {labels.shape} do not"
            " belong together; install the data anew"
        )
    x = (images[:, None].astype(np.float32) / 255 - MEAN) / DEVIATION
    return Samples(x.astype(np.float32), labels.astype(np.int64), np.arange(len(x)))


def read_idx(path: Path) -> Array:
    """Read a gzipped idx file of unsigned bytes.

    The format: two zero bytes, the type, the number of dimensions, each length as a big-endian
    32-bit integer, then the values, last dimension fastest.

    Raises:
        BenchmarkError: the file is missing, damaged, or holds another type.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise BenchmarkError(
            f"{path} is missing: apt install {PACKAGE}, or name a folder that holds the data"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise BenchmarkError(f"{path} cannot be read: {error}; install the data anew") from error
    if len(data) < 4 or data[:3] != bytes([0, 0, BYTES]):
        raise BenchmarkError(f"{path} is no idx file of unsigned bytes; install the data anew")
    start = 4 + 4 * data[3]
    lengths = data[4:start]
    shape = tuple(int.from_bytes(lengths[at : at + 4]) for at in range(0, len(lengths), 4))
    if len(data) != start + math.prod(shape):
        raise BenchmarkError(f"{path} is cut off; install the data anew")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
