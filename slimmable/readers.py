"""Read a device's samples from files. No reader executes what a file holds."""

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from slimmable.csv_reader import read_csv
from slimmable.idx_reader import read_idx
from slimmable.image_reader import read_images
from slimmable.samples import Array, Samples, SamplesError

ENTRY_POINT_GROUP = "slimfleet.readers"
Reader = Callable[..., Samples]  # of a path, and of options by keyword


def read_samples(path: Path, reader: str, options: Mapping[str, Any] | None = None) -> Samples:
    """Read samples with the reader of that name.

    Args:
        path: file or folder, handed to the reader.
        reader: built in, an entry point of ``slimfleet.readers``, or ``package.module:function``.
            A built-in name always means the built-in reader.
        options: keyword arguments of the reader.

    Raises:
        SamplesError: no such reader, it cannot read ``path``, or it refused the options.
    """
    read = find_reader(reader)
    given = dict(options or {})
    try:
        samples = read(path, **given)
    except SamplesError:
        raise
    except (TypeError, ValueError) as error:
        raise SamplesError(
            f"reader {reader!r} failed on {path} with options {given}: {error}"
        ) from error
    except OSError as error:
        raise SamplesError(f"cannot read {path}: {error.strerror or error}; check the path") from (
            error
        )
    if not isinstance(samples, Samples):
        raise SamplesError(f"reader {reader!r} returned {type(samples).__name__}, not Samples")
    return samples


def find_reader(name: str) -> Reader:
    """Return the reader called ``name``.

    Raises:
        SamplesError: there is none; the message lists the built-in ones.
    """
    if name in READERS:
        return READERS[name]
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    module, colon, function = name.partition(":")
    if not colon and name not in installed:
        raise SamplesError(
            f"no reader {name!r}: use one of {sorted(READERS)}, an entry point of"
            f" {ENTRY_POINT_GROUP!r}, or package.module:function"
        )
    try:
        if colon:
            reader = getattr(importlib.import_module(module), function)
        else:
            reader = installed[name].load()
    except Exception as error:  # somebody else's module may raise anything while it is imported
        raise SamplesError(
            f"reader {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(reader):
        raise SamplesError(f"reader {name!r} is a {type(reader).__name__}, a function is needed")
    return reader  # type: ignore[no-any-return]


def read_npz(path: Path) -> Samples:
    """Read an ``.npz`` file with the arrays ``x``, ``y`` and ``recording``.

    ``x`` is (N, ...) numbers. ``y`` is (N,) integers for classes, or floating point values;
    without it the inputs are their own targets (reconstruction). ``recording`` is (N,) integers;
    without it each sample counts as a recording of its own, which is wrong where windows overlap.

    Raises:
        SamplesError: the file is no such archive, or holds pickled objects.
    """
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("x", "y", "recording") if name in archive}
    except OSError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds on a damaged archive
        raise SamplesError(
            f"{path} is not an .npz file of plain arrays: {type(error).__name__}: {error}"
        ) from error
    if "x" not in arrays:
        raise SamplesError(
            f"{path} holds no array 'x'; save it with numpy.savez(path, x=..., y=...)"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        x = _numbers(path, "x", arrays["x"]).astype(np.float32)
        y = _numbers(path, "y", arrays.get("y", x))
        y = y.astype(np.float32 if y.dtype.kind == "f" else np.int64)
    recording = _numbers(path, "recording", arrays.get("recording", np.arange(len(x))))
    if recording.dtype.kind not in "iu":
        raise SamplesError(f"{path}: 'recording' is of type {recording.dtype}, integers are needed")
    return Samples(x, y, recording.astype(np.int64))


def _numbers(path: Path, name: str, array: Array) -> Array:
    if array.dtype.kind not in "iufb" or array.ndim == 0:
        raise SamplesError(
            f"{path}: {name!r} is of type {array.dtype}, an array of numbers is needed"
        )
    return array


READERS: dict[str, Reader] = {
    "csv": read_csv,
    "idx": read_idx,
    "images": read_images,
    "npz": read_npz,
}
