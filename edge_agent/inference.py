"""Run the device's current model, on the device's own data.

For an application beside the agent::

    predictor = Predictor("/var/lib/slimfleet/agent", auto_reload=True)
    answer = predictor.predict(x)  # float32 (N, ...)

A newly deployed model replaces the old one without dropping a call: each call uses one model from
beginning to end, and says which.
"""

import time
from _thread import allocate_lock  # what threading.Lock is, without the import of threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from broker.manifest import ModelManifest
from edge_agent.answers import Measurement, Prediction
from edge_agent.model_source import Mark, ModelSource, PathLike, is_settled
from edge_agent.runtime import (
    BATCH,
    InferenceError,
    InputError,
    Inputs,
    LoadedModel,
    ModelFileError,
    NoModelError,
    load_model,
)
from slimmable.task import Array

if TYPE_CHECKING:
    from edge_agent.telemetry import TelemetryWindow
    from slimmable.samples import Samples

# What a program needs; `from edge_agent import ...` finds it here.
__all__ = [
    "ClosedError",
    "InferenceError",
    "InputError",
    "Measurement",
    "ModelFileError",
    "NoModelError",
    "Prediction",
    "Predictor",
]

WARM_UP_CALLS = 3  # before latency is measured
READ_ATTEMPTS = 3  # the agent may deploy, and collect the model just named, while we read


class ClosedError(InferenceError):
    """The predictor was closed. Make a new one."""


