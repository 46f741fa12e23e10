"""Run the device's current model, on the device's own data.

For an application beside the agent::

    predictor = Predictor("/var/lib/slimfleet/agent")
    decoded = predictor.predict(x)  # float32 (N, ...)

`Predictor.reload_if_changed` takes over a newly deployed model without dropping a call; it is cheap
enough to stand before every call.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from broker.codec import decode_struct
from broker.errors import DecodeError
from broker.messages import ModelManifest
from edge_agent.model_folder import MANIFEST_FILE, InstalledModel, NotInstalledError
from edge_agent.runtime import LoadedModel, ModelFileError, NoModelError, load_model
from edge_agent.slots import SLOTS_FOLDER, STATE_FILE, read_current
from edge_agent.telemetry import TelemetryWindow, percentiles
from journal.disk import read_checked
from journal.errors import DamagedFileError
from slimmable.samples import Samples
from slimmable.task import Decoded

Array = npt.NDArray[Any]

WARM_UP_CALLS = 3
READ_ATTEMPTS = 3  # the agent may deploy, and collect the model just named, while we read


@dataclass(frozen=True)
class Measurement:
    """What the current model is worth on known samples.

    Attributes:
        score: the task's score, higher is better.
        mean_confidence: over the samples.
        samples: how many.
    """

    score: float
    mean_confidence: float
    samples: int


class Predictor:
    """The current model of a device, ready to answer. Methods may be called from any thread."""

    def __init__(
        self,
        source: Path | str,
        *,
        threads: int = 1,
        window: TelemetryWindow | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Load the current model, if there is one yet.

        Args:
            source: the agent's folder, its slots, or one ONNX file beside its `manifest.msgpack`.
            threads: of ONNX Runtime.
            window: counts what `predict` answers.
            clock: for latencies.

        Raises:
            InferenceError: there is a model, and it cannot be run.
        """
        folder = Path(source)
        inside = folder / SLOTS_FOLDER
        self._source = inside if inside.is_dir() else folder
        self._is_file = self._source.suffix == ".onnx"
        self._threads = threads
        self._window = window
        self._clock = clock
        self._reloading = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        # Replaced as a whole, so that a call uses one model from beginning to end.
        self._loaded: LoadedModel | None = None
        self.reload_if_changed()

    @property
    def digest(self) -> str:
        """Digest of the model that answers now, or ""."""
        loaded = self._loaded
        return loaded.manifest.digest if loaded else ""

    @property
    def manifest(self) -> ModelManifest | None:
        """Manifest of the model that answers now."""
        loaded = self._loaded
        return loaded.manifest if loaded else None

    def reload_if_changed(self) -> bool:
        """Take over the model that is current on the disk, and tell whether it is another one.

        The new model is loaded and warmed up before it replaces the old one; calls under way finish
        on the old one. If it cannot be loaded the old one goes on answering.

        Raises:
            InferenceError: the new model cannot be run.
        """
        if self._mark() == self._seen:
            return False
        with self._reloading:
            mark = self._mark()
            if mark == self._seen:
                return False
            found = self._read()
            before = self._loaded
            if found is None:
                self._loaded = None
            elif before is None or before.manifest != found[0]:
                self._seen = mark  # a model that cannot be run is tried, and complained of, once
                loaded = load_model(found[1], found[0], threads=self._threads)
                for _ in range(WARM_UP_CALLS):
                    loaded.outputs(loaded.zeros())
                self._loaded = loaded
            self._seen = mark
            return self._loaded is not before

    def predict(self, x: Array) -> Decoded:
        """Return labels, values and confidences for float32 inputs (N, ...).

        Raises:
            NoModelError: the device has no model yet, or it was taken away.
            InputError: the model does not take this input.
            ModelFileError: ONNX Runtime failed on this model.
        """
        loaded = self._require()
        loaded.check(x)
        started = self._clock()
        decoded = loaded.decode(x)
        took = self._clock() - started
        if self._window is not None:
            self._window.record(loaded.manifest.digest, loaded.task, decoded, took)
        return decoded

    def outputs(self, x: Array) -> Array:
        """Return the raw outputs for float32 inputs (N, ...).

        Raises:
            InferenceError: as `predict`.
        """
        loaded = self._require()
        loaded.check(x)
        return loaded.outputs(x)

    def measure_latency(self, x: Array, calls: int = 50) -> tuple[float, float]:
        """Return the median and the 95th percentile of the seconds of one call.

        Args:
            x: the input of every call; one sample for the latency that is reported.
            calls: how many to time, after warming up.

        Raises:
            InferenceError: as `predict`.
        """
        loaded = self._require()
        loaded.check(x)
        seconds = []
        for call in range(WARM_UP_CALLS + calls):
            started = self._clock()
            loaded.decode(x)
            if call >= WARM_UP_CALLS:
                seconds.append(self._clock() - started)
        return percentiles(seconds)

    def measure(self, samples: Samples) -> Measurement:
        """Return score and confidence on samples whose targets are known.

        Raises:
            InferenceError: as `predict`.
        """
        loaded = self._require()
        x = np.ascontiguousarray(samples.x, dtype=np.float32)
        loaded.check(x)
        outputs = loaded.outputs(x)
        decoded = loaded.task.decode(outputs, x)
        return Measurement(
            loaded.task.score(outputs, samples.y), float(decoded.confidence.mean()), len(samples)
        )

    def evaluate(self, samples: Samples) -> float:
        """Return the task's score on samples whose targets are known, higher is better.

        Raises:
            InferenceError: as `predict`.
        """
        return self.measure(samples).score

    def _require(self) -> LoadedModel:
        loaded = self._loaded
        if loaded is None:
            raise NoModelError(
                f"no model in {self._source} yet; the agent installs one when the device has"
                " earned it, see `slimfleet status`"
            )
        return loaded

    def _mark(self) -> tuple[int, ...]:
        """Return what changes whenever the current model may have changed."""
        path = self._source if self._is_file else self._source / STATE_FILE
        try:
            found = os.stat(path)  # noqa: PTH116 - before every call; half the time of Path.stat
        except FileNotFoundError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> tuple[ModelManifest, bytes] | None:
        try:
            return _read_pair(self._source) if self._is_file else _read_slots(self._source)
        except (DamagedFileError, NotInstalledError, OSError, DecodeError) as error:
            raise ModelFileError(f"the model in {self._source} cannot be read: {error}") from error


def _read_slots(folder: Path) -> tuple[ModelManifest, bytes] | None:
    for _ in range(READ_ATTEMPTS - 1):
        try:
            return _pair(read_current(folder))
        except (NotInstalledError, FileNotFoundError):
            continue
    return _pair(read_current(folder))


def _pair(model: InstalledModel | None) -> tuple[ModelManifest, bytes] | None:
    return (model.manifest, model.read()) if model else None


def _read_pair(file: Path) -> tuple[ModelManifest, bytes]:
    manifest = decode_struct(file.with_name(MANIFEST_FILE).read_bytes(), ModelManifest)
    return manifest, read_checked(file, manifest.digest)
