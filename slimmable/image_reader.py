"""Read samples from a folder that holds one folder of images per class. Needs Pillow."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slimmable.samples import Array, Samples, SamplesError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"})
WIDE_MODES = ("I", "F")  # Pillow's modes of more than 8 bits a channel


def read_images(
    path: Path,
    *,
    color: bool = False,
    size: Sequence[int] | None = None,
    classes: Sequence[str] = (),
) -> Samples:
    """Read images as float32 (channels, height, width) with values from 0 to 1.

    Each image counts as a recording of its own. Files that are no images by their ending, and
    hidden ones, are passed over.

    Args:
        path: a folder with one folder per class.
        color: three channels (red, green, blue) instead of one (grey).
        size: [height, width] that all images are resized to; without it they must agree.
        classes: folder names in the model's order; one that is absent is a class that this device
            has not seen. Without it all folders count, sorted by name: then every device needs the
            same folders, empty ones included.

    Raises:
        SamplesError: the message names the folder or file and what is wrong with it.
    """
    files = _labelled_files(path, classes)
    shape = (int(size[0]), int(size[1])) if size else None
    first = _read_image(files[0][0], shape, color=color)
    x = np.empty((len(files), *first.shape), dtype=np.float32)
    for number, (file, _) in enumerate(files):
        image = _read_image(file, shape, color=color)
        if image.shape != first.shape:
            raise SamplesError(
                f"{file} has {_pixels(image)} pixels, {files[0][0]} has {_pixels(first)}; give the"
                " option size = [height, width]"
            )
        x[number] = image
    y = np.array([label for _, label in files], dtype=np.int64)
    return Samples(x, y, np.arange(len(files), dtype=np.int64))


def _labelled_files(path: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    if not path.is_dir():
        raise SamplesError(f"{path} is not a folder; give one that holds a folder per class")
    found = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    unknown = sorted(set(found) - set(classes)) if classes else []
    if unknown:
        raise SamplesError(f"{path / unknown[0]} is not one of the classes {list(classes)}")
    files = [
        (file, label)
        for label, name in enumerate(classes or found)
        if name in found
        for file in sorted((path / name).iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise SamplesError(f"{path} holds no images; put them into one folder per class")
    return files


def _read_image(file: Path, size: tuple[int, int] | None, *, color: bool) -> Array:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise SamplesError(
            "reading images needs Pillow; install pillow, which slimfleet[train] brings"
        ) from error
    try:
        with Image.open(file) as opened:
            _refuse_wide(file, opened)
            image = ImageOps.exif_transpose(opened).convert("RGB" if color else "L")
    except SamplesError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise SamplesError(f"{file} cannot be read as an image: {error}; remove it") from error
    if size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if color else pixels[None]


def _refuse_wide(file: Path, image: "Image") -> None:
    if image.mode.startswith(WIDE_MODES):  # Pillow would cut all above 255 off without a word
        raise SamplesError(
            f"{file} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits"
        )


def _pixels(image: Array) -> str:
    return f"{image.shape[1]} x {image.shape[2]}"