class Predictor:
    """The current model of a device, ready to answer. Methods may be called from any thread."""

    def __init__(
        self,
        source: PathLike,
        *,
        auto_reload: bool = False,
        threads: int = 1,
        spinning: bool = False,
        batch_size: int = BATCH,
        warm_up: Sequence[int] = (1,),
        window: "TelemetryWindow | None" = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Load the current model, if there is one yet.

        Args:
            source: the agent's folder, its slots, or an ONNX file beside its manifest, such as
                ``slimfleet export`` writes.
            auto_reload: take over a new model at the call that finds it, instead of at
                `reload_if_changed`. That call waits for it, calls of other threads do not; a new
                model that cannot be run is logged once, and the old one goes on.
            threads: that share the work of one call. More than one pays for large models on
                machines that do nothing else.
            spinning: threads wait for work in a loop: less latency, and a core kept busy. Of use
                with several threads only.
            batch_size: longer inputs are answered in parts of so many samples.
            warm_up: batch sizes that a model answers once before it is taken over; the sizes of
                your calls. Empty for none.
            window: counts what `predict` answers.
            clock: for latencies.

        Raises:
            ValueError: a number is below 1.
            InferenceError: there is a model, and it cannot be run.
        """
        if min(threads, batch_size, *warm_up) < 1:
            raise ValueError(
                f"threads {threads}, batch_size {batch_size}, warm_up {tuple(warm_up)}: all must be"
                " at least 1"
            )
        self._source = ModelSource(source)
        self._auto_reload = auto_reload
        self._threads = threads
        self._spinning = spinning
        self._batch = batch_size
        self._warm_up = tuple(warm_up)
        self._window = window
        self._clock = clock
        self._reloading = allocate_lock()
        self._closed = False
        self._seen: Mark | None = None
        self._trouble: tuple[type[InferenceError], str] | None = None
        # Replaced as a whole, so that a call uses one model from beginning to end.
        self._loaded: LoadedModel | None = None
        self.reload_if_changed()

    def __enter__(self) -> Self:
        """Return the predictor, for ``with``."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give the model's memory back; calls under way finish. Doing so twice is harmless."""
        with self._reloading:
            self._closed = True
            self._loaded = None

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

    def require_model(self) -> ModelManifest:
        """Return the manifest of the model that answers now.

        Raises:
            InferenceError: there is none; the message says why.
        """
        return self._current().manifest

    def reload_if_changed(self) -> bool:
        """Take over the model that is current on the disk, and tell whether it is another one.

        The new model is loaded and warmed up before it replaces the old one; calls under way finish
        on the old one. If it cannot be loaded the old one goes on answering.

        Raises:
            InferenceError: the new model cannot be run, or the predictor is closed.
        """
        self._require_open()
        if self._source.mark() == self._seen:
            return False
        with self._reloading:
            self._require_open()
            return self._reload()

    def predict(self, inputs: Inputs) -> Prediction:
        """Return labels, values and confidences, and which model gave them.

        Args:
            inputs: (N, ...) of the model's type; a dict by name where it takes several.

        Raises:
            NoModelError: the device has no model yet, or it was taken away.
            InputError: the model does not take this input.
            ModelFileError: ONNX Runtime failed on this model.
            ClosedError: the predictor is closed.
        """
        loaded = self._current()
        feed = loaded.feed(inputs)
        started = self._clock()
        decoded = loaded.decode(feed)
        took = self._clock() - started
        if self._window is not None:
            self._window.record(loaded.manifest.digest, loaded.task, decoded, took)
        return Prediction(decoded.label, decoded.value, decoded.confidence, loaded.manifest)

    def outputs(self, inputs: Inputs) -> Array:
        """Return the raw values (N, ...) of the output that `predict` reads.

        Args:
            inputs: as for `predict`.

        Raises:
            InferenceError: as `predict`.
        """
        loaded = self._current()
        return loaded.outputs(loaded.feed(inputs))

    def all_outputs(self, inputs: Inputs) -> dict[str, Array]:
        """Return the raw values of every output by its name.

        Args:
            inputs: as for `predict`.

        Raises:
            InferenceError: as `predict`.
        """
        loaded = self._current()
        return loaded.all_outputs(loaded.feed(inputs))

    def measure_latency(self, inputs: Inputs, calls: int = 50) -> tuple[float, float]:
        """Return the median and the 95th percentile of the seconds of one call.

        Args:
            inputs: of every call; one sample for the latency that is reported.
            calls: how many to time, after warming up.

        Raises:
            InferenceError: as `predict`.
        """
        from edge_agent.telemetry import percentiles

        loaded = self._current()
        feed = loaded.feed(inputs)
        seconds = []
        for call in range(WARM_UP_CALLS + calls):
            started = self._clock()
            loaded.decode(feed)
            if call >= WARM_UP_CALLS:
                seconds.append(self._clock() - started)
        return percentiles(seconds)

    def measure(self, samples: "Samples") -> Measurement:
        """Return score and confidence on samples whose targets are known.

        Raises:
            InferenceError: as `predict`.
        """
        loaded = self._current()
        x = loaded.converted(samples.x)
        outputs = loaded.outputs(loaded.feed(x))
        decoded = loaded.task.decode(outputs, x)
        return Measurement(
            loaded.task.score(outputs, samples.y), float(decoded.confidence.mean()), len(samples)
        )

    def evaluate(self, samples: "Samples") -> float:
        """Return the task's score on samples whose targets are known, higher is better.

        Raises:
            InferenceError: as `predict`.
        """
        return self.measure(samples).score

    # --- which model ----------------------------------------------------------------------------

    def _current(self) -> LoadedModel:
        """Return the model to answer one call with."""
        if self._auto_reload:
            self._reload_unless_busy()
        loaded = self._loaded
        if loaded is not None:
            return loaded
        self._require_open()
        if self._trouble is not None:
            kind, said = self._trouble
            raise kind(said)
        raise NoModelError(
            f"no model in {self._source.place} yet; the agent installs one when the device has"
            " earned it, see `slimfleet status`"
        )

    def _reload_unless_busy(self) -> None:
        """Reload if something changed and no other thread is at it; the old model never stops."""
        try:
            if self._source.mark() == self._seen:
                return
            # Only who has no model to answer with waits for the thread that loads one.
            if not self._reloading.acquire(blocking=self._loaded is None):
                return
            try:
                if not self._closed:
                    self._reload()
            finally:
                self._reloading.release()
        except InferenceError as error:
            import logging  # takes 2 ms, which most programs never need

            logging.getLogger(__name__).error("the model before goes on: %s", error)

    def _reload(self) -> bool:
        """Take over what is on the disk; the lock is held."""
        before = self._loaded
        for attempt in range(1, READ_ATTEMPTS + 1):
            mark = self._source.mark()
            if mark == self._seen:
                break
            try:
                self._loaded = self._read(before)
            except InferenceError as error:
                if attempt < READ_ATTEMPTS and self._source.mark() != mark:
                    continue  # what could not be read is not the current model any more
                # Complained of once. The error itself would keep the old model in memory.
                self._seen, self._trouble = mark, (type(error), str(error))
                raise
            self._trouble = None
            self._seen = mark if is_settled(mark) else None
            if self._source.mark() == mark:
                break
        return self._loaded is not before

    def _read(self, before: LoadedModel | None) -> LoadedModel | None:
        found = self._source.read()
        if found is None:
            return None
        manifest, file = found
        if before is not None and before.manifest == manifest:
            return before
        self._source.check(manifest, file)
        loaded = load_model(
            file, manifest, threads=self._threads, spinning=self._spinning, batch=self._batch
        )
        for samples in self._warm_up:
            loaded.outputs(loaded.zeros(samples))
        return loaded

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the predictor was closed; make a new one")
