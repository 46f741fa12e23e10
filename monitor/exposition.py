"""Metrics as Prometheus reads them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from monitor.device_data import Seen
from monitor.fleet_view import FleetView
from monitor.metric import Family, Kind
from monitor.metrics import DEVICE_LIMIT, families

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as PrometheusMetric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    view: FleetView, seen: Seen, *, device_limit: int = DEVICE_LIMIT, version: str = ""
) -> bytes:
    """Return all metrics in Prometheus' text format, version 0.0.4; see `CONTENT_TYPE`.

    Args:
        view: of the fleet.
        seen: what the view does not hold itself.
        device_limit: up to so many devices that are not retired each has its own series.
        version: of the software that serves the metrics.

    Raises:
        ModuleNotFoundError: prometheus-client is not installed: it is in the extra ``monitor``.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    found = families(view, seen, device_limit=device_limit, version=version)

    class Once(Collector):
        def collect(self) -> Iterator["PrometheusMetric"]:
            return map(_converted, found)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry)


def _converted(found: Family) -> "PrometheusMetric":
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )

    metric, labels = found.metric, found.metric.labels
    if metric.kind is Kind.HISTOGRAM:
        assert found.histogram is not None
        bars = HistogramMetricFamily(metric.name, metric.help, labels=labels)
        buckets = [(f"{end:g}".replace("inf", "+Inf"), n) for end, n in found.histogram.cumulative]
        bars.add_metric([], buckets, found.histogram.total)
        return bars
    if metric.kind is Kind.INFO:
        info = InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
        for at in found.values:
            info.add_metric([], dict(zip(labels, at, strict=True)))
        return info
    made = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    one: CounterMetricFamily | GaugeMetricFamily = made(metric.name, metric.help, labels=labels)
    for at, value in found.values.items():
        one.add_metric(at, value)
    return one
