"""What inference looked like lately, as counts that are small enough to send.

Only histograms and durations leave the device, never inputs or single outputs. The server compares
the histograms with the reference histogram of the model's manifest.
"""

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from broker.messages import Telemetry
from slimmable.task import Decoded, Task

KEPT_LATENCIES = 4096  # the newest calls stand for the window; 32 kB a model


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile, (0, 0) for no calls.

    The 95th is a duration that really occurred (nearest rank), not an interpolation.
    """
    if not seconds:
        return 0.0, 0.0
    p50, p95 = np.quantile(np.asarray(seconds), [0.5, 0.95], method="higher")
    return float(p50), float(p95)


@dataclass
class _Counts:
    inferences: int = 0
    classes: Counter[int] = field(default_factory=Counter)
    confidence: Counter[int] = field(default_factory=Counter)
    class_count: int = 0
    bin_count: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))


class TelemetryWindow:
    """Counts inferences per model since the last `drain`; any thread may record."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._lock = threading.Lock()
        self._models: dict[str, _Counts] = {}

    def record(self, digest: str, task: Task, decoded: Decoded, seconds: float) -> None:
        """Count one call.

        Args:
            digest: which model answered.
            task: how it was decoded.
            decoded: its answers.
            seconds: how long the call took.
        """
        histograms = task.reference(decoded)
        with self._lock:
            counts = self._models.setdefault(digest, _Counts())
            counts.inferences += len(decoded.label)
            counts.classes.update(dict(enumerate(histograms.classes)))
            counts.confidence.update(dict(enumerate(histograms.confidence)))
            counts.class_count = max(counts.class_count, len(histograms.classes))
            counts.bin_count = len(histograms.confidence)
            counts.latencies.append(seconds)

    def drain(self, *, memory_bytes: int = 0, outbox: int = 0) -> list[Telemetry]:
        """Return one message per model that answered, oldest first, and start anew.

        The caller stamps session, sequence and time. Nothing recorded gives an empty list.

        Args:
            memory_bytes: resident memory of the agent now.
            outbox: updates that wait for a receipt now.
        """
        with self._lock:
            models, self._models = self._models, {}
        return [_message(digest, c, memory_bytes, outbox) for digest, c in models.items()]


def _message(digest: str, counts: _Counts, memory_bytes: int, outbox: int) -> Telemetry:
    p50, p95 = percentiles(list(counts.latencies))
    return Telemetry(
        running=digest,
        inferences=counts.inferences,
        latency_p50_s=p50,
        latency_p95_s=p95,
        classes=tuple(counts.classes[index] for index in range(counts.class_count)),
        confidence=tuple(counts.confidence[index] for index in range(counts.bin_count)),
        memory_bytes=memory_bytes,
        outbox=outbox,
    )
