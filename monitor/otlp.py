"""Metrics for an OpenTelemetry collector: OTLP over HTTP, protobuf.

Same names, labels and values as for Prometheus. Counters are cumulative since the campaign began;
a family that is text becomes a gauge of 1 with the text as attributes.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from monitor.histogram import BOUNDS_S
from monitor.metric import Family, Kind

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric, MetricsData

NANOSECONDS = 1_000_000_000
SERVICE = "slimfleet"
# Suffix of a name -> unit, as OpenTelemetry writes it (UCUM).
UNITS = {"seconds": "s", "bytes": "By", "celsius": "Cel", "ratio": "1"}


REASON_LIMIT = 200
"""Characters of what the SDK says about a failure; it quotes whole chains of errors."""


class ExportError(Exception):
    """The collector did not take the metrics. The message says where and what to check."""


class OtlpExporter:
    """Sends metrics to one collector."""

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        """Prepare to send; nothing is sent yet.

        Args:
            url: of the collector's receiver of metrics, http(s)://host:4318/v1/metrics.
            timeout_s: of one export, with its repetitions.

        Raises:
            ModuleNotFoundError: OpenTelemetry is not installed: it is in the extra ``otel``.
        """
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        self._url, self._timeout_s = url, timeout_s
        self._exporter = OTLPMetricExporter(endpoint=url, timeout=timeout_s)
        # The SDK tells why only in its log. That is ours to tell, in one line.
        self._stopped = False
        self._said = _FirstWord()
        self._log = logging.getLogger("opentelemetry")
        self._log.addHandler(self._said)
        self._log.propagate = False

    def send(self, found: Sequence[Family], now: float, *, since: float, fleet: str) -> None:
        """Send the metrics once.

        Args:
            found: from `monitor.metrics.families`.
            now: time of the values, seconds since the epoch.
            since: from when on counters count.
            fleet: name, an attribute of the resource.

        Raises:
            ExportError: the collector did not take them.
        """
        from opentelemetry.sdk.metrics.export import MetricExportResult

        self._said.text = ""
        data = metrics_data(found, now, since=since, fleet=fleet)
        try:
            result = self._exporter.export(data, timeout_millis=self._timeout_s * 1000)
        except Exception as error:  # of its transport: whatever that may be
            raise ExportError(self._in_words(str(error))) from error
        if result is not MetricExportResult.SUCCESS:
            raise ExportError(self._in_words(self._said.text or "not taken"))

    def stop(self) -> None:
        """Let an export that is tried again and again in another thread end with an error."""
        if not self._stopped:
            self._stopped = True
            self._exporter.shutdown()

    def close(self) -> None:
        """Let go of the connection; no export may be under way."""
        self.stop()
        self._log.removeHandler(self._said)
        self._log.propagate = True

    def _in_words(self, what: str) -> str:
        return (
            f"{self._url}: {what[:REASON_LIMIT]}; check that a collector receives OTLP over HTTP"
            " there, and that the path is right (mostly /v1/metrics)"
        )


class _FirstWord(logging.Handler):
    """Keeps the first complaint of an export: the later ones say that it was tried again."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.levelno >= logging.WARNING:
            self.text = self.text or record.getMessage()


def metrics_data(found: Sequence[Family], now: float, *, since: float, fleet: str) -> "MetricsData":
    """Return families in OpenTelemetry's data model; those without values are left out.

    Args:
        found: from `monitor.metrics.families`.
        now: time of the values, seconds since the epoch.
        since: from when on counters count.
        fleet: name, an attribute of the resource.
    """
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    start, time = int(since * NANOSECONDS), int(now * NANOSECONDS)
    metrics = [_converted(one, start, time) for one in found if one.values or one.histogram]
    scope = ScopeMetrics(InstrumentationScope(SERVICE), metrics, schema_url="")
    resource = Resource({"service.name": SERVICE, "service.namespace": fleet})
    return MetricsData([ResourceMetrics(resource, [scope], schema_url="")])


def _converted(found: Family, start: int, time: int) -> "Metric":
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Histogram,
        HistogramDataPoint,
        Metric,
        NumberDataPoint,
        Sum,
    )

    metric, cumulative = found.metric, AggregationTemporality.CUMULATIVE
    data: Any
    if found.histogram is not None:
        bars = found.histogram
        point = HistogramDataPoint(
            attributes={},
            start_time_unix_nano=start,
            time_unix_nano=time,
            count=bars.count,
            sum=bars.total,
            bucket_counts=list(bars.counts),
            explicit_bounds=list(BOUNDS_S),
            min=None,  # type: ignore[arg-type]  # optional on the wire, and not known here
            max=None,  # type: ignore[arg-type]
        )
        data = Histogram([point], cumulative)
    else:
        points = [
            NumberDataPoint(dict(zip(metric.labels, at, strict=True)), start, time, value)
            for at, value in found.values.items()
        ]
        counts = metric.kind is Kind.COUNTER
        data = Sum(points, cumulative, is_monotonic=True) if counts else Gauge(points)
    return Metric(metric.name, metric.help, _unit(metric.name), data)


def _unit(name: str) -> str:
    base = name.removesuffix("_total").rpartition("_")[2]
    return UNITS.get(base, "")
